"""What an aggregator of votes is, and the registry of those that there are."""

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Self

import numpy as np

from ..registry import Registry

logger = logging.getLogger(__name__)


class NotComputable(ValueError):
    """The data give what was asked for nothing to work on, though nothing is wrong with the call.

    A study reports such a row of `--methods field` with the message as the reason, and goes on; an aggregator or a
    transform of your own may raise it too. Every other error ends the study.
    """


TOLERANCE = 1e-3  # of a vote's sum: half-precision probabilities of some dozen classes are this far from 1


class Aggregator:
    """
    Turns the votes of several supervisors into one distribution a row.

    Votes are float64 `(rows, supervisors, K)`, probabilities that sum to 1; a supervisor that gave no vote on a row
    has NaN there. Weights are `(supervisors,)` or `(rows, supervisors)`, at least 0; a weight of 0 is absence,
    and None stands for equal ones.

    A subclass has `__call__`, and `fit` where it learns something of the supervisors, who are then told apart by
    their place in the second axis. A function `(votes, weights) -> (rows, K)` is enough for an aggregator that learns
    nothing; both are registered in the same way, and `pooling` takes the name.

    Example:

    >>> @AGGREGATORS.register("median")
    ... def median(votes, weights):
    ...     middle = np.nanmedian(votes, axis=1)
    ...     return middle / middle.sum(-1, keepdims=True)
    >>> aggregate("median", np.array([[[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]]]))
    array([[0.8, 0.2]])
    >>> del AGGREGATORS["median"]

    See also `trl_weaks.aggregation.votes`, `dawid_skene` and `crowd` for those of the library.
    """

    takes_weights = True
    min_supervisors = 1  # with fewer there is nothing to learn of them, which is said
    with_student = False  # whether it goes on learning while a student trains; see `LearnsWithStudent`

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn what is to be learned of the supervisors; by default nothing."""
        return self

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Probabilities `(rows, K)`, of the rows that were fitted or of others by the same supervisors."""
        raise NotImplementedError

    @property
    def is_fitted_to_supervisors(self) -> bool:
        """Whether it matters which supervisor gave a vote."""
        return type(self).fit is not Aggregator.fit


class RowByRow(Aggregator):
    """An aggregator that learns nothing, made of a function `(votes, weights) -> (rows, K)`."""

    def __init__(self, function: Callable[[np.ndarray, np.ndarray | None], np.ndarray]):
        self.function = function

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return self.function(votes, weights)


def _check_entry(entry: Any, name: str) -> None:
    if not callable(entry) or isinstance(entry, Aggregator):
        raise ValueError(
            f"the aggregator {name!r} is {entry!r}; give a subclass of Aggregator, or a function of votes and weights."
        )


AGGREGATORS: Registry[type[Aggregator] | Callable] = Registry(
    "aggregator", _check_entry, package="trl_weaks.aggregation", variable="AGGREGATORS"
)


