"""Adaptive confidence: each row decides how far it trusts the student."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss


@register_loss("adaptive_confidence")
@dataclass(frozen=True)
class AdaptiveConfidence(WeakLoss):
    """
    `(1 - a) CE(p, y) + a CE(p, own class)`, where a grows with how much surer the student is of its own class than of
    the label's: `a = e^(CE(p, own)/T) / (e^(CE(p, own)/T) + e^(CE(p, label's class)/T))`, detached. Arxiv 2402.03749
    and its code (AdaptConf).

    As printed the larger exponential is that of the *larger* loss, so a is at most 1/2, and smaller where the student
    is surer of itself; `invert=True` is the reading in which a sure student is trusted more (*ours*).

    Args:
        temperature: T; 0.5 is the *paper's* for small images.
        invert: see above.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.adaptive_confidence import AdaptiveConfidence
    >>> AdaptiveConfidence()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 1.0)
    tensor([0.6931])

    ```

    See also: [`AuxiliaryConfidence`] for one share of all rows, [`ConfidenceWindow`], which leaves sure rows alone.
    """

    temperature: float = 0.5
    invert: bool = False
    trusts_student: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """`(n, K)`, `(n, K)` -> nats `(n,)`; `progress` is not used."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logps = torch.log_softmax(logits, -1)
        labels = targets.detach().to(logits.dtype)
        own = -logps.gather(-1, logps.argmax(-1, keepdim=True))[:, 0]
        label = -logps.gather(-1, labels.argmax(-1, keepdim=True))[:, 0]
        gap = (own - label).detach() / self.temperature
        share = torch.sigmoid(-gap if self.invert else gap)
        return (1 - share) * -(labels * logps).sum(-1) + share * own
