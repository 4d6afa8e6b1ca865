"""A rolling window of the student's predictions, and the thresholds that balance their classes."""

import torch
from torch import Tensor

# Coordinate sweeps of the balancing, at most; each sets every class's shift once. Three to five are usual.
_SWEEPS = 50
_SMALLEST = -700.0  # log-probability that stands for a probability of 0


class PredictionWindow:
    """
    Recent student probabilities and weak labels, from which class thresholds are set so that the predicted classes
    are as frequent as the weak labels say (Burns et al., 2023, balanced their batch of 32 in this way).

    Two classes: class 0 is predicted where its probability reaches the quantile of the window at the mean weak
    probability of class 1. K classes: `argmax_k (log p_k + shift_k)` with shifts such that each class wins its share
    of the window; this is the same rule for K = 2.

    The window lives on the CPU, and its thresholds are computed once after each change.

    ```python
    >>> import torch
    >>> from trl_weaks.losses import PredictionWindow
    >>> window = PredictionWindow()
    >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])  # an argmax would say 0 four times
    >>> window.update(probs, torch.tensor([[0.5, 0.5]]).expand(4, 2))
    >>> window.predict(probs.log()).tolist()
    [0, 0, 1, 1]

    ```

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
        self._held: list[tuple[Tensor, Tensor]] = []
        self._threshold: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._probs is None else len(self._probs)

    @property
    def holding(self) -> bool:
        """Whether rows wait for `release`."""
        return bool(self._held)

    def hold(self, probs: Tensor, targets: Tensor) -> None:
        """
        Keep the rows of a micro-batch aside until `release`, so that all micro-batches of an optimiser update meet
        the same thresholds and its gradient does not depend on how it was cut. Arguments as in `update`.
        """
        self._held.append((probs.detach().cpu(), targets.detach().cpu()))

    def release(self) -> None:
        """Add what was held, in its order: call it when an optimiser update is complete."""
        held, self._held = self._held, []
        if held:
            self.update(*(torch.cat(part) for part in zip(*held, strict=True)))

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """
        Add rows, dropping the oldest beyond `size`; the next `predict` knows them.

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
        probs, targets = probs.detach().cpu().double(), targets.detach().cpu().double()
        if len(self):
            probs, targets = torch.cat([self._probs, probs]), torch.cat([self._targets, targets])
        self._probs, self._targets = probs[-self.size :].clone(), targets[-self.size :].clone()
        self._threshold = None

    def predict(self, logits: Tensor) -> Tensor:
        """Balanced class ids of `(n, K)` logits under the thresholds of the window, `(n,)`."""
        if not len(self):
            raise ValueError("the window is empty; update it first")
        if self._threshold is None:
            self._threshold = self._balance()
        threshold, logits = self._threshold.to(logits.device), logits.detach().double()
        if threshold.dim() == 0:
            return (torch.softmax(logits, -1)[:, 0] < threshold).long()
        return (torch.log_softmax(logits, -1).clamp(min=_SMALLEST) + threshold).argmax(-1)

    def _balance(self) -> Tensor:
        """The threshold of class 0's probability where there are two classes, the shift of each where more."""
        prior = self._targets.mean(0)
        if len(prior) == 2:
            return torch.quantile(self._probs[:, 0], prior[1].clamp(0, 1))
        return _balancing_shift(self._probs.log().clamp(min=_SMALLEST), prior)

    def state_dict(self) -> dict[str, Tensor]:
        """Both tensors, for a checkpoint; empty before the first update. Rows on hold are not among them."""
        return {"probs": self._probs, "targets": self._targets} if len(self) else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the rows of `state_dict` in place of the present ones."""
        self._probs = self._targets = self._threshold = None
        self._held = []
        if state:
            self.update(state["probs"], state["targets"])


def _balancing_shift(log_probs: Tensor, prior: Tensor) -> Tensor:
    """
    Shifts under which class k wins a share `prior[k]` of the rows, up to a few rows where K is large.

    Each class in turn is set by a quantile of its margin over the best of the others. Shares are whole rows and priors
    are not, so the sweeps never come to rest; they end when the shares no longer come closer to the prior.
    """
    rows = log_probs.T.contiguous()  # (K, n)
    scores, shift = rows.clone(), torch.zeros_like(prior)
    best, closest = shift, torch.inf
    for _ in range(_SWEEPS):
        for k in range(len(prior)):
            scores[k] = -torch.inf
            shift[k] = -_quantile(rows[k] - scores.amax(0), 1 - float(prior[k]))
            torch.add(rows[k], shift[k], out=scores[k])
        shares = scores.argmax(0).bincount(minlength=len(prior)) / rows.shape[1]
        distance = float((shares - prior).abs().sum())
        if distance >= closest:
            break
        best, closest = shift.clone(), distance
    return best


def _quantile(values: Tensor, share: float) -> Tensor:
    """`torch.quantile` with a tenth of its overhead, which the sweeps would pay K times each."""
    place = min(max(share, 0.0), 1.0) * (len(values) - 1)
    below = min(int(place), max(len(values) - 2, 0))
    ordered = values.sort().values
    return torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], place - below)
