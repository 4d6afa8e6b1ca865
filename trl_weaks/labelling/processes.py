"""Former home of [`trl_weaks.distributed`]; cards and pages of earlier versions name it."""

from ..distributed import whole_weights

__all__ = ["whole_weights"]
