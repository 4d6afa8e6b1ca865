"""What a weak loss is: a callable from logits and soft targets to nats per row."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class WeakLoss(Protocol):
    """
    A loss over K classes; a classifier calls it with its classes, the language-model head with K = vocabulary.

    Attributes:
        linear_in_targets: Whether the value and the gradient are linear in `targets`. Then several supervisors of
            one row are merged into their weighted mean target before the call, which is exact and cheaper.
    """

    linear_in_targets: bool

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """
        Args:
            logits: `(n, K)`, any floating dtype.
            targets: `(n, K)`, rows that sum to 1; constant, no gradient flows into them.
            progress: Fraction of the training done, in [0, 1].

        Returns:
            Nats per row, `(n,)`, unreduced, float32 or float64.
        """
        ...


def checked_values(loss: Callable, values: Tensor, logits: Tensor) -> Tensor:
    """
    What `loss` returned for `logits`, `(n, K)`, once it is known to be a loss for every row.

    Raises:
        ValueError: it is not `(n,)`, which would be broadcast over rows in silence, or has no gradient.
    """
    inner = getattr(loss, "loss", loss)  # of an auxiliary term, of a function made a loss
    function = getattr(inner, "function", inner)
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"The loss `{name}` must return one number per row, shape {tuple(logits.shape[:1])} for logits "
            f"{tuple(logits.shape)}, but returned {found}. Sum over the classes, `.sum(-1)`, and not over the rows."
        )
    if torch.is_grad_enabled() and logits.requires_grad and not values.requires_grad:
        raise ValueError(
            f"The loss `{name}` returned numbers that have no gradient with respect to the logits. Compute them from "
            "the logits with torch, without `detach`, `item` or `no_grad`."
        )
    return values
