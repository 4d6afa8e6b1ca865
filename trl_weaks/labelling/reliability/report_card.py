"""A report card of the supervisors behind a labelled dataset: how good, how sure, how alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ... import columns
from ...markdown import table
from ...metrics.agreement import right, top_shares
from ...metrics.calibration import brier_score, expected_calibration_error
from ...metrics.chance_corrected import (
    NONE,
    capa,
    cohen_kappa,
    effective_supervisors,
    fleiss_kappa,
    krippendorff_alpha,
)
from ...metrics.distances import levenshtein, words
from ...supervisors.class_names import class_id
from ...units import Offsets, logps_of_text
from ..sources.tables import plain_text, same_text
from .gold import Gold, class_names, gold_texts, read_gold
from .shared_ids import refuse_shared_ids
from .voters import supervisor_votes

CORRELATED = 0.6  # of the supervisors: below this share of independent ones a warning is due. *ours*


@dataclass
class SupervisorReport:
    """What [`supervisor_report`] found.

    Attributes:
        supervisors: one dict per supervisor: `supervisor`, `labelled`, `abstained`, `confidence` (mean over its labels
            of the probability of the class, or of the whole answer with its end), and with gold `accuracy`, `brier`,
            `calibration_error` (classes only), and `cost` where given.
        pairs: one dict per pair: `first`, `second`, `shared`, `agreement`, `cohen_kappa`, and `word_distance` (texts)
            or, with gold, `capa` (classes).
        committee: `fleiss_kappa`, `krippendorff_alpha`, with gold `effective_supervisors` (of `supervisors`).
        warnings: sentences on what to look at.
    """

    supervisors: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    committee: dict[str, float]
    warnings: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Tables and warnings to read; a number that is not defined is a dash."""
        parts = [_table(self.supervisors), _table(self.pairs)] if self.pairs else [_table(self.supervisors)]
        parts += [_table([self.committee])] if self.committee else []
        return "\n\n".join([*parts, *(f"**Note.** {sentence}" for sentence in self.warnings)]) + "\n"

    def figure(self, path: str | Path) -> None:
        """Accuracy (or labelled share) of each supervisor beside a matrix of their agreement beyond chance.

        Raises:
            ImportError: matplotlib is not installed (`pip install trl-weaks[plots]`).
        """
        from matplotlib.figure import Figure

        names = [row["supervisor"] for row in self.supervisors]
        picture = Figure(figsize=(3 + 1.1 * len(names), 0.9 + 0.55 * len(names)), layout="constrained")
        bars, matrix = picture.subplots(1, 2)
        shown = "accuracy" if "accuracy" in self.supervisors[0] else "confidence"
        bars.barh(names[::-1], [row[shown] for row in self.supervisors][::-1], color="#4c72b0")
        bars.set_xlim(0, 1)
        bars.set_xlabel("accuracy on gold" if shown == "accuracy" else "mean confidence")
        table = np.eye(len(names))
        for pair in self.pairs:
            i, j = names.index(pair["first"]), names.index(pair["second"])
            table[i, j] = table[j, i] = pair["cohen_kappa"]
        image = matrix.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
        matrix.set_xticks(range(len(names)), names, rotation=45, ha="right")
        matrix.set_yticks(range(len(names)), names)
        for i in range(len(names)):
            for j in range(len(names)):
                text = "–" if math.isnan(table[i, j]) else f"{table[i, j]:.2f}"
                matrix.text(j, i, text, ha="center", va="center", color="white" if abs(table[i, j]) > 0.6 else "black")
        picture.colorbar(image, ax=matrix, label="Cohen's kappa")
        picture.savefig(path, dpi=150)


