"""Cross-entropy with soft or hard weak labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NaiveLoss:
    """
    Cross-entropy of the weak label, Eq. 2 of Cui et al. (arXiv 2406.03199) for one supervisor: `-sum_k y_k log p_k`.

    Linear in the target, so the weighted sum over supervisors is the loss of the weighted mean label.
    """

    @property
    def linear_in_targets(self) -> bool:
        return True

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """`(n, K)`, `(n, K)` -> nats `(n,)`; `progress` is not used."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return -(targets.detach().to(logits.dtype) * torch.log_softmax(logits, -1)).sum(-1)
