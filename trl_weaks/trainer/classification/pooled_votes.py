"""Votes pooled by a registered aggregator, once, when a set is prepared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from datasets import Dataset

from ... import columns
from ...aggregation.base import make_aggregator, probabilities


class PooledVotes:
    """
    Fits an aggregator of `trl_weaks.aggregation.AGGREGATORS` to the first set it is given, the training rows, and
    gives the rows of every set one vote: what the fitted aggregator makes of theirs.

    An aggregator that is fitted tells supervisors apart by their names in the column `weak_supervisors`, or, where the
    training rows have none, by their places in `weak_probs`; then every row needs all of them.

    Args:
        name: of the aggregator.
        soft_labels: whether votes count as they are, or each one's largest class; classes that tie share it.

    Attributes:
        votes: how many the training rows have, the fewest and the most.

    Raises:
        ValueError: no aggregator has that name.
        ImportError: it needs an extra that is not installed.
    """

    def __init__(self, name: str, soft_labels: bool):
        self.name, self.soft_labels = name, soft_labels
        self.aggregator = make_aggregator(name, "pooling")
        self.votes: tuple[int, int] | None = None
        self._places: dict[Any, int] | None = None

    def _fit(self, dataset: Dataset, name: str) -> None:
        rows = _rows(dataset)
        counts = [len(votes) for votes, _, _ in rows]
        self.votes = min(counts), max(counts)
        self._named = columns.SUPERVISORS in dataset.column_names
        if self._named:
            seen = dict.fromkeys(name for _, _, names in rows for name in names or ())
            self._places = {name: place for place, name in enumerate(sorted(seen))}
        else:
            self._places = {place: place for place in range(max(counts))}
        with _in(name):
            self.aggregator.fit(*self._table(rows))

    def __call__(self, dataset: Dataset, name: str) -> Dataset:
        """The checked rows with one vote each; a set without votes stays as it is.

        Raises:
            ValueError: supervisors who cannot be told apart or whom the training rows do not have, or votes that the
                aggregator refuses; names the set and the row.
        """
        if columns.WEAK_PROBS not in dataset.column_names:
            return dataset
        if self.votes is None:
            self._fit(dataset, name)
        with _in(name):
            pooled = probabilities(self.aggregator, *self._table(_rows(dataset)))
        made = dataset.remove_columns(
            [c for c in (columns.WEAK_PROBS, columns.WEIGHTS, columns.SUPERVISORS) if c in dataset.column_names]
        )
        made = made.add_column(columns.WEAK_PROBS, pooled[:, None].tolist())
        return made.add_column(columns.WEIGHTS, [[1.0]] * len(made))

    def _table(self, rows: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray | None]:
        """Votes `(rows, supervisors, K)` with NaN for none, and weights `(rows, supervisors)` where some are given."""
        fitted = self.aggregator.is_fitted_to_supervisors
        width = len(self._places) if fitted else max(len(votes) for votes, _, _ in rows)
        table = np.full((len(rows), width, len(rows[0][0][0])), np.nan)
        weights = np.zeros((len(rows), width))
        for number, (votes, given, names) in enumerate(rows):
            places = self._find(number, len(votes), names) if fitted else list(range(len(votes)))
            table[number, places] = votes
            weights[number, places] = 1.0 if given is None else given
        table[weights == 0] = np.nan  # weight 0 is absence
        if not self.soft_labels:
            top = table >= table.max(-1, keepdims=True)
            table = np.where(np.isnan(table), np.nan, top / top.sum(-1, keepdims=True).clip(1))
        weighted = any(given is not None for _, given, _ in rows)
        return table / table.sum(-1, keepdims=True), weights if weighted else None

    def _find(self, number: int, count: int, names: Sequence[str] | None) -> list[int]:
        if not self._named:
            if count != len(self._places):
                raise ValueError(
                    f"row {number} has {count} votes, others {len(self._places)}. `pooling={self.name!r}` tells the "
                    f"supervisors apart: name those of each row in a column '{columns.SUPERVISORS}', or label the row "
                    "by all."
                )
            return list(range(count))
        if names is None or len(names) != count or len(set(names)) != count:
            raise ValueError(
                f"row {number}, column '{columns.SUPERVISORS}' = {names}: `pooling={self.name!r}` needs the name of "
                f"each of its {count} votes' supervisors, once."
            )
        strange = [name for name in names if name not in self._places]
        if strange:
            raise ValueError(
                f"row {number}, column '{columns.SUPERVISORS}': {strange[0]!r} gave no vote on the training rows, to "
                f"which `pooling={self.name!r}` is fitted. Leave that vote out."
            )
        return [self._places[name] for name in names]


@contextmanager
def _in(name: str) -> Iterator[None]:
    """Errors within say in which dataset the row is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"The {name} dataset, {error}") from None


def _rows(dataset: Dataset) -> list[tuple]:
    """Votes, weights or None, and names or None of each row."""
    found: Mapping[str, Sequence] = {
        column: dataset[column] if column in dataset.column_names else [None] * len(dataset)
        for column in (columns.WEAK_PROBS, columns.WEIGHTS, columns.SUPERVISORS)
    }
    return list(zip(*(list(values) for values in found.values()), strict=True))
