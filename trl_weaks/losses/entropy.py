"""Entropy: part of the loss makes the student sure, whatever of."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss


@register_loss("entropy")
@dataclass(frozen=True)
class Entropy(WeakLoss):
    """
    `(1 - c) CE(p, y) + c H(p)`: the weak label y, and the entropy of the student's own prediction p, with its gradient
    (Grandvalet and Bengio, 2004). c rises linearly, then stays.

    What EleutherAI/w2s calls `entropy` takes the cross-entropy to the *detached* p instead. Its value is H(p), and its
    gradient 0: that loss only makes the weak labels' gradient smaller, and what was reported of it says nothing of
    this one.

    Args:
        coefficient: final c, in [0, 1). 0.5 is the *authors' code*.
        rise: share of the training over which c rises from 0. They count 100 steps; 0.25 is *ours*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.entropy import Entropy
    >>> Entropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1.0)  # (2.1269 + 0.3653) / 2
    tensor([1.2461])

    ```

    See also: [`ConfidenceWindow`], which leaves sure rows alone, [`ProductLoss`], which sharpens the label instead.
    """

    coefficient: float = 0.5
    rise: float = 0.25
    trusts_student: ClassVar[bool] = True
    linear_in_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.coefficient < 1:
            raise ValueError(f"coefficient must lie in [0, 1), not {self.coefficient}")
        if not 0 <= self.rise <= 1:
            raise ValueError(f"rise is a share of the training, in [0, 1], not {self.rise}")

    def share(self, progress: float) -> float:
        """c at this fraction of the training."""
        return self.coefficient * (min(1.0, progress / self.rise) if self.rise else 1.0)

    def logged(self, progress: float) -> dict[str, float]:
        """`weak/entropy_share`, c."""
        return {"weak/entropy_share": self.share(progress)}

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 1.0) -> Tensor:
        """`(n, K)`, `(n, K)`, fraction of the training -> nats `(n,)`."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logps, c = torch.log_softmax(logits, -1), self.share(progress)
        label = -(targets.detach().to(logits.dtype) * logps).sum(-1)
        return (1 - c) * label - c * (logps.exp() * logps).sum(-1) if c else label
