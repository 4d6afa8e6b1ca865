"""The loss a trainer is given: a name, a weak loss, or any function."""

from collections.abc import Callable
from typing import Any

from ...losses.base import WeakLoss, as_weak_loss


def chosen_loss(settings: Any, loss: "Callable | str | None") -> tuple[Any, WeakLoss]:
    """The settings to train with and their loss, or the one given instead: a function, or a name of `weak_loss`.

    Raises:
        ValueError: no such name, not callable, or `loss_kwargs` beside a loss that is made already.
    """
    if isinstance(loss, str):
        settings = settings.with_loss(loss)
    elif loss is not None:
        if not callable(loss):
            raise ValueError(
                "`loss` must be a name, or callable as (logits, targets, progress) -> (n,); got a "
                f"`{type(loss).__name__}`."
            )
        if settings.loss_kwargs:
            raise ValueError("`loss_kwargs` are for a loss given by name; give this one its arguments itself.")
        return settings, as_weak_loss(loss)
    return settings, settings.build_loss()


def refuse_over_tokens(loss: WeakLoss) -> None:
    """
    Raises:
        ValueError: a loss of all votes of a row, which tokens do not have, or balanced thresholds over a vocabulary.
    """
    if loss.window is not None:
        raise ValueError("`threshold='balanced'` is for classification; use 'argmax' over a vocabulary.")
    if loss.needs_votes:
        raise ValueError(
            f"`{loss.title}` reads the class votes of all supervisors, which completions do not have. Use it with "
            "`WeakClassificationTrainer`."
        )
