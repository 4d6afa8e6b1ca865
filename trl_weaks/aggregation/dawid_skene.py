"""Dawid and Skene's estimate: each voter's confusion matrix and every row's class, by expectation maximisation."""

import numpy as np

from .base import AGGREGATORS, Aggregator, checked_votes, shares

FLOOR = 1e-10  # of a probability, so that its logarithm is finite; crowd-kit's


@AGGREGATORS.register("dawid_skene")
class DawidSkene(Aggregator):
    r"""
    Dawid and Skene (1979), equations 2.3 to 2.5: q(y) is proportional to prior(y) prod_i C_i[y, vote_i].

    Votes `(rows, voters, K)` count as fractions of a vote for each class (one-hot rows are the paper's votes; soft
    ones are *ours*); a voter that did not vote on a row has NaN there. Starts from the mean vote. Voters that never
    differ say nothing about each other's errors: the mean vote is the answer then. A voter's weight, relative to the
    mean weight of those that voted on the row, counts its votes that many times (*ours*).

    Args:
        steps: of EM, at most. *ours*
        tolerance: EM ends when the log-likelihood gains less, nats per row. *ours*

    Attributes:
        prior: `(K,)`, after `fit`, as are the others.
        confusion: `(voters, K, K)`, the probability of a vote (last) given the class.
        log_likelihood: nats, after each step; it never falls.

    Example:

    >>> good, poor = np.repeat([0, 0, 1, 1], 25), np.tile([0, 1], 50)
    >>> votes = np.eye(2)[np.stack([good, good, poor], 1)]
    >>> fitted = DawidSkene().fit(votes)
    >>> fitted.confusion[:, 0, 0].round(2)
    array([1. , 1. , 0.5])
    >>> fitted(votes[:1]).round(2)
    array([[1., 0.]])

    See also: [`StudentDawidSkene`] with the student as prior, [`GLAD`] and [`MACE`], which tell less of each voter.
    """

    min_supervisors = 2

    def __init__(self, steps: int = 1000, tolerance: float = 1e-10):
        self.steps, self.tolerance = steps, tolerance

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> "DawidSkene":
        """Raises ValueError: votes that are not `(rows, voters, K)`, or a row without any."""
        votes, counts, belief = counted(votes, weights)
        self.agree = bool(np.nanmax(np.abs(votes - belief[:, None])) < 1e-12)
        self.log_likelihood = []
        for _ in range(self.steps):
            self.prior = belief.mean(0)  # a class that nobody ever votes for stays at 0: nothing can speak for it
            self.confusion = confusions(belief, counts)
            belief, total = self._expect(counts)
            self.log_likelihood.append(total)
            if len(self.log_likelihood) > 1 and total - self.log_likelihood[-2] < self.tolerance * len(counts):
                break
        return self

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the classes of rows by the fitted voters, `(rows, voters, K)` -> `(rows, K)`."""
        _, counts, mean = counted(votes, weights)
        return mean if self.agree else self._expect(counts)[0]

    predict_proba = __call__

    def _expect(self, counts: np.ndarray) -> tuple[np.ndarray, float]:
        with np.errstate(divide="ignore"):
            return expected(np.log(self.prior), counts, self.confusion)


def expected(log_prior: np.ndarray, counts: np.ndarray, confusion: np.ndarray) -> tuple[np.ndarray, float]:
    """E-step: each row's classes `(rows, K)`, and the log-likelihood; the prior is `(K,)`, or `(rows, K)`."""
    logs = log_prior + np.einsum("rvk,vyk->ry", counts, np.log(confusion))
    top = logs.max(-1, keepdims=True)
    sums = np.exp(logs - top).sum(-1, keepdims=True)
    return np.exp(logs - top) / sums, float((top + np.log(sums)).sum())


def confusions(belief: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """M-step: `(voters, K, K)`, the probability of a vote (last) given the class."""
    found = np.einsum("ry,rvk->vyk", belief, counts).clip(FLOOR)
    return found / found.sum(-1, keepdims=True)


def counted(votes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The votes, how often each counts for each class, and their mean."""
    votes, weights = checked_votes(votes, weights)
    counts = np.nan_to_num(votes)
    if weights is not None:
        share = shares(votes, weights)
        votes = np.where(share[..., None] > 0, votes, np.nan)
        counts = counts * (share * (share > 0).sum(-1, keepdims=True))[..., None]
    return votes, counts, counts.sum(1) / counts.sum((1, 2))[:, None]