def supervisor_report(
    labels: Dataset,
    gold: Gold | None = None,
    correct: Callable[[str, str], float] | None = None,
    cost: Mapping[str, float] | None = None,
) -> SupervisorReport:
    """How good, how sure and how alike the supervisors of a labelled dataset are.

    A vote on classes is for the most probable one. Where several tie, such as under a stated confidence of one half,
    it counts for each in equal parts: the numbers are those expected if one of them were drawn.

    Args:
        labels: what `label_classes` or `label_completions` (mode `"independent"`) wrote, or votes and answers read by
            `labels_from_votes` and `labels_from_completions`.
        gold: rows of `example_id` and `label` (or `completion`), or a mapping from ids to them; of any part of the
            examples. Without it, agreement alone is reported.
        correct: for completions, the quality in [0, 1] of `(answer, gold)`; by default whether they are equal up to
            white space at the ends and the encoding of accents, as answers are compared with each other.
        cost: what each supervisor cost, in any unit.

    Raises:
        ValueError: missing columns, gold whose ids or classes no label has, or an id that stands for two examples
            (named).

    Example:

    >>> from datasets import Dataset
    >>> labels = Dataset.from_dict({
    ...     "example_id": ["a", "b"],
    ...     "weak_supervisors": [["ann", "bob"], ["ann", "bob"]],
    ...     "weak_probs": [[[0.9, 0.1], [0.8, 0.2]], [[0.3, 0.7], [0.6, 0.4]]],
    ... })
    >>> [row["accuracy"] for row in supervisor_report(labels, {"a": 0, "b": 1}).supervisors]
    [1.0, 0.5]
    """
    if columns.WEAK_PROBS in labels.column_names:
        report = _of_classes(labels, gold)
    elif {columns.COMPLETION, columns.SUPERVISORS} <= set(labels.column_names):
        report = _of_completions(labels, gold, correct or same_text)
    else:
        raise ValueError(
            f"the labels have the columns {labels.column_names}; a report needs {columns.WEAK_PROBS!r} (classes) or "
            f"{columns.COMPLETION!r} and {columns.SUPERVISORS!r} (completions)."
        )
    for row in report.supervisors if cost else ():
        if row["supervisor"] not in cost:
            raise ValueError(f"cost has no entry for the supervisor {row['supervisor']!r}.")
        row["cost"] = cost[row["supervisor"]]
    report.warnings += _warnings(report)
    return report


def _of_classes(labels: Dataset, gold: Gold | None) -> SupervisorReport:
    refuse_shared_ids(labels, one_row=True)
    ids, (names, probs, _) = labels[columns.EXAMPLE_ID][:], supervisor_votes(labels, before_aggregation=True)
    given = ~np.isnan(probs).any(-1)
    votes = top_shares(probs)
    truth = None if gold is None else _aligned(ids, gold, class_names(labels, probs.shape[2]))
    rows, errors = [], np.full(given.shape, np.nan)
    for i, name in enumerate(names):
        row = {"supervisor": name, "labelled": int(given[:, i].sum()), "abstained": int((~given[:, i]).sum())}
        row["confidence"] = _mean(probs[given[:, i], i].max(-1)) if given[:, i].any() else math.nan
        if truth is not None:
            known = given[:, i] & (truth != NONE)
            hits = right(probs[known, i], truth[known])
            errors[known, i] = 1 - hits
            row |= {"accuracy": _mean(hits), "brier": math.nan, "calibration_error": math.nan}
            if known.any():
                row["brier"] = brier_score(probs[known, i], truth[known])
                row["calibration_error"] = expected_calibration_error(probs[known, i].max(-1).clip(0, 1), hits)
        rows.append(row)
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        pair = _pair(names[i], names[j], votes[:, i], votes[:, j])
        if truth is not None:
            known = given[:, i] & given[:, j] & (truth != NONE)
            pair["capa"] = capa(probs[known, i], probs[known, j], truth[known]) if known.any() else math.nan
        pairs.append(pair)
    return SupervisorReport(rows, pairs, _committee(votes, errors if truth is not None else None))


def _of_completions(labels: Dataset, gold: Gold | None, correct: Callable[[str, str], float]) -> SupervisorReport:
    refuse_shared_ids(labels)
    answers, sureness = _given(labels)
    names, ids = sorted(answers), sorted({example for given in answers.values() for example in given})
    plain = {n: {e: plain_text(text) for e, text in given.items()} for n, given in answers.items()}
    codes = {text: k for k, text in enumerate(sorted({t for given in plain.values() for t in given.values()}))}
    votes = np.array([[codes[plain[n][e]] if e in plain[n] else NONE for n in names] for e in ids])
    truth = None if gold is None else gold_texts(gold, set(ids))
    rows, errors = [], np.full(votes.shape, np.nan)
    for i, name in enumerate(names):
        given = answers[name]
        sure = [value for value in sureness[name] if not math.isnan(value)]
        row = {"supervisor": name, "labelled": len(given), "abstained": len(ids) - len(given)}
        row["confidence"] = _mean(sure) if sure else math.nan
        if truth is not None:
            scores = {e: correct(given[e], truth[e]) for e in given if e in truth}
            row["accuracy"] = _mean(list(scores.values())) if scores else math.nan
            for place, example in enumerate(ids):
                if example in scores:
                    errors[place, i] = 1 - scores[example]
        rows.append(row)
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        pair = _pair(names[i], names[j], votes[:, i], votes[:, j])
        shared = [
            (plain[names[i]][e], plain[names[j]][e]) for e in ids if e in plain[names[i]] and e in plain[names[j]]
        ]
        pair["word_distance"] = _mean([_symmetric_distance(*texts) for texts in shared]) if shared else math.nan
        pairs.append(pair)
    return SupervisorReport(rows, pairs, _committee(votes, errors if truth is not None else None))


