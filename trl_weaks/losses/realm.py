"""REALM: every supervisor answers from the student's distribution, or guesses."""

from collections.abc import Sequence
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

    The paper learns an expertise for each supervisor along with the student, as `LearnedRealm` does; here it is given.

    Args:
        expertise: e in (0, 1) of all supervisors, or a list with that of each, in the order of the votes: rows then
            need the votes of all of them in this order. One vote alone, gold that is evaluated, has their mean. 0.9 is
            *ours*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.realm import Realm
    >>> votes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> Realm()(torch.zeros(1, 2), votes, 1.0)
    tensor([0.6931])

    ```

    See also: [`LearnedRealm`], which learns the expertise, [`DirichletVotes`] for votes that disagree.
    """

    expertise: float | Sequence[float] = 0.9
    needs_votes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = [self.expertise] if isinstance(self.expertise, int | float) else list(self.expertise)
        if not given or not all(isinstance(e, int | float) and 0 < e < 1 for e in given):
            raise ValueError(f"expertise must lie in (0, 1), not {self.expertise}")
        if not isinstance(self.expertise, int | float):
            object.__setattr__(self, "tells_supervisors_apart", True)
            object.__setattr__(self, "min_supervisors", len(given))
            object.__setattr__(self, "max_supervisors", len(given))

    def __call__(self, logits: Tensor, votes: Tensor, progress: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """`(n, K)`, votes `(n, N, K)`, weights `(n, N)` that sum to 1 over N, equal by default -> nats `(n,)`."""
        given = torch.as_tensor(self.expertise, dtype=torch.float64)
        if given.dim() and votes.shape[1] == 1:
            given = given.mean()
        if given.dim() and len(given) != votes.shape[1]:
            raise ValueError(
                f"expertise has {len(given)} numbers, and rows have {votes.shape[1]} votes: give one each."
            )
        return vote_losses(logits, votes, weights, given.expand(votes.shape[1]))


def vote_losses(logits: Tensor, votes: Tensor, weights: Tensor | None, expertise: Tensor) -> Tensor:
    """The formula of [`Realm`] with the expertise of each supervisor, `(N,)`; shapes and units as there."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logps = torch.log_softmax(logits, -1)[:, None]
    e = expertise.to(logps)[:, None]
    likely = torch.logaddexp(e.log() + logps, ((1 - e) / logits.shape[-1]).log())
    each = -(votes.detach().to(logits.dtype) * likely).sum(-1)
    return each.mean(-1) if weights is None else (weights.to(logits.dtype) * each).sum(-1)
