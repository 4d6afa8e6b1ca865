"""Views of one weak-label dataset: some of its supervisors, and their answers as predictions."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from trl_weaks import columns
from trl_weaks.aggregation.base import NotComputable
from trl_weaks.labelling.reliability.weights import renormalise_weights
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.study.methods import Method

_LISTS = (columns.SUPERVISORS, columns.WEIGHTS, columns.OFFSETS, columns.LOGPS)


def only_supervisors(labels: Dataset, names: Sequence[str]) -> Dataset:
    """The labels that some supervisors gave, their weights normalised to sum 1 per example.

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
            rows.append(row | {column: [row[column][i] for i in keep] for column in _LISTS})
            example = row[columns.EXAMPLE_ID]
            totals[example] = totals.get(example, 0.0) + sum(rows[-1][columns.WEIGHTS])
    for row in rows:
        row[columns.WEIGHTS] = [weight / totals[row[columns.EXAMPLE_ID]] for weight in row[columns.WEIGHTS]]
    return Dataset.from_list(rows, features=labels.features)


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
        ValueError: the transform gives no dataset; names the method.
        NotComputable: it leaves no row.
    """
    if method.transform is None:
        return rows
    found = method.transform(rows, trained) if method.after else method.transform(rows)
    if not isinstance(found, Dataset):
        raise ValueError(f"method {method.name!r}: `transform` gave a {type(found).__name__}, not a `Dataset`.")
    if not len(found):
        raise NotComputable(f"method {method.name!r}: `transform` left none of the {len(rows)} rows.")
    return renormalise_weights(found)