def answer_confidence(logps: Sequence[float] | None, offsets: Offsets = ()) -> float | None:
    """The probability of an answer as a whole: the product over its tokens, its end among them; None of none.

    With the tokens' offsets, without those that a chat template wrote before the answer.

    So a stated confidence is given back as it was stated, whether the answer ended or was cut, and calibration speaks
    of the same number. Of token log-probabilities it falls with the length of the answer.

    Example:

    >>> answer_confidence([math.log(0.49), 0.0])
    0.49
    """
    return min(1.0, math.exp(math.fsum(logps_of_text(offsets, logps)))) if logps else None


def _given(labels: Dataset) -> tuple[dict[str, dict[str, str]], dict[str, list[float]]]:
    """By supervisor: the answers by example, and the confidence of each, NaN where none is known."""
    answers: dict[str, dict[str, str]] = {}
    sureness: dict[str, list[float]] = {}
    read = (columns.EXAMPLE_ID, columns.COMPLETION, columns.SUPERVISORS, columns.LOGPS, columns.OFFSETS)
    kept = [c for c in read if c in labels.features]
    for number, row in enumerate(labels.select_columns(kept)):
        example, text = row[columns.EXAMPLE_ID], row[columns.COMPLETION]
        text = text if isinstance(text, str) else text[-1]["content"]
        for i, name in enumerate(row[columns.SUPERVISORS]):
            if example in answers.setdefault(name, {}):
                raise ValueError(
                    f"Row {number} (example {example!r}), column {columns.SUPERVISORS!r}: {name!r} already answers "
                    "this example in an earlier row, and one of the two would not count. Keep one of them, or give "
                    "each labelling supervisors' names of its own."
                )
            answers[name][example] = text
            logps = (row.get(columns.LOGPS) or [None] * (i + 1))[i]
            sure = answer_confidence(logps, (row.get(columns.OFFSETS) or [()] * (i + 1))[i])
            sureness.setdefault(name, []).append(math.nan if sure is None else sure)
    return answers, sureness


def _symmetric_distance(first: str, second: str) -> float:
    """Word edits over the mean number of words of the two: 0 for equal texts."""
    a, b = words(first), words(second)
    return 2 * levenshtein(a, b) / (len(a) + len(b)) if a or b else 0.0


def _pair(first: str, second: str, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    if a.ndim == 1:
        shared, same = (a != NONE) & (b != NONE), a == b
    else:  # what a vote counts for each class
        shared, same = ~np.isnan(a + b).any(-1), (a * b).sum(-1)
    agreement = _mean(same[shared]) if shared.any() else math.nan
    found = {"first": first, "second": second, "shared": int(shared.sum()), "agreement": agreement}
    return found | {"cohen_kappa": cohen_kappa(a, b)}


def _committee(votes: np.ndarray, errors: np.ndarray | None) -> dict[str, float]:
    if votes.shape[1] < 2:
        return {}
    found = {"fleiss_kappa": fleiss_kappa(votes), "krippendorff_alpha": krippendorff_alpha(votes)}
    if errors is not None:
        found |= {"supervisors": votes.shape[1], "effective_supervisors": effective_supervisors(errors)}
    return found


def _warnings(report: SupervisorReport) -> list[str]:
    found = []
    effective, count = report.committee.get("effective_supervisors"), len(report.supervisors)
    if effective is not None and effective < CORRELATED * count:
        found.append(
            f"The supervisors make the same mistakes: {count} of them are worth {effective:.1f} independent ones. "
            "Agreement among them is weaker evidence than it looks; a supervisor of another kind would add more than "
            "another one like these."
        )
    for row in report.supervisors:
        share = row["abstained"] / (row["labelled"] + row["abstained"])
        if share > 0.5:
            found.append(f"{row['supervisor']!r} gave no label for {share:.0%} of the examples.")
    return found


def _aligned(ids: list[str], gold: Gold, classes: list[Any]) -> np.ndarray:
    """The gold class id of every example, -1 without gold."""
    found = {e: class_id(label, classes, e) for e, label in read_gold(gold, set(ids)).items()}
    return np.array([found.get(example, NONE) for example in ids])


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _table(rows: list[dict[str, Any]]) -> str:
    heads = list(rows[0])
    return table([head.replace("_", " ") for head in heads], [[_cell(row[head]) for head in heads] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return str(value)
