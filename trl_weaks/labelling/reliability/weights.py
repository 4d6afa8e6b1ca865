"""Weights of labels that were split, filtered or concatenated."""

import math
from collections import defaultdict

from datasets import Dataset

from ... import columns
from .shared_ids import refuse_shared_ids


def renormalise_weights(labels: Dataset) -> Dataset:
    """The labels with weights that sum to 1 again: over all rows of an example, or within each row of class votes.

    For what filtering leaves of an example's rows, and for labels of several runs over different examples. Rows whose
    weights are all 0 and are alone in their example get equal weights. Without rows there is nothing to do.

    Args:
        labels: with `weak_weights`, as `label_completions` or `label_classes` give them.

    Raises:
        ValueError: there is no column of weights, or one that is negative or not finite (row, example), or an id of
            two prompts, whose rows are no completions of one example (named).

    Example:

    >>> rows = Dataset.from_dict({
    ...     "example_id": ["a", "a", "b"], "completion": [" x", " y", " x"],
    ...     "weak_supervisors": [["ann"], ["bob"], ["ann", "bob"]], "weak_weights": [[0.5], [0.5], [0.5, 0.5]],
    ... })
    >>> renormalise_weights(rows.filter(lambda row: row["completion"] == " x"))["weak_weights"][:]
    [[1.0], [0.5, 0.5]]
    """
    if columns.WEIGHTS not in labels.column_names:
        raise ValueError(f"the labels have no column {columns.WEIGHTS!r}; they have {labels.column_names}.")
    if not len(labels):
        return labels
    per_row = columns.WEAK_PROBS in labels.column_names
    if not per_row:
        refuse_shared_ids(labels)
    weights = labels[columns.WEIGHTS][:]
    keys = list(range(len(labels))) if per_row else labels[columns.EXAMPLE_ID][:]
    totals: dict[object, list[float]] = defaultdict(list)
    for number, (key, row) in enumerate(zip(keys, weights, strict=True)):
        if not row or not all(w is not None and math.isfinite(w) and w >= 0 for w in row):
            raise ValueError(f"row {number} (example {key!r}): weights {row} are not finite, or negative, or missing.")
        totals[key] += row
    scaled = []
    for key, row in zip(keys, weights, strict=True):
        total = math.fsum(totals[key])
        scaled.append([w / total for w in row] if total > 0 else [1 / len(totals[key])] * len(row))
    made = labels.remove_columns(columns.WEIGHTS).add_column(
        columns.WEIGHTS, scaled, feature=labels.features[columns.WEIGHTS]
    )
    return made.select_columns(labels.column_names)
