"""Votes pooled by a registered aggregator, once, when a set is prepared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from datasets import Dataset

from ... import columns
from ...aggregation.base import NotComputable, make_aggregator, probabilities, warn_of_few
from ...aggregation.with_student import WeighsVotes
from ...losses.base import WeakLoss
from ..weak_classification_config import WeakClassificationConfig
from .objective import POOLS, VoteObjective


class PooledVotes:
    """
    Fits an aggregator of `trl_weaks.aggregation.AGGREGATORS` to the first set it is given, the training rows, and
    gives the rows of every set one vote: what the fitted aggregator makes of theirs.

    An aggregator that is fitted tells supervisors apart by their names in the column `weak_supervisors`, or, where the
    training rows have none, by their places in `weak_probs`; then every row needs all of them.

    Args:
        name: of the aggregator.
        soft_labels: whether votes count as they are, or each one's largest class; classes that tie share it.
        arguments: of the aggregator.

    Attributes:
        votes: how many the training rows have, the fewest and the most.
        supervisors: their names, in their places; numbers from 0 where the training rows name nobody.
        ids: of the training rows, in their order: `example_id`, or the row's number where there is none.

    Raises:
        ValueError: no aggregator has that name, or not these arguments.
        ImportError: it needs an extra that is not installed.
    """

    def __init__(self, name: str, soft_labels: bool, arguments: Mapping[str, Any] | None = None):
        self.name, self.soft_labels = name, soft_labels
        self.aggregator = make_aggregator(name, "pooling", arguments, student=True)
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
        warn_of_few(self.aggregator, len(self._places))
        with _in(name):
            if self.aggregator.with_student:
                self.ids = _ids(dataset)
            self.aggregator.fit(*self._table(rows))

    @property
    def supervisors(self) -> list[str]:
        return [str(name) for name in self._places or ()]

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
            votes, weights = self._made(*self._table(_rows(dataset)))
        made = dataset.remove_columns(
            [c for c in (columns.WEAK_PROBS, columns.WEIGHTS, columns.SUPERVISORS) if c in dataset.column_names]
        )
        made = made.add_column(columns.WEAK_PROBS, votes.tolist())
        return made.add_column(columns.WEIGHTS, weights.tolist())

    def _made(self, votes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """What becomes of a table of votes, with its weights."""
        pooled = probabilities(self.aggregator, votes, weights)
        return pooled[:, None], np.ones((len(pooled), 1))

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


class PlacedVotes(PooledVotes):
    """Leaves the votes apart, for an aggregator that weighs them in training (`WeighsVotes`): every row gets one of
    each supervisor, in the same order; a vote that is missing is uniform and has weight 0."""

    def _made(self, votes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        missing = np.isnan(votes).any(-1)
        weights = np.where(missing, 0.0, 1.0 if weights is None else weights)
        unheard = ~(weights[:, ~self.aggregator.silent] > 0).any(-1)
        if unheard.any():
            names = [name for name, out in zip(self.supervisors, self.aggregator.silent, strict=True) if out]
            raise NotComputable(
                f"row {int(unheard.argmax())} has only votes of {', '.join(names)}, who always vote for one class and "
                f"are left out of `pooling={self.name!r}`. Drop the row, or set `guard` to 0 in `pooling_kwargs`."
            )
        return np.where(missing[..., None], 1 / votes.shape[-1], votes), weights


def pool_and_objective(loss: WeakLoss, args: WeakClassificationConfig) -> tuple[PooledVotes | None, VoteObjective]:
    """What pools the votes when a set is prepared, where it is not done batch by batch; and the loss of what comes."""
    if args.pooling in POOLS:
        return None, VoteObjective(loss, args.pooling, args.soft_labels)
    given = args.pooling, args.soft_labels, args.pooling_kwargs
    pool = PooledVotes(*given)  # which hardens
    if isinstance(pool.aggregator, WeighsVotes):
        return PlacedVotes(*given), VoteObjective(loss, pool.aggregator.combine)
    return pool, VoteObjective(loss, args.pooling)


def _ids(dataset: Dataset) -> list[str]:
    """Raises ValueError for an id that two rows have: labels are joined on ids when a run is resumed."""
    if columns.EXAMPLE_ID not in dataset.column_names:
        return [str(number) for number in range(len(dataset))]
    ids = [str(one) for one in dataset[columns.EXAMPLE_ID]]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        row = next(n for n, one in enumerate(ids) if one in seen or seen.add(one))
        raise ValueError(
            f"row {row}, column '{columns.EXAMPLE_ID}' = {ids[row]!r} is that of an earlier row. Give every row an id "
            "of its own, or remove the column."
        )
    return ids


@contextmanager
def _in(name: str) -> Iterator[None]:
    """Errors within say in which dataset the row is."""
    try:
        yield
    except ValueError as error:
        kind = NotComputable if isinstance(error, NotComputable) else ValueError
        raise kind(f"The {name} dataset, {error}") from None


def _rows(dataset: Dataset) -> list[tuple]:
    """Votes, weights or None, and names or None of each row."""
    found: Mapping[str, Sequence] = {
        column: dataset[column] if column in dataset.column_names else [None] * len(dataset)
        for column in (columns.WEAK_PROBS, columns.WEIGHTS, columns.SUPERVISORS)
    }
    return list(zip(*(list(values) for values in found.values()), strict=True))
