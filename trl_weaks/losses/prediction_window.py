"""A rolling window of the student's predictions, and the thresholds that balance their classes."""

import torch
from torch import Tensor

# Coordinate sweeps of the balancing; each sweep sets every class's shift once.
_SWEEPS = 50


class PredictionWindow:
    """
    Recent student probabilities and weak labels, from which class thresholds are set so that the predicted classes
    are as frequent as the weak labels say (Burns et al., 2023, balanced their batch of 32 in this way).

    Two classes: class 0 is predicted where its probability reaches the quantile of the window at the mean weak
    probability of class 1. K classes: `argmax_k (log p_k + shift_k)` with shifts such that each class wins its share
    of the window; this is the same rule for K = 2.

    Args:
        size: Rows remembered, at least 1. 256 is *ours*: a window as small as a micro-batch of 1 would always
            predict class 0.
    """

    def __init__(self, size: int = 256) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 row, not {size}")
        self.size = size
        self._probs: Tensor | None = None
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._probs is None else len(self._probs)

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """
        Add rows, dropping the oldest beyond `size`.

        Args:
            probs: The student's probabilities, `(n, K)`; over several processes, gathered from all of them.
            targets: The weak labels of the same rows, `(n, K)`.

        Raises:
            ValueError: If the two differ in shape, or in classes from what the window holds.
        """
        if probs.dim() != 2 or probs.shape != targets.shape:
            raise ValueError(f"probs and targets must be (n, K) alike, not {probs.shape} and {targets.shape}")
        if len(self) and probs.shape[1] != self._probs.shape[1]:
            raise ValueError(f"the window holds {self._probs.shape[1]} classes, the new rows {probs.shape[1]}")
        probs, targets = probs.detach().double(), targets.detach().to(probs.device).double()
        if len(self):
            probs = torch.cat([self._probs.to(probs.device), probs])
            targets = torch.cat([self._targets.to(probs.device), targets])
        self._probs, self._targets = probs[-self.size :].clone(), targets[-self.size :].clone()

    def predict(self, logits: Tensor) -> Tensor:
        """Balanced class ids of `(n, K)` logits under the thresholds of the window, `(n,)`."""
        if not len(self):
            raise ValueError("the window is empty; update it first")
        probs, prior = self._probs.to(logits.device), self._targets.to(logits.device).mean(0)
        if probs.shape[1] == 2:
            threshold = torch.quantile(probs[:, 0], prior[1].clamp(0, 1))
            return (torch.softmax(logits.detach().double(), -1)[:, 0] < threshold).long()
        shift = _balancing_shift(probs.log().clamp(min=-700), prior)
        return (torch.log_softmax(logits.detach().double(), -1).clamp(min=-700) + shift).argmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Both tensors, for a checkpoint; empty before the first update."""
        return {"probs": self._probs, "targets": self._targets} if len(self) else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the rows of `state_dict` in place of the present ones."""
        self._probs = self._targets = None
        if state:
            self.update(state["probs"], state["targets"])


def _balancing_shift(log_probs: Tensor, prior: Tensor) -> Tensor:
    """Shifts under which class k wins a share `prior[k]` of the rows: each in turn by a quantile of its margin."""
    shift = torch.zeros_like(prior)
    for _ in range(_SWEEPS):
        before = shift.clone()
        for k in range(len(prior)):
            rivals = log_probs + shift
            rivals[:, k] = -torch.inf
            margin = log_probs[:, k] - rivals.amax(-1)
            shift[k] = -torch.quantile(margin, (1 - prior[k]).clamp(0, 1))
        if torch.equal(before, shift):
            break
    return shift
