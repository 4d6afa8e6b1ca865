"""What a weak loss is: a callable from logits and soft targets to nats per row."""

from typing import Protocol, runtime_checkable

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
