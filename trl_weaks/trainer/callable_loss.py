"""The loss a trainer is given: a name, a weak loss, or any function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..losses.auxiliary_confidence import AuxiliaryConfidence
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


def chosen_loss(settings: Any, loss: "Callable | str | None") -> tuple[Any, Callable]:
    """The settings to train with and their loss, or the one given instead: a function, or a name of `weak_loss`.

    Raises:
        ValueError: no such name, or not callable.
    """
    if isinstance(loss, str):
        settings = settings.with_loss(loss)
    elif loss is not None:
        if not callable(loss):
            raise ValueError(
                "`loss` must be a name, or callable as (logits, targets, progress) -> (n,); got a "
                f"`{type(loss).__name__}`."
            )
        return settings, loss
    return settings, settings.build_loss()


def as_weak_loss(loss: Callable) -> WeakLoss:
    """`loss` itself where it follows the protocol, else the function wrapped.

    Raises:
        ValueError: a loss of all votes of a row, which tokens do not have, or balanced thresholds over a vocabulary.
    """
    if isinstance(loss, AuxiliaryConfidence) and loss.window is not None:
        raise ValueError("`threshold='balanced'` is for classification; use 'argmax' over a vocabulary.")
    if getattr(loss, "sees_votes", False):
        raise ValueError(
            f"`{type(loss).__name__}` reads the class votes of all supervisors, which completions do not have. Use it "
            "with `WeakClassificationTrainer`."
        )
    return loss if hasattr(loss, "linear_in_targets") else CallableLoss(loss)
