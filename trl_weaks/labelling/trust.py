"""Weights that say, for every text, how far each supervisor's vote is to be trusted there."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset

from .. import columns
from ..aggregation.trust import TrustHead
from ..supervisors.classifier import WeakClassifier
from ..supervisors.ensemble import WeakEnsemble
from .gold import Gold, class_id, class_names, read_gold


def trust_weights(
    ensemble: WeakEnsemble, labels: Dataset, known: Dataset, gold: Gold, l2: float | None = None
) -> Dataset:
    r"""The labels with weights $w_i(x)$ for every text: each supervisor's, times the trust in its vote, normalised.

    For each supervisor a [`TrustHead`] learns on `known`, whose gold is there (half A of a weak-to-strong
    experiment), in which states of its own its vote is right; on `labels` it says how likely the vote is right. The
    trainer uses the weights as they are, and `weak_trust` keeps the probabilities. After arXiv 2606.01000, which keeps
    the most trusted labels of one supervisor; weights among several are *ours*.

    Args:
        ensemble: the `WeakClassifier`s that gave the votes.
        labels: what `label_classes(ensemble, ...)` made, to be weighted.
        known: what it made of other texts, some with gold. Supervisors are more often right on texts they were trained
            on than elsewhere: gold that they have not seen is better.
        gold: of `known`: rows of `example_id` and `label`, or a mapping from ids to class names or places.
        l2: strength of the heads' ridge; None for cross-validation.

    Raises:
        ValueError: before any work: votes of other supervisors, classes in another order, a text that is in both, or
            fewer than two gold labels (named).

    Example: `docs/howto/trust.md`.
    """
    for name, part in (("labels", labels), ("known", known)):
        _check(part, name, ensemble)
    classes, column = class_names(labels, len(labels[0][columns.WEAK_PROBS][0])), _text_column(labels, "labels")
    if class_names(known, len(classes)) != classes:
        raise ValueError(f"`known` lists the classes as {class_names(known, len(classes))}, `labels` as {classes}.")
    texts, learned = labels[column][:], known[_text_column(known, "known")][:]
    shared = {repr(text) for text in texts} & {repr(text) for text in learned}
    if shared:
        raise ValueError(f"the text {min(shared)} is in `labels` and in `known`; its gold would leak. Remove it.")
    place = {example: row for row, example in enumerate(known[columns.EXAMPLE_ID])}
    truth = {place[e]: class_id(label, classes, e) for e, label in read_gold(gold, place).items()}
    if len(truth) < 2:
        raise ValueError("gold: two labels or more are needed to learn from; some hundreds are better.")
    rows, right = sorted(truth), torch.tensor([truth[row] for row in sorted(truth)])
    votes = torch.tensor(np.asarray(known[columns.WEAK_PROBS][:], dtype=float))[rows].argmax(-1)
    trust = []
    for i, supervisor in enumerate(ensemble.supervisors):
        head = TrustHead(l2).fit(supervisor.hidden_states([learned[row] for row in rows]), votes[:, i] == right)
        trust.append(head(supervisor.hidden_states(texts)))
    return _weighted(labels, torch.stack(trust, -1), ensemble.weights)


def _weighted(labels: Dataset, trust: torch.Tensor, weights: Sequence[float]) -> Dataset:
    shares = trust * torch.tensor(weights, dtype=trust.dtype)
    shares = shares / shares.sum(-1, keepdim=True)
    made = labels.remove_columns([c for c in (columns.WEIGHTS, columns.TRUST) if c in labels.column_names])
    made = made.add_column(columns.WEIGHTS, shares.tolist())
    return made.add_column(columns.TRUST, trust.tolist())


def _check(labels: Dataset, name: str, ensemble: WeakEnsemble) -> None:
    strange = [s.name for s in ensemble.supervisors if not isinstance(s, WeakClassifier)]
    if strange:
        raise ValueError(f"supervisor {strange[0]!r} is no `WeakClassifier`; trust heads read classifiers' states.")
    missing = {columns.EXAMPLE_ID, columns.WEAK_PROBS, columns.SUPERVISORS} - set(labels.column_names)
    if missing or not len(labels):
        raise ValueError(
            f"`{name}` is empty, or lacks the columns {sorted(missing)}; make it by `label_classes` of this ensemble."
        )
    for row, names in enumerate(labels[columns.SUPERVISORS]):
        if list(names) != list(ensemble.names):
            raise ValueError(
                f"`{name}`, row {row}, column {columns.SUPERVISORS!r}: votes of {names}, not of {ensemble.names}; "
                "label the texts with this ensemble."
            )


def _text_column(labels: Dataset, name: str) -> str:
    found = [c for c in (columns.TEXT, columns.PROMPT) if c in labels.column_names]
    if not found:
        raise ValueError(f"`{name}` has no column {columns.TEXT!r} or {columns.PROMPT!r}.")
    return found[0]
