"""Dawid and Skene's estimate: each voter's confusion matrix and every row's class, by expectation maximisation."""

import numpy as np

_FLOOR = 1e-10  # of a probability, so that its logarithm is finite; crowd-kit's


class DawidSkene:
    r"""
    Dawid and Skene (1979), equations 2.3 to 2.5: q(y) is proportional to prior(y) prod_i C_i[y, vote_i].

    Votes `(rows, voters, K)` count as fractions of a vote for each class (one-hot rows are the paper's votes; soft
    ones are *ours*); a voter that did not vote on a row has NaN there. Starts from the mean vote. Voters that never
    differ say nothing about each other's errors: the mean vote is the answer then.

    Args:
        steps: of EM, at most. *ours*
        tolerance: EM ends when the log-likelihood gains less, nats per row. *ours*

    Attributes:
        prior: `(K,)`, after `fit`, as are the others.
        confusion: `(voters, K, K)`, the probability of a vote (last) given the class.
        log_likelihood: nats, after each step; it never falls.
    """

    def __init__(self, steps: int = 1000, tolerance: float = 1e-10):
        self.steps, self.tolerance = steps, tolerance

    def fit(self, votes: np.ndarray) -> "DawidSkene":
        """Raises ValueError: votes that are not `(rows, voters, K)`, or a row without any."""
        counts, belief = _checked(votes)
        present = counts.sum(-1, keepdims=True) > 0
        self.agree = bool(np.abs(np.where(present, counts - belief[:, None], 0)).max() < 1e-12)
        self.log_likelihood = []
        for _ in range(self.steps):
            self.prior = belief.mean(0).clip(_FLOOR)
            self.confusion = np.einsum("ry,rvk->vyk", belief, counts).clip(_FLOOR)
            self.confusion /= self.confusion.sum(-1, keepdims=True)
            belief, total = self._expect(counts)
            self.log_likelihood.append(total)
            if len(self.log_likelihood) > 1 and total - self.log_likelihood[-2] < self.tolerance * len(counts):
                break
        return self

    def predict_proba(self, votes: np.ndarray) -> np.ndarray:
        """Probabilities of the classes of rows by the fitted voters, `(rows, voters, K)` -> `(rows, K)`."""
        counts, mean = _checked(votes)
        return mean if self.agree else self._expect(counts)[0]

    def _expect(self, counts: np.ndarray) -> tuple[np.ndarray, float]:
        logs = np.log(self.prior) + np.einsum("rvk,vyk->ry", counts, np.log(self.confusion))
        top = logs.max(-1, keepdims=True)
        sums = np.exp(logs - top).sum(-1, keepdims=True)
        return np.exp(logs - top) / sums, float((top + np.log(sums)).sum())


def _checked(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    votes = np.asarray(votes, dtype=np.float64)
    if votes.ndim != 3 or not votes.size:
        raise ValueError(f"votes must be (rows, voters, K), not {votes.shape}.")
    counts = np.nan_to_num(votes)
    total = counts.sum((1, 2))
    if (total <= 0).any():
        raise ValueError(f"row {int((total <= 0).argmax())} has no vote. Drop the row.")
    return counts, counts.sum(1) / total[:, None]
