"""OpenAI's product loss: the label times the student's own prediction."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss


@register_loss("product")
@dataclass(frozen=True)
class ProductLoss(WeakLoss):
    """
    Cross-entropy to the target `p^student_power * y^label_power`, normalised and detached: the weak label y and the
    student's own p as two experts. As in openai/weak-to-strong (`product_loss_fn`).

    Args:
        label_power, student_power: exponents of label and prediction; 1 and 1 are *OpenAI's code*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.product import ProductLoss
    >>> ProductLoss(student_power=0.0)(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 1.0)  # cross-entropy
    tensor([0.6931])

    ```

    See also: [`AuxiliaryConfidence`], which adds the student's prediction instead, [`NaiveLoss`] without it.
    """

    label_power: float = 1.0
    student_power: float = 1.0
    trusts_student: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("label_power", "student_power"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be at least 0 and finite, not {getattr(self, name)}")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """`(n, K)`, `(n, K)` -> nats `(n,)`; `progress` is not used."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logps = torch.log_softmax(logits, -1)
        labels = targets.detach().to(logits.dtype)
        known = torch.where(labels > 0, self.label_power * labels.log(), -math.inf if self.label_power else 0.0)
        target = torch.softmax(self.student_power * logps.detach() + known, -1)
        return -(target * logps).sum(-1)
