"""Whether what is measured before gold is there predicts the gain that gold then shows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from trl_weaks.metrics.bootstrap import limits

LEAST = 3  # methods: of two, every rank correlation is 1 or -1
# Of four methods in a perfect order, 2 / 4! = 8 % of all orders are as extreme; of five, 2 %. The bootstrap does not
# see that: it draws a perfect order from a perfect order.
LEAST_FOR_INTERVAL = 5


class GainAudit(NamedTuple):
    """What `audit_prediction` finds.

    Attributes:
        correlation: Spearman's, over all methods and seeds; NaN where the prediction or the gain is constant.
        interval: of the bootstrap over methods and seeds, within [-1, 1].
        points: methods times seeds.
    """

    correlation: float
    interval: tuple[float, float]
    points: int


def audit_prediction(
    prediction: ArrayLike, gain: ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> GainAudit:
    """Rank correlation of a prediction with the gain it should tell, with an interval. *ours*

    Methods are drawn with replacement, and seeds likewise. A draw in which either side is constant has no correlation;
    it counts as -1 for the lower limit and as 1 for the upper one. Of fewer than five methods even a perfect order may
    be chance, so their interval is [-1, 1]. The methods of one study share supervisors, data
    and test examples: the interval is about other methods of this kind on this task, not about other tasks.

    Args:
        prediction, gain: (methods, seeds), or (methods,) for one seed.

    Raises:
        ValueError: unequal shapes, fewer than three methods, or values that are not finite.

    Example:

    >>> audit_prediction([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 5.0]).correlation
    1.0
    """
    told, real = (np.asarray(given, float) for given in (prediction, gain))
    if told.shape != real.shape or told.ndim not in (1, 2) or not told.size:
        raise ValueError(f"prediction {told.shape} and gain {real.shape}: give (methods, seeds) twice.")
    if len(told) < LEAST:
        raise ValueError(f"{len(told)} methods: a rank correlation needs {LEAST} or more.")
    for name, table in (("prediction", told), ("gain", real)):
        bad = np.argwhere(~np.isfinite(table))
        if len(bad):
            raise ValueError(f"{name}: the value of method {bad[0][0]} is not finite.")
    if len(told) < LEAST_FOR_INTERVAL:
        return GainAudit(_spearman(told.ravel(), real.ravel()), (-1.0, 1.0), told.size)
    told, real = told.reshape(len(told), -1), real.reshape(len(real), -1)
    rng = np.random.default_rng(seed)
    methods, seeds = told.shape
    draws = np.empty(resamples)
    for number in range(resamples):
        rows, runs = rng.integers(0, methods, methods), rng.integers(0, seeds, seeds)
        draws[number] = _spearman(told[np.ix_(rows, runs)], real[np.ix_(rows, runs)])
    low, high = limits(draws, confidence)
    return GainAudit(_spearman(told, real), (max(low, -1.0), min(high, 1.0)), told.size)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Ties at their mean rank; NaN where one side is constant."""
    a, b = (rankdata(values) - (values.size + 1) / 2 for values in (first, second))
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else float("nan")
