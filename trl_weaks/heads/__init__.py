"""Vocabulary-wide weak losses inside a language model's forward, without its logits."""

from .request import WeakHeadOutput, WeakHeadRequest
from .weak_head import add_weak_head

__all__ = ["WeakHeadOutput", "WeakHeadRequest", "add_weak_head"]
