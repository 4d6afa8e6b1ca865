"""REALM: every supervisor answers from the student's distribution, or guesses."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss


@register_loss("realm")
@dataclass(frozen=True)
class Realm(WeakLoss):
    """
    `-sum_i w_i sum_k y_ik log(e p_k + (1 - e) / K)` over the votes y_i of N supervisors. After arXiv 2604.17289: a
    supervisor of expertise e says what the student would say, and guesses otherwise. The gradient is that of
    cross-entropy times `e p / (e p + (1 - e) / K)`: votes that the student finds absurd hardly count, so the loss is
    not that of the mean vote.

    The paper learns an expertise for each supervisor along with the student; here it is one number that is given, and
    the supervisors' weights tell them apart (*ours*).

    Args:
        expertise: e in (0, 1); 0.9 is *ours*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.realm import Realm
    >>> votes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> Realm()(torch.zeros(1, 2), votes, 1.0)
    tensor([0.6931])

    ```
    """

    expertise: float = 0.9
    needs_votes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.expertise < 1:
            raise ValueError(f"expertise must lie in (0, 1), not {self.expertise}")

    def __call__(self, logits: Tensor, votes: Tensor, progress: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """`(n, K)`, votes `(n, N, K)`, weights `(n, N)` that sum to 1 over N, equal by default -> nats `(n,)`."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logps = torch.log_softmax(logits, -1)[:, None]
        guess = torch.full_like(logps, math.log((1 - self.expertise) / logits.shape[-1]))
        likely = torch.logaddexp(math.log(self.expertise) + logps, guess)
        each = -(votes.detach().to(logits.dtype) * likely).sum(-1)
        return each.mean(-1) if weights is None else (weights.to(logits.dtype) * each).sum(-1)
