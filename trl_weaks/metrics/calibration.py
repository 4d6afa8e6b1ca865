"""Do stated confidences agree with how often they are right?"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def reliability_bins(
    confidences: Sequence[float], correct: Sequence[float], bins: int = 10
) -> dict[str, list[float] | list[int]]:
    """Reliability diagram in equal-width bins `[low, high)`, the last closed (DeGroot & Fienberg, 1983).

    Args:
        correct: 1 or 0, or, of an answer that ties, the share of it that is right.

    Returns:
        `edges` (bins + 1), `count`, mean `confidence` and `accuracy` per bin; the last two are NaN in empty bins.

    Raises:
        ValueError: lengths differ, no rows, or a row (named) with a confidence or `correct` outside [0, 1].
    """
    confidence, right = _checked(confidences, correct, shares=True)
    if bins < 1:
        raise ValueError(f"bins={bins}: give at least one")
    edges = np.arange(bins + 1) / bins  # 3 / 10 is the number that 0.3 stands for; linspace gives the next one
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    empty = np.full(bins, np.nan)
    means = [
        np.divide(np.bincount(index, v, bins), count, out=empty.copy(), where=count > 0) for v in (confidence, right)
    ]
    return {
        "edges": edges.tolist(),
        "count": count.tolist(),
        "confidence": means[0].tolist(),
        "accuracy": means[1].tolist(),
    }


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[float], bins: int = 10) -> float:
    """Mean over bins of |accuracy - confidence|, weighted by their share of the rows (Naeini et al., 2015)."""
    table = reliability_bins(confidences, correct, bins)
    count = np.array(table["count"])
    gap = np.abs(np.array(table["accuracy"]) - np.array(table["confidence"]))
    return float((count * np.where(count > 0, gap, 0)).sum() / count.sum())


def brier_score(probabilities: Any, outcomes: Sequence[int]) -> float:
    """Mean squared error of probabilities (Brier, 1950).

    Args:
        probabilities: `(n,)`, the probability that each row is right, with `outcomes` 0 or 1: in [0, 1]; or `(n, K)`,
            rows that sum to 1, with `outcomes` the classes: summed over classes, in [0, 2].
    """
    table = np.asarray(probabilities, dtype=float)
    if table.ndim == 1:
        confidence, right = _checked(table, outcomes)
        return float(((confidence - right) ** 2).mean())
    label = np.asarray(outcomes)
    if table.ndim != 2 or label.shape != table.shape[:1] or not len(table):
        raise ValueError(f"probabilities {table.shape} and outcomes {label.shape}: give (n,) or (n, K), and (n,)")
    bad = ~(np.isfinite(table).all(1) & (table >= 0).all(1) & np.isclose(table.sum(1), 1, atol=1e-4))
    if bad.any():
        raise ValueError(f"probabilities[{bad.argmax()}] = {table[bad.argmax()].tolist()} do not sum to 1")
    outside = ~np.isin(label, np.arange(table.shape[1]))
    if outside.any():
        raise ValueError(
            f"outcomes[{outside.argmax()}] = {label[outside.argmax()]} is not a class of {table.shape[1]}"
        )
    return float(((table - np.eye(table.shape[1])[label.astype(int)]) ** 2).sum(1).mean())


def _checked(
    confidences: Sequence[float], correct: Sequence[float], shares: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    confidence, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if confidence.ndim != 1 or confidence.shape != right.shape or not len(confidence):
        raise ValueError(f"confidences {confidence.shape} and correct {right.shape}: give two lists of one length")
    outside = ~((confidence >= 0) & (confidence <= 1))
    if outside.any():
        raise ValueError(f"confidences[{outside.argmax()}] = {confidence[outside.argmax()]} is not a probability")
    other = ~((right >= 0) & (right <= 1)) if shares else ~np.isin(right, (0, 1))
    if other.any():
        what = "no share in [0, 1]" if shares else "neither 0 nor 1"
        raise ValueError(f"correct[{other.argmax()}] = {right[other.argmax()]} is {what}")
    return confidence, right
