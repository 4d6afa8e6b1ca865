"""Supervisors weighted by how often the others agree with them, once and for all; and who always says the same."""

from typing import Self

import numpy as np

from .base import AGGREGATORS, Aggregator, NotComputable, checked_votes, shares

GUARD = 0.1  # *ours*


def one_sided(votes: np.ndarray, weights: np.ndarray | None, guard: float = GUARD) -> np.ndarray:
    """Which supervisors vote for one class (nearly) always, though the committee does not: `(supervisors,)`.

    A supervisor's variety is 1 minus its most frequent class's share of its votes. It is one-sided where that is less
    than `guard` times the variety of all votes together, so that rare classes alone make nobody one-sided. Such a vote
    says nothing of a row, yet a student that learns it agrees with it everywhere.

    Raises:
        ValueError: `guard` is not in [0, 1).
        NotComputable: nobody is left.

    Example:

    >>> ann, bob = np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[0, 0, 0, 0]]
    >>> one_sided(np.stack([ann, bob], 1), None)
    array([False,  True])
    """
    if not 0 <= guard < 1:
        raise ValueError(f"guard={guard} must be in [0, 1); 0 lets everybody vote.")
    votes, weights = checked_votes(votes, weights)
    share = shares(votes, weights)
    filled = np.nan_to_num(votes)
    top = (filled >= filled.max(-1, keepdims=True)) & (share > 0)[..., None]
    top = top / top.sum(-1, keepdims=True).clip(1)
    counts = np.einsum("rv,rvk->vk", share, top)
    found = _variety(counts) < guard * _variety(counts.sum(0))
    if found.all():
        raise NotComputable("every supervisor votes for one class alone; there is nothing to weigh. Label again.")
    return found


def agreement_weights(votes: np.ndarray, weights: np.ndarray | None, guard: float = GUARD) -> np.ndarray:
    """Weights `(supervisors,)` that sum to 1: how often a draw from a supervisor's vote is one from the others' mean.

    Means are over the rows on which a supervisor and another voted, each weighed by the supervisor's share of the
    row's votes, so that a row counts the more the fewer voted there (*ours*); who shares no row with anybody gets the
    mean weight, one-sided supervisors (see [`one_sided`]) get 0.
    """
    votes, weights = checked_votes(votes, weights)
    share, filled = shares(votes, weights), np.nan_to_num(votes)
    kept = ~one_sided(votes, weights, guard)
    share = share * kept
    others = np.einsum("rv,rvk->rk", share, filled)[:, None] - share[..., None] * filled
    total = share.sum(1, keepdims=True) - share
    met = (share > 0) & (total > 1e-12)
    match = np.where(met, (filled * others).sum(-1) / np.where(met, total, 1), 0)
    counted = (share * met).sum(0)
    found = np.where(counted > 0, (share * match).sum(0) / np.where(counted > 0, counted, 1), np.nan)
    known = kept & ~np.isnan(found)
    found = np.where(known, found, found[known].mean() if known.any() else 1.0) * kept
    return found / found.sum() if found.sum() > 0 else kept / kept.sum()


@AGGREGATORS.register("agreement")
class Agreement(Aggregator):
    r"""
    The mean of the votes under static weights: the control that reviewers asked of RAVEN (arXiv 2510.21332).

    $w_m \propto \mathrm{mean}_r \sum_k y^m_{rk} \bar y^{-m}_{rk}$, each supervisor's expected agreement with the
    others' mean vote (*ours*: the reviews say "static weights from agreement, no adaptation"); one-sided supervisors
    are left out, as in RAVEN. Weights of votes multiply these. A row on which only one-sided supervisors voted keeps
    its votes' mean.

    Args:
        guard: see [`one_sided`]; 0 turns it off. *ours*

    Attributes:
        weights: `(supervisors,)`, after `fit`; they sum to 1.

    Example:

    >>> good, poor = np.repeat([0, 0, 1, 1], 25), np.tile([0, 1], 50)
    >>> votes = np.eye(2)[np.stack([good, good, poor], 1)]
    >>> Agreement().fit(votes).weights.round(3)
    array([0.375, 0.375, 0.25 ])

    See also: [`Raven`], whose weights move with the student, [`Wawa`], which counts hard votes, [`one_sided`].
    """

    min_supervisors = 2

    def __init__(self, guard: float = GUARD):
        self.guard = guard

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> Self:
        self.weights = agreement_weights(votes, weights, self.guard)
        return self

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        votes, weights = checked_votes(votes, weights)
        given = shares(votes, weights)
        share = given * self.weights
        share = np.where(share.sum(-1, keepdims=True) > 0, share, given)
        return np.einsum("rv,rvk->rk", share / share.sum(-1, keepdims=True), np.nan_to_num(votes))


def _variety(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(-1)
    return np.where(total > 0, 1 - counts.max(-1) / np.where(total > 0, total, 1), 1.0)
