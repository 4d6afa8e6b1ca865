"""Supervisors whose accuracy depends on the text: a label model with features."""

from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from .base import checked_votes
from .trust import CONSTANT

MIN_VOTERS = 3  # of two that differ nobody says who is right
_FLOOR = 1e-6  # of an accuracy and of a class's share, so that logarithms are finite. *ours*


class InstanceAccuracy:
    r"""
    The class behind the votes, where supervisor i is right with probability $a_i(x) = \sigma(w_i \cdot z(x) + b_i)$
    and otherwise names each other class alike:

    $$q(k) \propto \pi_k \prod_i a_i^{y_{ik}} \left(\frac{1 - a_i}{K - 1}\right)^{1 - y_{ik}}$$

    After the label model of WSGAN (arXiv 2203.12023), whose accuracies for each example come from an image network
    that is trained with a generator; of that only the idea is here. Features z are standardised states, the parameters
    are found by expectation maximisation from the mean vote, every M-step a logistic regression with a ridge, and soft
    votes count as fractions of a vote (*ours*). No gold is read. Where fewer than three supervisors know something,
    nobody says who of two is right.

    Args:
        ridge: λ of $\lambda/2\,|w_i|^2$ beside the mean loss; 0.03 is *ours*. Large: one accuracy a supervisor.
        steps: of EM, at most. *ours*
        tolerance: EM ends when no probability changes by more. *ours*

    Attributes:
        weight, bias: `(N, d)` and `(N,)`, after `fit`, as are `prior` `(K,)`, and `mean`, `scale` of the states.

    Example:

    >>> draw = np.random.default_rng(0)
    >>> x, gold = draw.normal(size=(2000, 1)), draw.integers(0, 2, 2000)
    >>> here = np.hstack([np.where(x > 0, 0.95, 0.5), np.where(x > 0, 0.5, 0.95), np.full((2000, 2), 0.75)])
    >>> votes = np.eye(2)[np.where(draw.random((2000, 4)) < here, gold[:, None], 1 - gold[:, None])]
    >>> model = InstanceAccuracy(ridge=0.01).fit(votes, x)
    >>> left, right = model.accuracy(np.array([[-1.0], [1.0]]))
    >>> bool(left[0] < 0.7 < left[1]), bool(right[1] < 0.7 < right[0])
    (True, True)
    """

    def __init__(self, ridge: float = 0.03, steps: int = 50, tolerance: float = 1e-4):
        if not ridge > 0:
            raise ValueError(f"ridge={ridge} must be above 0.")
        self.ridge, self.steps, self.tolerance = ridge, steps, tolerance

    def fit(self, votes: np.ndarray, states: np.ndarray) -> Self:
        """Learn from votes `(n, N, K)`, NaN where there is none, and states `(n, d)`.

        Raises:
            ValueError: fewer than three supervisors, votes that are no probabilities, or states of other rows or not
                finite.
        """
        votes, states = _checked(votes, states)
        if votes.shape[1] < MIN_VOTERS:
            raise ValueError(f"{votes.shape[1]} supervisors: with fewer than three nobody says who of two is right.")
        self.mean, scale = states.mean(0), states.std(0)
        self.scale = np.where(scale > CONSTANT * np.abs(states).max(0), scale, 1.0)
        features, there = (states - self.mean) / self.scale, ~np.isnan(votes).any(-1)
        belief = np.nanmean(votes, 1)
        self.weight, self.bias = np.zeros((votes.shape[1], states.shape[1])), np.zeros(votes.shape[1])
        for _ in range(self.steps):
            self.prior = belief.mean(0).clip(_FLOOR)
            for i in range(votes.shape[1]):
                seen = there[:, i]
                if seen.any():
                    right = (belief[seen] * votes[seen, i]).sum(-1)
                    self.weight[i], self.bias[i] = _regression(features[seen], right, self.ridge, self.weight[i])
            new = self._posterior(votes, features)
            change, belief = np.abs(new - belief).max(), new
            if change < self.tolerance:
                break
        return self

    def accuracy(self, states: np.ndarray) -> np.ndarray:
        """`(n, d)` -> `(n, N)`, how likely each supervisor is right there."""
        return self._accuracy((np.asarray(states, float) - self.mean) / self.scale)

    def __call__(self, votes: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Probabilities `(n, K)` of rows by the fitted supervisors."""
        votes, states = _checked(votes, states)
        return self._posterior(votes, (states - self.mean) / self.scale)

    def _accuracy(self, features: np.ndarray) -> np.ndarray:
        return expit(features @ self.weight.T + self.bias).clip(_FLOOR, 1 - _FLOOR)

    def _posterior(self, votes: np.ndarray, features: np.ndarray) -> np.ndarray:
        right = self._accuracy(features)[..., None]
        each = votes * np.log(right) + (1 - votes) * np.log((1 - right) / (votes.shape[-1] - 1))
        logs = np.log(self.prior) + np.nansum(each, 1)
        found = np.exp(logs - logs.max(-1, keepdims=True))
        return found / found.sum(-1, keepdims=True)


def _checked(votes: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    votes, _ = checked_votes(votes, None)
    states = np.asarray(states, float)
    if states.ndim != 2 or len(states) != len(votes):
        raise ValueError(f"states {states.shape} for {len(votes)} rows of votes: give (n, d).")
    bad = ~np.isfinite(states).all(-1)
    if bad.any():
        raise ValueError(f"row {int(bad.argmax())}: the state is not finite.")
    return votes, states


def _regression(features: np.ndarray, right: np.ndarray, ridge: float, start: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimum of mean cross-entropy to `right` in [0, 1] plus the ridge; the bias is free."""

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = features @ parameters[:-1] + parameters[-1]
        value = np.mean(np.logaddexp(0, logits) - right * logits) + ridge / 2 * parameters[:-1] @ parameters[:-1]
        slope = (expit(logits) - right) / len(right)
        return value, np.append(features.T @ slope + ridge * parameters[:-1], slope.sum())

    middle = float(logit(right.mean().clip(_FLOOR, 1 - _FLOOR)))
    found = minimize(loss, np.append(start, middle), jac=True, method="L-BFGS-B", options={"gtol": 1e-9}).x
    return found[:-1], float(found[-1])
