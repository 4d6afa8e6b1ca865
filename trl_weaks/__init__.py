"""Weak-to-strong training with several weak supervisors, on top of Hugging Face TRL.

Names are resolved on first use: importing TRL takes seconds, and the maths does not need it.
"""

import importlib

from ._version import __version__

_MODULES = {
    "WeakSupervisionConfig": "trainer.weak_supervision_config",
    "WeakSupervisionTrainer": "trainer.weak_supervision_trainer",
    "WeakClassificationConfig": "trainer.weak_classification_config",
    "WeakClassificationTrainer": "trainer.weak_classification_trainer",
    "WeakPreferenceConfig": "trainer.weak_preference_config",
    "WeakPreferenceTrainer": "trainer.weak_preference_trainer",
    "WeakSupervisor": "supervisors.supervisor",
    "WeakClassifier": "supervisors.classifier",
    "WeakEnsemble": "supervisors.ensemble",
    "ServerSupervisor": "supervisors.server",
    "WeakEnsembleReward": "labelling.reward",
    "label_completions": "labelling.label_completions",
    "label_classes": "labelling.label_classes",
    "build_preferences": "labelling.preferences",
    "labels_from_completions": "labelling.from_completions",
    "ask_servers": "labelling.ask_servers",
    "pairs_from_comparisons": "labelling.from_comparisons",
    "renormalise_weights": "labelling.weights",
    "triage": "labelling.triage",
    "supervisor_report": "labelling.report_card",
}
_SUBMODULES = ("alignment", "columns", "dirichlet", "heads", "losses", "metrics", "pooling")

__all__ = [*_MODULES, *_SUBMODULES, "__version__"]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