def make_aggregator(
    name: str,
    setting: str = "aggregator",
    arguments: Mapping[str, Any] | None = None,
    student: bool = False,
) -> Aggregator:
    """A new aggregator of that name.

    Args:
        setting: what the name was given as, for the message.
        arguments: of its class.
        student: whether there is a student to learn with.

    Raises:
        ValueError: no such aggregator (names the choices), arguments that it has not or refuses, or it learns with a
            student and there is none.
        ImportError: it needs an extra that is not installed; names it.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"{setting}={name!r}: {AGGREGATORS.unknown(name)}")
    found, arguments = AGGREGATORS[name], dict(arguments or {})
    if getattr(found, "with_student", False) is True and not student:
        raise ValueError(
            f"{setting}={name!r} learns from a student while it trains, and there is none here: keep the votes apart "
            f"(`labels_from_votes(..., aggregator=None)`), and give `pooling={name!r}` to `WeakClassificationTrainer`."
        )
    has = list(signature(found).parameters) if isinstance(found, type) else []
    for argument in arguments:
        if argument not in has:
            raise ValueError(
                f"{setting}={name!r} has no argument `{argument}`. There is {', '.join(map(repr, has)) or 'none'}."
            )
    return found(**arguments) if isinstance(found, type) else RowByRow(found)


def aggregate(aggregator: str | Aggregator, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Fit an aggregator to votes `(rows, supervisors, K)` and give each row's probabilities, `(rows, K)`.

    Raises:
        ValueError: votes or weights that are none, a row without any, or an aggregator that gives no distribution.

    Example:

    >>> nobody = [np.nan, np.nan]
    >>> aggregate("mean", np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], nobody]]))
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    aggregator = make_aggregator(aggregator) if isinstance(aggregator, str) else aggregator
    votes, weights = checked_votes(votes, weights)
    warn_of_few(aggregator, votes.shape[1])
    return probabilities(aggregator.fit(votes, weights), votes, weights)


def warn_of_few(aggregator: Aggregator, supervisors: int) -> None:
    """Say so where an aggregator that compares supervisors has nobody to compare."""
    if supervisors < aggregator.min_supervisors:
        logger.warning(
            "`%s` learns of supervisors by comparing them, and there is %d: nothing is learned of it, and 'mean' does "
            "as much.",
            type(aggregator).__name__,
            supervisors,
        )


def probabilities(aggregator: Aggregator, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """What a fitted aggregator makes of checked votes, once it is known to be a distribution for every row.

    Raises:
        ValueError: it is not; names the aggregator and the row.
    """
    found = np.asarray(aggregator(votes, weights), dtype=np.float64)
    inner = getattr(aggregator, "function", type(aggregator))
    name, shape = getattr(inner, "__name__", type(inner).__name__), (votes.shape[0], votes.shape[2])
    if found.shape != shape:
        raise ValueError(
            f"the aggregator `{name}` must give probabilities {shape} for votes {votes.shape}, but gave {found.shape}."
        )
    bad = ~(np.isfinite(found).all(-1) & (found >= 0).all(-1) & (np.abs(found.sum(-1) - 1) < TOLERANCE))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"the aggregator `{name}` gave {found[row].tolist()} for row {row}, no probabilities.")
    return found / found.sum(-1, keepdims=True)


def checked_votes(votes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Votes and weights as float64, weights `(rows, supervisors)` where there are some.

    Raises:
        ValueError: names the row and the supervisor (by its place), and what is wrong.
    """
    votes = np.asarray(votes, dtype=np.float64)
    if votes.ndim != 3 or not votes.size:
        raise ValueError(f"votes must be (rows, supervisors, K), not {votes.shape}.")
    gap = np.isnan(votes).all(-1)
    wrong = ~gap & ~((votes >= 0).all(-1) & (np.abs(votes.sum(-1) - 1) < TOLERANCE))
    if wrong.any():
        row, voter = np.argwhere(wrong)[0]
        raise ValueError(
            f"row {row}: vote {voter} = {votes[row, voter].tolist()} does not hold probabilities that sum to 1 (all "
            "NaN stand for no vote)."
        )
    counted = ~gap
    if weights is not None:
        weights = _checked_weights(np.asarray(weights, dtype=np.float64), gap.shape)
        counted = counted & (weights > 0)
    if not counted.any(-1).all():
        raise ValueError(f"row {int((~counted.any(-1)).argmax())} has no vote. Drop the row.")
    return votes, weights


def _checked_weights(weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if weights.shape not in (shape, shape[1:]):
        raise ValueError(f"weights {weights.shape} for {shape[1]} supervisors and {shape[0]} rows.")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and at least 0.")
    return np.broadcast_to(weights, shape)


def shares(votes: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """`(rows, supervisors)` weights of the votes that are there; they sum to 1 in every row, gaps have 0."""
    present = ~np.isnan(votes).any(-1)
    given = np.where(present, 1.0 if weights is None else weights, 0.0)
    return given / given.sum(-1, keepdims=True)
