"""Losses for weak labels: callables from logits `(n, K)` and soft targets `(n, K)` to nats `(n,)`."""

import importlib
import pkgutil

from .auxiliary_confidence import AuxiliaryConfidence
from .base import LOSSES, CallableLoss, DirichletReading, WeakLoss, as_weak_loss, register_loss
from .cross_entropy import CrossEntropyLoss, NaiveLoss
from .evidential import EvidentialLoss
from .prediction_window import PredictionWindow

for _module in pkgutil.iter_modules(__path__):  # each file registers its losses: a new one needs no line here
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "LOSSES",
    "AuxiliaryConfidence",
    "CallableLoss",
    "CrossEntropyLoss",
    "DirichletReading",
    "EvidentialLoss",
    "NaiveLoss",
    "PredictionWindow",
    "WeakLoss",
    "as_weak_loss",
    "register_loss",
]
