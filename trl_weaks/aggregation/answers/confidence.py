"""Confidences of whole answers: how often a supervisor gives the same one, and calibration against gold."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.special import expit

RANGE = (1 / 50, 50.0)  # of the temperature; answers that are always right would ask for 0. *ours*
TINIEST = float(np.finfo(float).tiny)
METHODS = ("temperature", "isotonic")


def most_frequent(answers: Sequence[str]) -> tuple[str, float]:
    """The answer that most of k samples give, and their share; of equal ones the text that sorts first.

    With many samples at temperature 1 the share is the model's own probability of the answer.

    Example:

    >>> most_frequent(["b", "a", "b"])
    ('b', 0.6666666666666666)
    """
    counts = Counter(answers)
    best = max(sorted(counts), key=counts.__getitem__)
    return best, counts[best] / len(answers)


def calibrator(
    confidences: Sequence[float], correct: Sequence[float], method: str = "temperature"
) -> Callable[[float], float]:
    r"""A map from stated to calibrated confidence, fitted on gold.

    - `"temperature"`: $\sigma(\operatorname{logit}(c) / T)$ with the T of highest likelihood (Guo et al., 2017, for
      two outcomes). One parameter: for a few gold examples, and where confidence says something to begin with.
    - `"isotonic"`: the non-decreasing step function of least squares (Zadrozny and Elkan, 2002), linear between the
      fitted points, kept $1 / (n + 2)$ away from 0 and 1. For many gold examples.

    Args:
        confidences: in (0, 1], (n,).
        correct: how right each answer is, in [0, 1], (n,).

    Raises:
        ValueError: an unknown method, lengths that differ, or no examples.
    """
    stated, right = np.asarray(confidences, float), np.asarray(correct, float)
    if method not in METHODS:
        raise ValueError(f"calibration={method!r} is not one of {METHODS}.")
    if stated.ndim != 1 or stated.shape != right.shape or not len(stated):
        raise ValueError(f"{stated.shape} confidences and {right.shape} outcomes: give one for each, at least one.")
    if method == "isotonic":
        known, fitted = isotonic_steps(stated, right)
        return lambda confidence: float(np.interp(confidence, known, fitted))
    odds = _logit(stated)

    def likelihood(log_temperature: float) -> float:
        scaled = odds / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, -scaled) * right + np.logaddexp(0, scaled) * (1 - right)))

    found = minimize_scalar(likelihood, bounds=tuple(map(math.log, RANGE)), method="bounded", options={"xatol": 1e-10})
    temperature = math.exp(found.x)
    # not 0, even where the temperature makes the odds smaller than any number: a confidence has a logarithm
    return lambda confidence: max(float(expit(_logit(np.asarray(confidence)) / temperature)), TINIEST)


def isotonic_steps(stated: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct stated confidences in their order, and what becomes of each: see [`calibrator`]. (n,), (n,)."""
    known, place, counts = np.unique(stated, return_inverse=True, return_counts=True)
    floor = 1 / (len(stated) + 2)
    fitted = isotonic_regression(np.bincount(place, right) / counts, weights=counts).x
    return known, fitted.clip(floor, 1 - floor)


def _logit(confidence: np.ndarray) -> np.ndarray:
    inside = confidence.clip(1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)
