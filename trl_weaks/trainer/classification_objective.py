"""From logits and votes to one loss per row."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..losses.base import checked_values
from ..pooling import harden, linear_pool, log_linear_pool, majority_vote

POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": linear_pool,
    "log_linear": log_linear_pool,
    "majority": majority_vote,
}


@dataclass(frozen=True)
class VoteObjective:
    """
    Applies a loss to the votes of N supervisors (Eq. 2 and 4 of arXiv 2406.03199): `sum_i w_i loss(logits, p_i)`.

    Where the loss is linear in its target that is the loss of the mean vote, which is then computed once.

    Args:
        loss: A `WeakLoss`, or a loss with `sees_votes = True` that is called with all votes.
        pooling: `"linear"`; `"log_linear"` or `"majority"` pool the votes into one target first.
        soft_labels: Use the votes as they are, or each one's largest class.
    """

    loss: Callable[..., Tensor]
    pooling: str = "linear"
    soft_labels: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for votes that are to be pooled before a loss that fits each of them."""
        if getattr(self.loss, "sees_votes", False) and self.pooling != "linear":
            raise ValueError(
                f"`{type(self.loss).__name__}` fits every vote by itself, so `pooling={self.pooling!r}` would not "
                "reach it: leave `pooling` alone, or choose another loss."
            )

    def target(self, votes: Tensor, weights: Tensor) -> Tensor:
        """The pooled label, (B, N, K), (B, N) -> (B, K)."""
        return POOLS[self.pooling](votes if self.soft_labels else harden(votes), weights)

    def __call__(self, logits: Tensor, votes: Tensor, weights: Tensor, progress: float) -> Tensor:
        """
        (B, K), (B, N, K), (B, N), fraction of the training -> (B,) nats.

        Raises:
            ValueError: the loss did not return one number per row, or they have no gradient.
        """
        votes = votes if self.soft_labels else harden(votes)
        if getattr(self.loss, "sees_votes", False):
            return checked_values(self.loss, self.loss(logits, votes, progress, weights), logits)
        if self.pooling != "linear" or getattr(self.loss, "linear_in_targets", False):
            pooled = POOLS[self.pooling](votes, weights)
            return checked_values(self.loss, self.loss(logits, pooled, progress), logits)
        rows, supervisors, classes = votes.shape
        repeated = logits.unsqueeze(1).expand(-1, supervisors, -1).reshape(-1, classes)
        losses = checked_values(self.loss, self.loss(repeated, votes.reshape(-1, classes), progress), repeated)
        return (weights * losses.view(rows, supervisors)).sum(-1)
