"""From logits and votes to one loss per row."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...losses.base import as_weak_loss, checked_values
from ...pooling import harden, linear_pool, log_linear_pool, majority_vote

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
        loss: A `WeakLoss`, called with all votes where it `needs_votes`; a function becomes one here.
        pooling: `"linear"`; `"log_linear"` or `"majority"` pool the votes into one target first. Under any other name
            the votes come pooled already.
        soft_labels: Use the votes as they are, or each one's largest class.
    """

    loss: Callable[..., Tensor]
    pooling: str = "linear"
    soft_labels: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for votes that are to be pooled before a loss that fits each of them."""
        object.__setattr__(self, "loss", as_weak_loss(self.loss))
        if self.loss.needs_votes and self.pooling != "linear":
            raise ValueError(
                f"`{self.loss.title}` fits every vote by itself, so `pooling={self.pooling!r}` would not "
                "reach it: leave `pooling` alone, or choose another loss."
            )

    def _pool(self, votes: Tensor, weights: Tensor) -> Tensor:
        return POOLS.get(self.pooling, linear_pool)(votes, weights)

    def target(self, votes: Tensor, weights: Tensor) -> Tensor:
        """The pooled label, (B, N, K), (B, N) -> (B, K)."""
        return self._pool(votes if self.soft_labels else harden(votes), weights)

    def __call__(self, logits: Tensor, votes: Tensor, weights: Tensor, progress: float) -> Tensor:
        """
        (B, K), (B, N, K), (B, N), fraction of the training -> (B,) nats.

        Raises:
            ValueError: the loss did not return one number per row, or they have no gradient.
        """
        votes = votes if self.soft_labels else harden(votes)
        if self.loss.needs_votes:
            return checked_values(self.loss, self.loss(logits, votes, progress, weights), logits)
        if self.pooling != "linear" or self.loss.linear_in_targets:
            pooled = self._pool(votes, weights)
            return checked_values(self.loss, self.loss(logits, pooled, progress), logits)
        rows, supervisors, classes = votes.shape
        repeated = logits.unsqueeze(1).expand(-1, supervisors, -1).reshape(-1, classes)
        losses = checked_values(self.loss, self.loss(repeated, votes.reshape(-1, classes), progress), repeated)
        return (weights * losses.view(rows, supervisors)).sum(-1)
