r"""Bradley-Terry scores of completions from the votes of judges that differ in reliability and in position bias.

A vote is a comparison of two items. With q the items' scores, r_j a judge's reliability and b_j its bias towards what
it is shown first (s = +1 where the first item of the vote was shown first, -1 where it was the second):

$$P(\text{judge } j \text{ prefers } x \text{ over } y) = \sigma\bigl(r_j (q_x - q_y) + s\, b_j\bigr)$$

with q ~ N(0, 1), log r ~ N(0, 1) and b ~ N(0, 1) (*ours*): few votes give scores near 0, not near infinity.

1. Reliabilities and biases maximise the likelihood of the votes with the scores integrated out, pair by pair, by
   Gauss-Hermite quadrature. (A joint maximum over scores and reliabilities has no finite scale and believes the most
   decided judge alone: each pair's score has only a few votes.)
2. Given these, the scores of each group of items are a Gaussian around their maximum (Laplace).

A judge without a side of its own cannot take over: one that always votes for the same side leaves the fit.

Source: Bradley and Terry (1952); reliabilities of judges as in BT-sigma, with its guard against unanimous judges.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

FEWEST = 5  # votes from which on a judge that always takes one side counts as one-sided. *ours*
NODES = 31  # of the quadrature
_OPTIONS = {"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8}


@dataclass(frozen=True)
class Votes:
    """Comparisons of items, one entry per vote.

    Attributes:
        first, second: the two items, integers from 0.
        judge: who voted, integers from 0.
        preferred: how sure the judge is that `first` is better, in [0, 1]: 1 or 0 for a plain vote, 0.5 for a tie.
        shown_first: +1 where `first` was shown first, -1 where `second` was, 0 where that is not known.
    """

    first: np.ndarray
    second: np.ndarray
    judge: np.ndarray
    preferred: np.ndarray
    shown_first: np.ndarray

    def __post_init__(self):
        for name in ("first", "second", "judge"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=int))
        for name in ("preferred", "shown_first"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        if not len(self.first) == len(self.second) == len(self.judge) == len(self.preferred) == len(self.shown_first):
            raise ValueError("give one first and second item, judge, preference and position for each vote.")
        if (self.first == self.second).any() or not ((self.preferred >= 0) & (self.preferred <= 1)).all():
            raise ValueError("a vote compares two different items, with a preference in [0, 1].")

    def __len__(self) -> int:
        return len(self.first)

    def select(self, mask: np.ndarray) -> "Votes":
        return Votes(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Judges:
    """What the votes tell of the judges.

    Attributes:
        reliability: (judges,), 0 for a judge that left the fit.
        position_bias: (judges,), log-odds towards what is shown first.
        one_sided: (judges,), whether a judge left the fit.
    """

    reliability: np.ndarray
    position_bias: np.ndarray
    one_sided: np.ndarray


def fit_judges(votes: Votes) -> Judges:
    """Reliabilities and position biases, the items' scores integrated out."""
    count = int(votes.judge.max()) + 1
    one_sided = one_sided_judges(votes, count)
    used = votes.select(~one_sided[votes.judge])
    found = minimize(_marginal, np.zeros(2 * count), (used, count), jac=True, method="L-BFGS-B", options=_OPTIONS).x
    return Judges(np.where(one_sided, 0.0, np.exp(found[:count])), found[count:], one_sided)


def fit_scores(votes: Votes, judges: Judges, items: int) -> np.ndarray:
    """Scores of highest posterior given the judges, (items,); convex."""
    used = votes.select(~judges.one_sided[votes.judge])
    return minimize(_posterior, np.zeros(items), (used, judges), jac=True, method="L-BFGS-B", options=_OPTIONS).x


def fit_bradley_terry(votes: Votes, items: int) -> tuple[Judges, np.ndarray]:
    """The judges, and the items' scores given these, (items,)."""
    judges = fit_judges(votes)
    return judges, fit_scores(votes, judges, items)


