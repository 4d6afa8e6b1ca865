"""Who voted what in a dataset of class labels, also where not everybody voted on everything."""

import numpy as np
from datasets import Dataset

from ... import columns


def supervisor_votes(labels: Dataset, before_aggregation: bool = False) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the supervisors, their votes (rows, N, K) with NaN for an abstention, and their weights (rows, N).

    Args:
        labels: with `weak_probs`, and `weak_supervisors` where the rows differ in who voted.
        before_aggregation: the votes that were aggregated (`vote_probs`), of equal weight, where the labels have them.

    Raises:
        ValueError: a row whose votes are not lists of probabilities of K classes, or without a name for each (named).
    """
    aggregated = before_aggregation and columns.VOTES in labels.column_names
    column, named = (columns.VOTES, columns.VOTERS) if aggregated else (columns.WEAK_PROBS, columns.SUPERVISORS)
    rows = labels[column][:]
    if not rows or not rows[0] or rows[0][0] is None:
        raise ValueError(f"column {column!r}: row 0 holds no vote; label it, or drop the row.")
    count, shape = len(rows[0][0]), len(rows[0])
    who = labels[named][:] if named in labels.column_names else [[f"supervisor {i}" for i in range(shape)]] * len(rows)
    weights = labels[columns.WEIGHTS][:] if columns.WEIGHTS in labels.column_names and not aggregated else None
    alike = all(names == who[0] for names in who)
    names = list(who[0]) if alike else sorted({name for row in who for name in row})
    place = {name: i for i, name in enumerate(names)}
    votes, shares = np.full((len(rows), len(names), count), np.nan), np.zeros((len(rows), len(names)))
    for number, (row, voters) in enumerate(zip(rows, who, strict=True)):
        if not row or len(row) != len(voters) or len(set(voters)) != len(voters):
            raise ValueError(
                f"row {number}: {len(row or ())} votes in column {column!r} by the supervisors {voters}; there must "
                f"be one for each, and each named once in {named!r}."
            )
        for i, (name, vote) in enumerate(zip(voters, row, strict=True)):
            if vote is None:
                continue
            if len(vote) != count:
                raise ValueError(f"row {number}, column {column!r}: {name!r} has {len(vote)} classes, not {count}.")
            votes[number, place[name]] = vote
            shares[number, place[name]] = 1.0 if weights is None else weights[number][i]
    return names, votes, np.where(np.isnan(votes).any(-1), 0.0, shares)
