"""What a transform is given that reads a trained student, and what it sees to first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ... import columns
from ...supervisors.classifier import WeakClassifier
from ...supervisors.supervisor import WeakSupervisor


@dataclass(frozen=True)
class TrainedStudent:
    """
    A trained student, and examples with gold that neither it nor any supervisor was trained on.

    Args:
        student: a `WeakClassifier`, or a `WeakSupervisor`, as which any model answers.
        known: rows of `text` and `label` (the place of a class), or of `prompt` and `completion`.
        max_new_tokens: of an answer, where the student writes.
    """

    student: WeakClassifier | WeakSupervisor
    known: Dataset
    max_new_tokens: int = 64


def check_classes(labels: Dataset, trained: TrainedStudent, who: str) -> None:
    """
    Raises:
        ValueError: labels that are no votes of the student's classes; says what they are, and who refuses them.
    """
    if columns.WEAK_PROBS not in labels.column_names:
        raise ValueError(
            f"{who} works on votes of classes: the labels have no column {columns.WEAK_PROBS!r}, and completions have "
            f"no class to choose. They have {labels.column_names}."
        )
    if not isinstance(trained.student, WeakClassifier):
        raise ValueError(f"{who}: the student is a {type(trained.student).__name__}; give a `WeakClassifier`.")
    if not len(labels):
        raise ValueError(f"{who}: the labels have no row.")
    classes = trained.student.num_classes
    for row, votes in enumerate(labels[columns.WEAK_PROBS]):
        if any(len(vote) != classes for vote in votes):
            raise ValueError(
                f"{who}, row {row}, column {columns.WEAK_PROBS!r}: votes of {[len(vote) for vote in votes]} classes; "
                f"the student has {classes}."
            )


def texts_of(labels: Dataset, who: str) -> list:
    """The texts that the student reads.

    Raises:
        ValueError: there is no column of them.
    """
    for column in (columns.TEXT, columns.PROMPT):
        if column in labels.column_names:
            return labels[column][:]
    raise ValueError(f"{who}: the labels have neither a column {columns.TEXT!r} nor {columns.PROMPT!r}.")


def mean_votes(labels: Dataset) -> np.ndarray:
    """The weighted mean of each row's votes, `(n, K)`.

    Raises:
        ValueError: a row whose weights are all 0.
    """
    weights = labels[columns.WEIGHTS] if columns.WEIGHTS in labels.column_names else [None] * len(labels)
    unheard = next((row for row, given in enumerate(weights) if given is not None and not any(given)), None)
    if unheard is not None:
        raise ValueError(
            f"row {unheard}, column {columns.WEIGHTS!r}: all weights are 0, so nobody voted; drop the row."
        )
    return np.stack(
        [
            np.average(np.asarray(votes, dtype=float), axis=0, weights=given)
            for votes, given in zip(labels[columns.WEAK_PROBS], weights, strict=True)
        ]
    )


def vote_table(labels: Dataset, who: str) -> tuple[np.ndarray, list[str]]:
    """The votes `(n, N, K)` in the order of the supervisors' names, NaN for none, and those names.

    Raises:
        ValueError: nobody is named, or a row names another number of supervisors than it has votes.
    """
    if columns.SUPERVISORS not in labels.column_names:
        raise ValueError(f"{who} tells supervisors apart: name those of each vote in {columns.SUPERVISORS!r}.")
    rows, given = labels[columns.WEAK_PROBS][:], labels[columns.SUPERVISORS][:]
    names = sorted({name for here in given for name in here})
    table = np.full((len(rows), len(names), len(rows[0][0])), np.nan)
    for number, (votes, here) in enumerate(zip(rows, given, strict=True)):
        if len(votes) != len(here) or len(set(here)) != len(here):
            raise ValueError(f"{who}, row {number}: {len(votes)} votes by {here}; name each supervisor once.")
        table[number, [names.index(name) for name in here]] = votes
    return table, names


def with_one_vote(labels: Dataset, votes: Sequence[Sequence[float]], names: Sequence[str]) -> Dataset:
    """The labels with one vote a row, `(n, K)`, given by `names`."""
    new = {columns.WEAK_PROBS: [[list(map(float, vote))] for vote in votes]}
    new |= {columns.WEIGHTS: [[1.0]] * len(labels), columns.SUPERVISORS: [[name] for name in names]}
    if columns.VOTES in labels.column_names:  # what a row's label came from: this vote alone now
        new |= {columns.VOTERS: new[columns.SUPERVISORS], columns.VOTES: new[columns.WEAK_PROBS]}
    made = labels.remove_columns([c for c in (*new, columns.TRUST, columns.TRAIN_WEIGHT) if c in labels.column_names])
    for column, values in new.items():
        made = made.add_column(column, values)
    return made