def score_covariance(votes: Votes, judges: Judges, scores: np.ndarray) -> np.ndarray:
    """Covariance of the scores in Laplace's approximation, (items, items): for a small group of items at a time."""
    used = votes.select(~judges.one_sided[votes.judge])
    p = expit(_logits(used, judges, scores))
    weight = judges.reliability[used.judge] ** 2 * p * (1 - p)
    precision = np.eye(len(scores))
    for sign, a, b in ((1, used.first, used.first), (1, used.second, used.second)):
        np.add.at(precision, (a, b), sign * weight)
    np.add.at(precision, (used.first, used.second), -weight)
    np.add.at(precision, (used.second, used.first), -weight)
    return np.linalg.inv(precision)


def disagreement(mean: float, variance: float) -> float:
    """Probability that an unbiased judge of reliability 1 prefers the other item: E sigma(-d), d ~ N(mean, variance).

    Example:

    >>> disagreement(0.0, 2.0), round(disagreement(2.0, 0.0), 4)
    (0.5, 0.1192)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return float(expit(-(mean + np.sqrt(variance) * nodes)) @ weights / weights.sum())


def _logits(votes: Votes, judges: Judges, scores: np.ndarray) -> np.ndarray:
    gap = scores[votes.first] - scores[votes.second]
    return judges.reliability[votes.judge] * gap + votes.shown_first * judges.position_bias[votes.judge]


def _posterior(scores: np.ndarray, votes: Votes, judges: Judges) -> tuple[float, np.ndarray]:
    """Negative log-posterior of the scores and its gradient."""
    logit = _logits(votes, judges, scores)
    slope = (expit(logit) - votes.preferred) * judges.reliability[votes.judge]
    value = (np.logaddexp(0, logit) - votes.preferred * logit).sum() + 0.5 * (scores**2).sum()
    size = len(scores)
    return float(value), np.bincount(votes.first, slope, size) - np.bincount(votes.second, slope, size) + scores


def _marginal(at: np.ndarray, votes: Votes, judges: int) -> tuple[float, np.ndarray]:
    """Negative log-posterior of (log r, b) with each pair's gap d ~ N(0, 2) integrated out, and its gradient."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    gaps, log_weights = np.sqrt(2) * nodes, np.log(weights / weights.sum())
    low, high = np.minimum(votes.first, votes.second), np.maximum(votes.first, votes.second)
    _, pair = np.unique(np.stack([low, high]), axis=1, return_inverse=True)
    pair = pair.reshape(-1)
    side = np.where(votes.first < votes.second, 1.0, -1.0)  # of the gap, seen from the vote
    r, b = np.exp(at[:judges])[votes.judge], at[judges:][votes.judge]
    logit = (r * side)[:, None] * gaps + (votes.shown_first * b)[:, None]  # (votes, nodes)
    likelihood = votes.preferred[:, None] * logit - np.logaddexp(0, logit)
    pairs = int(pair.max()) + 1 if len(pair) else 0
    joint = np.zeros((pairs, NODES)) + log_weights
    np.add.at(joint, pair, likelihood)
    total = logsumexp(joint, axis=1)
    share = np.exp(joint - total[:, None])[pair]  # posterior of each vote's gap
    slope = (votes.preferred[:, None] - expit(logit)) * share
    to_r = np.bincount(votes.judge, (slope * gaps).sum(1) * side * r, judges)
    to_b = np.bincount(votes.judge, slope.sum(1) * votes.shown_first, judges)
    return float(-total.sum() + 0.5 * (at**2).sum()), at - np.concatenate([to_r, to_b])


def one_sided_judges(votes: Votes, judges: int) -> np.ndarray:
    """(judges,): at least `FEWEST` votes that all go to what is shown first, or all to what is shown second."""
    towards = np.where(votes.shown_first > 0, votes.preferred, 1 - votes.preferred)
    towards = np.where(votes.shown_first == 0, np.nan, towards)
    found: np.ndarray = np.zeros(judges, bool)
    for j in range(judges):
        sides = towards[votes.judge == j]
        sides = sides[np.isfinite(sides)]
        found[j] = len(sides) >= FEWEST and ((sides > 0.5).all() or (sides < 0.5).all())
    return found
