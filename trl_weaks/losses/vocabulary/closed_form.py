"""Whether a loss's closed form over a vocabulary is that of the loss."""

import torch

from ..base import WeakLoss
from .token_rows import TokenFormPlan


def closed_form_plan(loss: WeakLoss, hard: bool, dtype: torch.dtype) -> TokenFormPlan | None:
    """
    What the closed form of `loss` asks for, or `None` where it has none for these labels.

    A subclass that changes `__call__` has another loss: the closed form it inherits is not used.

    Args:
        loss: Any loss; one with a closed form has the methods `token_form_plan` and `token_form`.
        hard: Whether the labels are hard.
        dtype: Of the logits, float32 or float64.
    """
    if not hasattr(loss, "token_form_plan"):
        return None
    for base in type(loss).__mro__:  # from the subclass upwards: which of the two was written last
        if "token_form" in vars(base):
            return loss.token_form_plan(hard, dtype)
        if "__call__" in vars(base):
            return None
    return None
