"""Former home of [`trl_weaks.supervisors.classifier`]; cards of earlier versions name it."""

from ..supervisors.classifier import WeakClassifier

__all__ = ["WeakClassifier"]
