"""Iterative label refinement: the committee replaces labels by answers of students that never saw them.

After arXiv 2501.07886 (abstract read; the cross-labelling is from memory). One round: the labels are split in two
halves, a student is trained on each and answers the prompts of the other; a judge compares label and answer;
of the answers it prefers, at most a share take the labels' place; the student is trained again from its base.
With l the old label, a the new answer and J Eq. 6 of arXiv 2406.03199, the weighted mean log-probability per token
under the committee, a replaces l where J(a) > J(l), and J(a) - J(l) is among the largest share of such gains.

The paper has one weak judge, asked which of two it prefers; that the committee's joint score judges, the share, and
the single round are *ours*. It reports that with unreliable demonstrations and comparisons DPO does not improve on
fine-tuning, and that refinement does (GSM8K, BIRD, SaferPaca).

Completions only: of two classes a committee prefers its own label always, so nothing would ever be replaced.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from .. import columns
from ..aggregation.base import NotComputable
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.reading.messages import Prompt, as_completion

SHARE = 0.5  # of the labels, the most that a round replaces. *ours*: the paper has such a share, its value not found


@dataclass(frozen=True)
class Proposal:
    """An answer that may take a label's place, as the committee reads it.

    Args:
        text: the answer, which has an end.
        offsets, logps: by supervisor: characters and log-probabilities of its tokens, as in the columns of labels.
        score: joint score, nats per token.
    """

    text: str
    offsets: Mapping[str, list[tuple[int, int]]]
    logps: Mapping[str, list[float]]
    score: float


def cross_halves(labels: Dataset, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The labels in two halves, drawn by example; of an odd number the first is larger.

    Raises:
        NotComputable: fewer than two examples.
    """
    ids = sorted(set(labels[columns.EXAMPLE_ID][:]))
    if len(ids) < 2:
        raise NotComputable(f"refinement splits the labels in two halves; there is {len(ids)} example.")
    drawn = np.random.default_rng(seed).permutation(len(ids))[: -(-len(ids) // 2)]
    first = {ids[place] for place in drawn}
    rows: tuple[list[int], list[int]] = ([], [])
    for row, example in enumerate(labels[columns.EXAMPLE_ID][:]):
        rows[example not in first].append(row)
    return labels.select(rows[0]), labels.select(rows[1])


def proposals(
    ensemble: WeakEnsemble,
    examples: Sequence[str],
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[str, bool]],
) -> dict[str, Proposal]:
    """Example id -> its new answer, read by every supervisor; none that is empty, cut, or too long for one of them.

    Args:
        answers: (text, whether finished) of each prompt, of a student that was not trained on its label.

    Raises:
        ValueError: unequal lengths.
    """
    rows = list(zip(examples, prompts, answers, strict=True))
    rows = [(example, prompt, text) for example, prompt, (text, finished) in rows if text and finished]
    if not rows:
        return {}
    names, asked, texts = ([row[i] for row in rows] for i in range(3))
    said = [as_completion(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    read = {one.name: one.score_fitting(asked, said, names) for one in ensemble.supervisors}
    weights = dict(zip(ensemble.names, ensemble.weights, strict=True))
    found = {}
    for place, (example, _, text) in enumerate(rows):
        scored = {name: scores[place] for name, scores in read.items()}
        kept = {name: score for name, score in scored.items() if score is not None}
        if len(kept) == len(scored):
            offsets = {name: score.offsets for name, score in kept.items()}
            logps = {name: [min(logp, 0.0) for logp in score.logps] for name, score in kept.items()}
            joint = math.fsum(weights[name] * score.mean_logp for name, score in kept.items())
            found[example] = Proposal(text, offsets, logps, joint)
    return found


def refined(
    labels: Dataset, proposed: Mapping[str, Proposal], weights: Mapping[str, float], share: float = SHARE
) -> tuple[Dataset, dict[str, float]]:
    """The labels of which at most a share are replaced by what the committee prefers, the clearest cases first.

    Args:
        labels: one row for each example, such as those of `label_completions(mode="joint")`.
        proposed: by example id, from [`proposals`]; where there is none, or the same text, the label stays.
        weights: of the supervisors, as the new rows have them.
        share: in (0, 1].

    Returns:
        The labels, in their order, and what was counted: `labels`, `proposed`, `same`, `preferred`, `replaced`, and
        `mean_gain` (nats per token, of the replaced).

    Raises:
        ValueError: a share outside (0, 1], labels without `weak_score`, or two rows of one example.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} of the labels must lie in (0, 1].")
    if columns.SCORE not in labels.column_names:
        raise ValueError(f"the labels have no column {columns.SCORE!r}, which the committee compares: label anew.")
    ids = labels[columns.EXAMPLE_ID][:]
    double = next((example for number, example in enumerate(ids) if example in ids[:number]), None)
    if double is not None:
        raise ValueError(f"example_id {double!r} has several labels; refinement takes one each (mode='joint').")
    gains, same = {}, 0
    for row, (example, text, score) in enumerate(
        zip(ids, labels[columns.COMPLETION][:], labels[columns.SCORE][:], strict=True)
    ):
        new = proposed.get(example)
        if new is None:
            continue
        same += new.text == _text(text)
        if new.text != _text(text) and new.score > (-math.inf if score is None else score):
            gains[row] = new.score - (-math.inf if score is None else score)
    chosen = sorted(gains, key=lambda row: (-gains[row], row))[: math.floor(share * len(labels) + 1e-9)]
    replaced = set(chosen)
    rows = [
        _replaced(row, proposed[row[columns.EXAMPLE_ID]], weights) if number in replaced else row
        for number, row in enumerate(labels)
    ]
    counts = {"labels": len(labels), "proposed": len(proposed), "same": same, "preferred": len(gains)}
    known = [gains[row] for row in chosen if math.isfinite(gains[row])]
    told = counts | {"replaced": len(chosen), "mean_gain": math.fsum(known) / len(known) if known else math.nan}
    return Dataset.from_list(rows, features=labels.features), told


def _replaced(row: dict, new: Proposal, weights: Mapping[str, float]) -> dict:
    names = list(new.logps)
    changed = {
        columns.COMPLETION: as_completion(row[columns.PROMPT], new.text),
        columns.SUPERVISORS: names,
        columns.WEIGHTS: [weights[name] for name in names],
        columns.OFFSETS: [[list(span) for span in new.offsets[name]] for name in names],
        columns.LOGPS: [list(new.logps[name]) for name in names],
        columns.SCORE: new.score,
        columns.FINISHED: True,
        columns.CONFIDENCE_SOURCE: ["logprobs"] * len(names),
        columns.TOP_LOGPS: [None] * len(names),
        columns.TRUST: [None] * len(names),  # no trust head has read this answer
    }
    return row | {name: value for name, value in changed.items() if name in row}


def _text(completion: str | Sequence[Mapping[str, str]]) -> str:
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
