"""Temperature scaling of a classifier's probabilities on held-out gold (Guo et al., 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

RANGE = (0.01, 100.0)  # of the temperature; a classifier that is always right would ask for 0


def fit_temperature(probabilities: Tensor, labels: Sequence[int] | Tensor) -> float:
    """The T for which p^{1/T} / Z has the highest likelihood: (n, K), (n,) -> a number in [0.01, 100].

    The negative log-likelihood is convex in 1/T, so its slope is followed by bisection.

    Raises:
        ValueError: nothing to fit on, or labels out of range.
    """
    labels = torch.as_tensor(labels, dtype=torch.long)
    if probabilities.dim() != 2 or len(labels) != len(probabilities) or not len(labels):
        raise ValueError(f"{len(labels)} labels for probabilities {tuple(probabilities.shape)}; give one for each.")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be class ids from 0 to {probabilities.shape[1] - 1}.")
    logs = probabilities.double().clamp_min(1e-300).log()
    margins = logs - logs.gather(1, labels[:, None])

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
