"""Calibration of a classifier's probabilities on held-out gold: temperature scaling, or isotonic regression."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .answers.confidence import isotonic_steps

RANGE = (0.01, 100.0)  # of the temperature; a classifier that is always right would ask for 0


def fit_temperature(probabilities: Tensor, labels: Sequence[int] | Tensor) -> float:
    """The T for which p^{1/T} / Z has the highest likelihood: (n, K), (n,) -> a number in [0.01, 100].

    Source: Guo et al. (2017). The negative log-likelihood is convex in 1/T, so its slope is followed by bisection.

    Raises:
        ValueError: nothing to fit on, labels out of range, or probabilities that are not finite (row named).
    """
    labels = _checked(probabilities, labels)
    logs = probabilities.double().clamp_min(1e-300).log()
    margins = logs - logs.gather(1, labels[:, None])
    if margins.abs().max() < 1e-12:  # every row says the same of every class, and any T fits as well
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood in 1/T."""
        return float((torch.softmax(inverse * logs, -1) * margins).sum())

    low, high = 1 / RANGE[1], 1 / RANGE[0]
    if slope(high) <= 0:
        return RANGE[0]
    if slope(low) > 0:
        return RANGE[1]
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / low


def fit_isotonic(probabilities: Tensor, labels: Sequence[int] | Tensor) -> Callable[[Tensor], Tensor]:
    """A map of probabilities, (rows, K) -> (rows, K): each class against the rest, then normalised.

    The probability of a class becomes how often gold has the class where it was stated: the non-decreasing fit of
    least squares, linear between the fitted points, kept 1 / (n + 2) away from 0 and 1. For many gold rows, some of
    every class.

    Source: Zadrozny and Elkan (2002).

    Raises:
        ValueError: nothing to fit on, or labels out of range.

    Example:

    >>> stated = torch.tensor([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 4)
    >>> fit_isotonic(stated, [0, 0, 0, 1, 1, 1, 0, 0])(stated[[0, 4]])
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    labels = _checked(probabilities, labels).numpy()
    stated = probabilities.double().numpy()
    steps = [isotonic_steps(stated[:, k], (labels == k).astype(float)) for k in range(stated.shape[1])]

    def calibrated(asked: Tensor) -> Tensor:
        columns = [np.interp(asked[:, k].double().numpy(), *step) for k, step in enumerate(steps)]
        found = torch.from_numpy(np.stack(columns, -1))
        return found / found.sum(-1, keepdim=True)

    return calibrated


def _checked(probabilities: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    labels = torch.as_tensor(labels, dtype=torch.long)
    if probabilities.dim() != 2 or len(labels) != len(probabilities) or not len(labels):
        raise ValueError(f"{len(labels)} labels for probabilities {tuple(probabilities.shape)}; give one for each.")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be class ids from 0 to {probabilities.shape[1] - 1}.")
    bad = ~probabilities.isfinite().all(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"row {row}: {probabilities[row].tolist()} are no probabilities; drop the row.")
    return labels
