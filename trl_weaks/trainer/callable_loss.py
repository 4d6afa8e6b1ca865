"""Lets any function be a weak loss."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..losses.base import WeakLoss


@dataclass(frozen=True)
class CallableLoss:
    """A user's function as a [`WeakLoss`]; nothing is assumed about it, so supervisors are never averaged first.

    Args:
        function: `(logits (n, V), targets (n, V), progress) -> (n,)`, nats.
    """

    function: Callable[[Tensor, Tensor, float], Tensor]
    linear_in_targets = False

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return self.function(logits, targets, progress)


def as_weak_loss(loss: Callable) -> WeakLoss:
    """`loss` itself where it follows the protocol, else the function wrapped.

    Raises:
        ValueError: not callable, or a loss of all votes of a row, which tokens do not have.
    """
    check_callable(loss)
    if getattr(loss, "sees_votes", False):
        raise ValueError(
            f"`{type(loss).__name__}` reads the class votes of all supervisors, which completions do not have. Use it "
            "with `WeakClassificationTrainer`."
        )
    return loss if hasattr(loss, "linear_in_targets") else CallableLoss(loss)


def check_callable(loss: Callable) -> None:
    """Raises ValueError unless `loss` can be called."""
    if not callable(loss):
        raise ValueError(
            "`loss` must be a name, or callable as (logits, targets, progress) -> (n,); got a "
            f"`{type(loss).__name__}`."
        )
