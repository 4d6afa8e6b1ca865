"""Selective weak-to-strong: the student's own label where it knows, the supervisors' elsewhere."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from ... import columns
from ...aggregation.base import NotComputable
from ...aggregation.graph import smoothed
from ...aggregation.trust import TrustHead
from .trained import TrainedStudent, check_classes, mean_votes, texts_of, with_one_vote

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selective:
    """
    After arXiv 2511.14166 (AAAI-26; SciQ, BoolQ, CosmosQA), whose code and numbers we have not seen:

    1. P(IK), the probability that the student knows: a linear probe on its hidden state (Kadavath et al., 2022), here
       a [`TrustHead`], learnt where gold is known: is the student's own label right there?
    2. Where P(IK) is at least `threshold` on a text to train on, its label is the student's own.
    3. Elsewhere it is the mean vote, smoothed over the graph of nearest neighbours in the student's states.

    The paper's student answers by prompts before any training; here, a classifier, it was trained on gold that the
    supervisors saw, too (*ours*). `weak_supervisors` says whose each label is, `"student"` or `"smoothed"`, and
    `weak_trust` is P(IK). Probes are reported to lose much from task to task (AUROC .86 to .61 there): learn on the
    task itself.

    For classes only: a smoothed completion would be no text. Cost beside the student that is trained: the one that is
    read, and its pass over the texts.

    Args:
        threshold: of P(IK), in [0, 1]; above 1 would be never. 0.5 is *ours*
        neighbours, strength: of the graph, see `smoothed`. 10 and 0.8 are *ours*
        l2: of the probe, None for cross-validation.
    """

    threshold: float = 0.5
    neighbours: int = 10
    strength: float = 0.8
    l2: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} is no probability.")
        smoothed(np.ones((1, 1)), np.ones((1, 1)), self.neighbours, self.strength)
        TrustHead(self.l2)

    def __call__(self, labels: Dataset, trained: TrainedStudent) -> Dataset:
        """
        Raises:
            ValueError: no votes of the student's classes.
            NotComputable: fewer than two examples with gold.
        """
        who = type(self).__name__
        check_classes(labels, trained, who)
        texts, student = texts_of(labels, who), trained.student
        examples = trained.known
        gold = examples[columns.LABEL][:] if columns.LABEL in examples.column_names else []
        there = [row for row, one in enumerate(gold) if one is not None and one >= 0]  # -1 and None: no gold
        examples, gold = examples.select(there), [gold[row] for row in there]
        if len(gold) < 2:
            raise NotComputable(
                f"{who}: {len(gold)} known examples have gold; two are needed, and some hundreds better."
            )
        known = texts_of(examples, who)
        right = student.predict(known).classes == torch.tensor(gold)
        probe = TrustHead(self.l2).fit(student.hidden_states(known), right)
        states = student.hidden_states(texts)
        sure, own = probe(states).numpy(), student.predict(texts).probabilities.double().numpy()
        weak = smoothed(mean_votes(labels), states.numpy(), self.neighbours, self.strength)
        knows = sure >= self.threshold
        logger.info("%s: the student knows %d of %d texts.", who, knows.sum(), len(knows))
        votes = np.where(knows[:, None], own / own.sum(-1, keepdims=True), weak)
        made = with_one_vote(labels, votes.tolist(), ["student" if one else "smoothed" for one in knows])
        return made.add_column(columns.TRUST, [[float(value)] for value in sure])
