"""Views of one weak-label dataset: some of its supervisors, and their answers as predictions."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from trl_weaks import columns
from trl_weaks.aggregation.base import NotComputable
from trl_weaks.labelling.reliability.weights import renormalise_weights
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.study.methods import Method
from trl_weaks.units import logps_of_text

_LISTS = (columns.SUPERVISORS, columns.WEIGHTS, columns.OFFSETS, columns.LOGPS)
_LISTS += (columns.CONFIDENCE_SOURCE, columns.TOP_LOGPS, columns.TRUST)  # where the labels have them


def only_supervisors(labels: Dataset, names: Sequence[str]) -> Dataset:
    """The labels that some supervisors gave, their weights normalised to sum 1 per example.

    A score, where rows have one, is that of the supervisors that are left and gave the answer: what others think of it
    counts no more.

    Raises:
        ValueError: a name is not among the dataset's supervisors.
    """
    known = {name for row in labels[columns.SUPERVISORS] for name in row}
    missing = sorted(set(names) - known)
    if missing:
        raise ValueError(f"No labels by {', '.join(missing)}; the dataset has {', '.join(sorted(known))}.")
    rows: list[dict[str, Any]] = []
    totals: dict[str, float] = {}
    for row in labels:
        keep = [i for i, name in enumerate(row[columns.SUPERVISORS]) if name in names]
        if keep:
            rows.append(row | {column: [row[column][i] for i in keep] for column in _LISTS if row.get(column)})
            example = row[columns.EXAMPLE_ID]
            totals[example] = totals.get(example, 0.0) + sum(rows[-1][columns.WEIGHTS])
    for row in rows:
        row[columns.WEIGHTS] = [weight / totals[row[columns.EXAMPLE_ID]] for weight in row[columns.WEIGHTS]]
        if row.get(columns.SCORE) is not None:
            row[columns.SCORE] = _own_score(row)
    return Dataset.from_list(rows, features=labels.features)


def _own_score(row: Mapping[str, Any]) -> float | None:
    """The weighted mean, over a row's supervisors, of the nats per token that each gave its answer."""
    total, scored = math.fsum(row[columns.WEIGHTS]), 0.0
    for weight, *given in zip(*(row[name] for name in (columns.WEIGHTS, columns.OFFSETS, columns.LOGPS)), strict=True):
        own = logps_of_text(*given)
        if not own:
            return None
        scored += weight * math.fsum(own) / len(own)
    return scored / total if total > 0 else None


def completions_by_supervisor(labels: Dataset) -> dict[str, dict[str, str]]:
    """supervisor -> example id -> its completion."""
    found: dict[str, dict[str, str]] = {}
    for row in labels.select_columns([columns.EXAMPLE_ID, columns.COMPLETION, columns.SUPERVISORS]):
        for name in row[columns.SUPERVISORS]:
            found.setdefault(name, {})[row[columns.EXAMPLE_ID]] = row[columns.COMPLETION]
    return found


def transformed(rows: Dataset, method: Method, trained: TrainedStudent | None = None) -> Dataset:
    """The labels after a method's transform, their weights summing to one again.

    Args:
        trained: the student that a method with `after` reads.

    Raises:
        ValueError, NotComputable: from [`check_transformed`].
    """
    if method.transform is None:
        return rows
    found = method.transform(rows, trained) if method.after else method.transform(rows)
    check_transformed(method.name, rows, found)
    return renormalise_weights(found)


def check_transformed(name: str, before: Dataset, found: Any) -> None:
    """
    Args:
        name: of the method.
        before: what its transform was given.
        found: what it gave.

    Raises:
        ValueError: no dataset, an id that was not there, or more rows of one than there were; names the method, the
            row and its example.
        NotComputable: none of the rows.
    """
    where = f"method {name!r}: `transform`"
    if not isinstance(found, Dataset):
        raise ValueError(f"{where} gave a {type(found).__name__}, not a `Dataset`.")
    if not len(found):
        raise NotComputable(f"{where} left none of the {len(before)} rows.")
    if columns.EXAMPLE_ID not in found.column_names:
        raise ValueError(f"{where} left out the column {columns.EXAMPLE_ID!r}; rows are joined on it.")
    left = Counter(before[columns.EXAMPLE_ID])
    for number, example in enumerate(found[columns.EXAMPLE_ID]):
        if example not in left:
            fault = "which is no example of the labels"
        elif not left[example]:
            fault = "which has more rows than the labels have of it"
        else:
            left[example] -= 1
            continue
        raise ValueError(
            f"{where} gave row {number} the {columns.EXAMPLE_ID} {example!r}, {fault}. A transform may drop, reorder, "
            f"change and weigh rows (`{columns.WEIGHTS}`), but add none and change no id."
        )
