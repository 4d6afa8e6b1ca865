"""Losses for weak labels: callables from logits `(n, K)` and soft targets `(n, K)` to nats `(n,)`."""

from .auxiliary_confidence import AuxiliaryConfidence
from .base import WeakLoss
from .cross_entropy import CrossEntropyLoss, NaiveLoss
from .evidential import EvidentialLoss
from .prediction_window import PredictionWindow

# Losses a trainer can be given by name; "bayesian" is what the paper calls the evidential loss of several supervisors.
LOSSES = {"naive": NaiveLoss, "bayesian": EvidentialLoss, "evidential": EvidentialLoss}

__all__ = [
    "LOSSES",
    "AuxiliaryConfidence",
    "CrossEntropyLoss",
    "EvidentialLoss",
    "NaiveLoss",
    "PredictionWindow",
    "WeakLoss",
]
