"""Labels that can be accepted unseen: a confidence above which the error rate is bounded, and its curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

STEPS = 20  # thresholds that are tried, from the most confident labels on. *ours*


def binomial_upper(errors: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound of an error rate: the rate is below it with probability `confidence` or more.

    Args:
        errors: how often of `trials` it went wrong.

    Source: Clopper and Pearson (1934). 1.0 without trials.

    Example:

    >>> round(binomial_upper(0, 29), 4)
    0.0981
    """
    if not 0 <= errors <= trials:
        raise ValueError(f"{errors} errors of {trials} trials: errors must lie between 0 and the trials.")
    _check_share("confidence", confidence)
    return 1.0 if errors == trials else float(beta.ppf(confidence, errors + 1, trials - errors))


@dataclass(frozen=True)
class Threshold:
    """What fixed-sequence testing found.

    Attributes:
        confidence: labels of at least this confidence are accepted; infinity where none can be.
        gold: gold examples among them. `errors`: those that are wrong.
        bound: upper bound of the error rate of what is accepted, at the confidence asked for; NaN where nothing is.
    """

    confidence: float
    gold: int
    errors: int
    bound: float


def bounded_threshold(
    confidences: Sequence[float], correct: Sequence[bool], risk: float = 0.1, confidence: float = 0.95
) -> Threshold:
    r"""The lowest confidence from which on labels may be accepted at an error rate of at most `risk`.

    Thresholds are tried from the most confident gold examples on, in steps that depend on the confidences alone. Each
    is passed if the Clopper-Pearson bound of its errors is at most `risk`; the first that is not ends the sequence
    (fixed-sequence testing). So with probability `confidence` or more over the draw of the gold examples, the rate of
    errors among accepted labels is at most `risk`, however many thresholds were tried. The gold examples must be a
    random sample of what is labelled.

    The sequence starts at three times the gold examples that a bound of `risk` needs without any error, so that a
    single mistake does not end it. *ours*

    Args:
        confidences: of the gold examples' labels, (n,).
        correct: whether each label is right, (n,).

    Raises:
        ValueError: lengths differ, a value that is no probability, or a level outside (0, 1).

    Source: Jung, Brahman and Choi, "Trust or Escalate" (arXiv 2407.18370), after Angelopoulos et al.,
    "Learn then Test" (arXiv 2110.01052).
    """
    _check_share("risk", risk)
    _check_share("confidence", confidence)
    scores, right = _checked(confidences, correct)
    order = np.argsort(-scores, kind="stable")
    scores, wrong = scores[order], ~right[order]
    needed = math.ceil(math.log(1 - confidence) / math.log(1 - risk))
    best = Threshold(math.inf, 0, 0, math.nan)
    for count in _sequence(scores, min(3 * needed, len(scores))):
        errors = int(wrong[:count].sum())
        bound = binomial_upper(errors, count, confidence)
        if bound > risk:
            break
        best = Threshold(float(scores[count - 1]), count, errors, bound)
    return best


def coverage_risk_curve(
    confidences: Sequence[float], correct: Sequence[bool], confidence: float = 0.95
) -> dict[str, list[float]]:
    """Error rate of the most confident labels, against the share that they are.

    Returns:
        For every distinct confidence, highest first: `threshold`, `coverage` (share of the gold examples), `risk`
        (their error rate) and `bound` (Clopper-Pearson, of each point by itself).
    """
    scores, right = _checked(confidences, correct)
    order = np.argsort(-scores, kind="stable")
    scores, wrong = scores[order], np.cumsum(~right[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    counts: np.ndarray = last + 1
    return {
        "threshold": scores[last].tolist(),
        "coverage": (counts / len(scores)).tolist(),
        "risk": (wrong[last] / counts).tolist(),
        "bound": [binomial_upper(int(e), int(n), confidence) for e, n in zip(wrong[last], counts, strict=True)],
    }


def area_under_risk(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean error rate over all shares of the labels that could be accepted, the most confident first, in [0, 1].

    The area under [`coverage_risk_curve`] (Geifman, Uziel and El-Yaniv, 2019), where equal confidences are
    accepted together: the mean, over the examples, of the error rate among those at least as confident.

    Example:

    >>> area_under_risk([0.9, 0.5], [True, False]), area_under_risk([0.5, 0.9], [True, False])
    (0.25, 0.75)
    """
    curve = coverage_risk_curve(confidences, correct)
    return float(np.diff(curve["coverage"], prepend=0.0) @ np.array(curve["risk"]))


def _sequence(scores: np.ndarray, start: int) -> list[int]:
    """How many of the most confident examples each threshold takes in; equal confidences stay together."""
    wanted = np.unique(np.linspace(start, len(scores), STEPS).round().astype(int))
    return sorted({int(np.searchsorted(-scores, -scores[count - 1], side="right")) for count in wanted})


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} must lie between 0 and 1.")


def _checked(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    scores, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if scores.ndim != 1 or scores.shape != right.shape or not len(scores):
        raise ValueError(f"confidences {scores.shape} and correct {right.shape}: give two lists of one length.")
    outside = ~((scores >= 0) & (scores <= 1))
    if outside.any():
        raise ValueError(f"confidences[{outside.argmax()}] = {scores[outside.argmax()]} is not a probability.")
    other = ~np.isin(right, (0, 1))
    if other.any():
        raise ValueError(f"correct[{other.argmax()}] = {right[other.argmax()]} is neither 0 nor 1.")
    return scores, right.astype(bool)
