"""Weak-to-strong studies: a task, methods, and one pipeline from supervisors to a report with intervals."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "CompletionTask": "tasks.base",
    "ClassificationTask": "tasks.base",
    "Example": "tasks.base",
    "Splits": "tasks.base",
    "TASKS": "tasks.base",
    "register_task": "tasks.find",
    "Method": "methods",
    "PreferenceMethod": "preference_methods",
    "StudyResults": "api",
    "run_study": "api",
}
__all__ = [
    "TASKS",
    "ClassificationTask",
    "CompletionTask",
    "Example",
    "Method",
    "PreferenceMethod",
    "Splits",
    "StudyResults",
    "register_task",
    "run_study",
]

if TYPE_CHECKING:
    from .api import StudyResults, run_study
    from .methods import Method
    from .preference_methods import PreferenceMethod
    from .tasks.base import TASKS, ClassificationTask, CompletionTask, Example, Splits
    from .tasks.find import register_task


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trl_weaks.study' has no attribute {name!r}")
    return getattr(import_module(f"trl_weaks.study.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
