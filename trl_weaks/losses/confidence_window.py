"""EleutherAI's window loss: only what the student is unsure of is learnt from the weak labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss


@register_loss("confidence_window")
@dataclass(frozen=True)
class ConfidenceWindow(WeakLoss):
    """
    `CE(p, y)` where `max p < 0.5 + radius`, else 0: a student that is sure is left alone. As in EleutherAI/w2s
    (`confidence_window_loss`), for two classes.

    The mean is over all rows, those that are left alone included, as there. With K classes, or over a vocabulary, the
    bound on the largest probability stays what it is (*ours*).

    Args:
        radius: 0.15 is the *authors' code*. Their `"midweak"` is the median confidence of the weak labels, less 0.5.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.confidence_window import ConfidenceWindow
    >>> ConfidenceWindow()(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 1.0)
    tensor([0.6931, 0.0000])

    ```

    See also: [`AdaptiveConfidence`], where trust in the student grows row by row, [`Entropy`], which makes it sure.
    """

    radius: float = 0.15
    trusts_student: ClassVar[bool] = True
    linear_in_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 0.5:
            raise ValueError(f"radius must lie in (0, 0.5], not {self.radius}")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """`(n, K)`, `(n, K)` -> nats `(n,)`; `progress` is not used."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logps = torch.log_softmax(logits, -1)
        unsure = logps.detach().amax(-1).exp() < 0.5 + self.radius
        return torch.where(unsure, -(targets.detach().to(logits.dtype) * logps).sum(-1), 0.0)
