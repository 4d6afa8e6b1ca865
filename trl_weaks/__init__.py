"""Weak-to-strong training with several weak supervisors, on top of Hugging Face TRL.

Names are resolved on first use: importing TRL takes seconds, and the maths does not need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:  # the same names for type checkers and editors, which do not run `__getattr__`
    from . import alignment as alignment
    from . import columns as columns
    from . import dirichlet as dirichlet
    from . import heads as heads
    from . import losses as losses
    from . import metrics as metrics
    from . import pooling as pooling
    from .labelling.label_classes import label_classes as label_classes
    from .labelling.label_completions import label_completions as label_completions
    from .labelling.preferences import build_preferences as build_preferences
    from .labelling.reliability.report_card import supervisor_report as supervisor_report
    from .labelling.reliability.triage import triage as triage
    from .labelling.reliability.trust import trust_weights as trust_weights
    from .labelling.reliability.weights import renormalise_weights as renormalise_weights
    from .labelling.reward import WeakEnsembleReward as WeakEnsembleReward
    from .labelling.sources.alternatives import alternatives_as_rows as alternatives_as_rows
    from .labelling.sources.ask_servers import ask_servers as ask_servers
    from .labelling.sources.from_comparisons import pairs_from_comparisons as pairs_from_comparisons
    from .labelling.sources.from_completions import labels_from_completions as labels_from_completions
    from .labelling.sources.from_votes import labels_from_votes as labels_from_votes
    from .labelling.storage.push import push_labels as push_labels
    from .supervisors.classifier import WeakClassifier as WeakClassifier
    from .supervisors.ensemble import WeakEnsemble as WeakEnsemble
    from .supervisors.server import ServerSupervisor as ServerSupervisor
    from .supervisors.supervisor import WeakSupervisor as WeakSupervisor
    from .trainer.common.imitation_alarm import ImitationAlarm as ImitationAlarm
    from .trainer.weak_classification_config import WeakClassificationConfig as WeakClassificationConfig
    from .trainer.weak_classification_trainer import WeakClassificationTrainer as WeakClassificationTrainer
    from .trainer.weak_preference_config import WeakPreferenceConfig as WeakPreferenceConfig
    from .trainer.weak_preference_trainer import WeakPreferenceTrainer as WeakPreferenceTrainer
    from .trainer.weak_supervision_config import WeakSupervisionConfig as WeakSupervisionConfig
    from .trainer.weak_supervision_trainer import WeakSupervisionTrainer as WeakSupervisionTrainer

_MODULES = {
    "WeakSupervisionConfig": "trainer.weak_supervision_config",
    "WeakSupervisionTrainer": "trainer.weak_supervision_trainer",
    "WeakClassificationConfig": "trainer.weak_classification_config",
    "WeakClassificationTrainer": "trainer.weak_classification_trainer",
    "WeakPreferenceConfig": "trainer.weak_preference_config",
    "WeakPreferenceTrainer": "trainer.weak_preference_trainer",
    "ImitationAlarm": "trainer.common.imitation_alarm",
    "WeakSupervisor": "supervisors.supervisor",
    "WeakClassifier": "supervisors.classifier",
    "WeakEnsemble": "supervisors.ensemble",
    "ServerSupervisor": "supervisors.server",
    "WeakEnsembleReward": "labelling.reward",
    "label_completions": "labelling.label_completions",
    "label_classes": "labelling.label_classes",
    "build_preferences": "labelling.preferences",
    "labels_from_completions": "labelling.sources.from_completions",
    "labels_from_votes": "labelling.sources.from_votes",
    "ask_servers": "labelling.sources.ask_servers",
    "alternatives_as_rows": "labelling.sources.alternatives",
    "pairs_from_comparisons": "labelling.sources.from_comparisons",
    "push_labels": "labelling.storage.push",
    "renormalise_weights": "labelling.reliability.weights",
    "trust_weights": "labelling.reliability.trust",
    "triage": "labelling.reliability.triage",
    "supervisor_report": "labelling.reliability.report_card",
}
_SUBMODULES = ("alignment", "columns", "dirichlet", "heads", "losses", "metrics", "pooling")

__all__ = [*_MODULES, *_SUBMODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
