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
        ValueError: not callable.
    """
    if not callable(loss):
        raise ValueError(f"`loss` must be callable as (logits, targets, progress) -> (n,), got {type(loss).__name__}.")
    return loss if hasattr(loss, "linear_in_targets") else CallableLoss(loss)
