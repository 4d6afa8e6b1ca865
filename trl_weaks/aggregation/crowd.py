"""Aggregators of crowd-kit, which the extra `crowd` brings: GLAD, MACE and Wawa.

They take hard votes: each vote counts as its most probable class; one whose largest classes tie counts as none, and a
row left without a clear vote gets the mean of its votes. Supervisors that never gave a clear vote are not heard. What
is fitted of the supervisors is crowd-kit's; other rows are read by the same formulas with what was fitted.
"""

import warnings
from typing import Self

import numpy as np

from .base import AGGREGATORS, Aggregator, NotComputable, checked_votes, shares
from .comparisons.crowd import crowd_kit

_FLOOR = 1e-10  # of a probability, so that its logarithm is finite; crowd-kit's


class CrowdKit(Aggregator):
    """What the three share: votes in, crowd-kit's table of votes, and rows without a clear vote."""

    takes_weights = False
    min_supervisors = 2

    def __init__(self) -> None:
        self.kit = crowd_kit()

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Raises NotComputable: weights that differ, which these methods know nothing of."""
        votes, hard = self._read(votes, weights)
        rows, voters = np.nonzero(hard >= 0)
        known, workers = np.unique(voters, return_inverse=True)
        self.heard = np.isin(np.arange(votes.shape[1]), known)
        if len(rows):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its age, as pandas sees it
                self._learn(rows, workers, hard[rows, voters], votes.shape[2])
        return self

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        votes, hard = self._read(votes, weights)
        clear = ((hard >= 0) & self.heard).any(-1)
        found = np.einsum("rv,rvk->rk", shares(votes, None), np.nan_to_num(votes))
        if clear.any():
            found[clear] = self._expect(hard[clear][:, self.heard], votes.shape[2])
        return found

    def _read(self, votes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The votes and their classes, `(rows, supervisors)`, -1 where there is no clear one."""
        votes, weights = checked_votes(votes, weights)
        if weights is not None:
            votes = np.where((weights > 0)[..., None], votes, np.nan)
            given, even = shares(votes, weights), shares(votes, None)
            if np.abs(given - even).max() > 1e-6:
                raise NotComputable(
                    f"`{type(self).__name__}` weighs the supervisors itself: leave out the weights, or choose 'mean', "
                    "'majority', 'log_linear' or 'dawid_skene'."
                )
        filled = np.nan_to_num(votes, nan=-1.0)
        top = filled.max(-1, keepdims=True)
        return votes, np.where((filled == top).sum(-1) == 1, filled.argmax(-1), -1)

    def _table(self, rows: np.ndarray, workers: np.ndarray, labels: np.ndarray) -> object:
        import pandas

        return pandas.DataFrame({"task": rows, "worker": workers, "label": labels})

    def _learn(self, rows: np.ndarray, workers: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        """Fit to clear votes, one row, worker and label each."""
        raise NotImplementedError

    def _expect(self, hard: np.ndarray, num_classes: int) -> np.ndarray:
        """`(rows, K)` from clear votes `(rows, workers)`, at least one a row, -1 for none."""
        raise NotImplementedError


@AGGREGATORS.register("wawa")
class Wawa(CrowdKit):
    """Worker agreement with aggregate: votes weighted by how often each supervisor is with the majority.

    Attributes:
        skill: `(supervisors heard,)`, after `fit`.

    Example:

    >>> votes = np.eye(2)[[[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]]]  # the third says anything
    >>> fitted = Wawa().fit(votes)
    >>> fitted.skill, fitted(votes[:1])  # (1 + 1) / (1 + 1 + 0.5)
    (array([1. , 1. , 0.5]), array([[0.8, 0.2]]))

    See also: [`Agreement`] for soft votes, without crowd-kit, [`majority`] without weights.
    """

    def _learn(self, rows: np.ndarray, workers: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        fitted = self.kit.Wawa().fit(self._table(rows, workers, labels))
        self.skill = fitted.skills_.sort_index().to_numpy()

    def _expect(self, hard: np.ndarray, num_classes: int) -> np.ndarray:
        counts = (np.eye(num_classes + 1)[hard][..., :num_classes] * self.skill[:, None].clip(_FLOOR)).sum(1)
        return counts / counts.sum(-1, keepdims=True)


@AGGREGATORS.register("mace")
class MACE(CrowdKit):
    """Hovy et al. (2013), "Learning whom to trust with MACE": a supervisor knows the class or gives its habitual one.

    crowd-kit's settings, but one start: its ten have one seed, and are one.

    Attributes:
        spamming: `(supervisors heard, 2)`, how often each gives its habitual class and how often it knows, after `fit`
            (crowd-kit's variational weights, which sum to a little less than 1).
        habit: `(supervisors heard, K)`, what each answers otherwise.

    Example:

    >>> votes = np.eye(2)[[[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]]]  # the third says anything
    >>> MACE().fit(votes).spamming[:, 1].round()
    array([1., 1., 0.])

    See also: [`DawidSkene`] for whole confusion matrices, [`GLAD`] for rows of different difficulty.
    """

    def _learn(self, rows: np.ndarray, workers: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        # crowd-kit sums by sorted names what it looks up by order of appearance: the two must be one
        order, worker_codes = _by_appearance(workers)
        seen, label_codes = _by_appearance(labels)
        fitted = self.kit.MACE(n_restarts=1).fit(self._table(rows, worker_codes, label_codes))
        self.spamming, self.habit = np.empty((len(order), 2)), np.zeros((len(order), num_classes))
        self.spamming[order] = fitted.spamming_
        self.habit[np.ix_(order, seen)] = fitted.thetas_

    def _expect(self, hard: np.ndarray, num_classes: int) -> np.ndarray:
        voters = np.arange(hard.shape[1])
        habitual = self.spamming[:, 0] * self.habit[voters, hard]
        known = self.spamming[:, 1, None] * (hard[..., None] == np.arange(num_classes))
        logs = np.log((habitual[..., None] + known).clip(_FLOOR))
        return _normalised(np.where(hard[..., None] >= 0, logs, 0).sum(1))


@AGGREGATORS.register("glad")
class GLAD(CrowdKit):
    """Whitehill et al. (2009), "Whose vote should count more": supervisors have abilities, rows difficulties.

    The rows that were fitted have their own difficulty, other rows that of the prior's mean.

    Attributes:
        ability: `(supervisors heard,)`, after `fit`.

    Example:

    >>> votes = np.eye(2)[[[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]]]  # the third says anything
    >>> fitted = GLAD().fit(votes)
    >>> fitted.ability.round(), fitted(votes)[:, 1].round(2)
    (array([1., 1., 0.]), array([0., 1., 0., 1.]))

    See also: [`DawidSkene`], for which all rows are alike, [`MACE`], whose supervisors know or have a habit.
    """

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> Self:
        self.known: tuple[np.ndarray, np.ndarray] | None = None
        return super().fit(votes, weights)

    def _learn(self, rows: np.ndarray, workers: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        import pandas

        even = pandas.Series(1 / num_classes, index=range(num_classes))
        fitted = self.kit.GLAD(labels_priors=even).fit(self._table(rows, workers, labels))
        self.ability = fitted.alphas_.sort_index().to_numpy()
        hard = np.full((rows.max() + 1, workers.max() + 1), -1)
        hard[rows, workers] = labels
        places = np.unique(rows)
        self.known = hard[places], fitted.probas_.loc[places, list(range(num_classes))].to_numpy()

    def _expect(self, hard: np.ndarray, num_classes: int) -> np.ndarray:
        if self.known is not None and np.array_equal(hard, self.known[0]):
            return self.known[1]
        # the prior's mean of the logarithm of the inverse difficulty is 1
        right = 1 / (1 + np.exp(-np.e * self.ability))
        match = hard[..., None] == np.arange(num_classes)
        logs = np.log(np.where(match, right[:, None], (1 - right[:, None]) / (num_classes - 1)).clip(_FLOOR))
        return _normalised(np.where(hard[..., None] >= 0, logs, 0).sum(1))


def _normalised(logs: np.ndarray) -> np.ndarray:
    likely = np.exp(logs - logs.max(-1, keepdims=True))
    return likely / likely.sum(-1, keepdims=True)


def _by_appearance(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct names in the order in which they first occur, and the place of each name among them."""
    found, first, codes = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return found[order], np.argsort(order)[codes]
