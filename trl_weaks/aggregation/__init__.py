"""From what several supervisors say to what a student is taught: no models, no disk.

Names are resolved on first use. A file of this folder that registers an aggregator is found by the registry itself:
a new one needs no line here.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_weaks.aggregation.agreement import Agreement
    from trl_weaks.aggregation.answers.completions import COMPLETION_AGGREGATORS, CompletionAggregator
    from trl_weaks.aggregation.base import AGGREGATORS, Aggregator, NotComputable, aggregate, make_aggregator
    from trl_weaks.aggregation.crowd import GLAD, MACE, Wawa
    from trl_weaks.aggregation.dawid_skene import DawidSkene
    from trl_weaks.aggregation.raven import Raven
    from trl_weaks.aggregation.student_dawid_skene import StudentDawidSkene
    from trl_weaks.aggregation.votes import log_linear, majority, mean

_MODULES = {
    "AGGREGATORS": "base",
    "Aggregator": "base",
    "NotComputable": "base",
    "aggregate": "base",
    "make_aggregator": "base",
    "mean": "votes",
    "majority": "votes",
    "log_linear": "votes",
    "DawidSkene": "dawid_skene",
    "Agreement": "agreement",
    "Raven": "raven",
    "StudentDawidSkene": "student_dawid_skene",
    "GLAD": "crowd",
    "MACE": "crowd",
    "Wawa": "crowd",
    "COMPLETION_AGGREGATORS": "answers.completions",
    "CompletionAggregator": "answers.completions",
}

__all__ = [
    "AGGREGATORS",
    "COMPLETION_AGGREGATORS",
    "GLAD",
    "MACE",
    "Aggregator",
    "Agreement",
    "CompletionAggregator",
    "DawidSkene",
    "NotComputable",
    "Raven",
    "StudentDawidSkene",
    "Wawa",
    "aggregate",
    "log_linear",
    "majority",
    "make_aggregator",
    "mean",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
