"""Tasks by name, or from a file of the user's."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from trl_weaks.commands.errors import did_you_mean
from trl_weaks.study.config import (
    ClassificationConfig,
    ClassStudyConfig,
    CompletionStudyConfig,
    SlotFillingConfig,
    StudyConfig,
)
from trl_weaks.study.table_config import ClassTableConfig, CompletionTableConfig

# name -> settings, module and class of the task; the module is imported when it is used
TASKS: dict[str, tuple[type[StudyConfig], str, str]] = {
    "slot_filling": (SlotFillingConfig, "slot_filling", "SlotFilling"),
    "classification": (ClassificationConfig, "classification", "Classification"),
    "completions": (CompletionTableConfig, "table", "CompletionTable"),
    "classes": (ClassTableConfig, "table", "ClassTable"),
}
_OWN: dict[str, Any] = {}
OF_KIND = {"completions": CompletionStudyConfig, "classes": ClassStudyConfig}


def register_task(task: Any) -> Any:
    """Make a task of one's own known by its name, for `trl-weaks study --task NAME` in the same process.

    Raises:
        ValueError: the name is taken.
    """
    if task.name in TASKS or task.name in _OWN:
        raise ValueError(f"a task is called {task.name!r} already; rename one.")
    _OWN[task.name] = task
    return task


def config_class(name: str) -> type[StudyConfig]:
    """Class of a task's settings.

    Raises:
        ValueError: no such task; lists the known ones.
        FileNotFoundError: no such file.
    """
    if name in TASKS:
        return TASKS[name][0]
    task = _own(name)
    return getattr(task, "config_class", None) or OF_KIND[task.kind]


def task_of(name: str, config: StudyConfig) -> Any:
    """The task for a study's settings; errors as in [`config_class`]."""
    if name not in TASKS:
        return _own(name)
    _, module, attribute = TASKS[name]
    return getattr(import_module(f"trl_weaks.study.tasks.{module}"), attribute).from_config(config)


def _own(name: str) -> Any:
    if name in _OWN:
        return _OWN[name]
    if not isinstance(name, str):
        return checked_task(name, "the task")
    if not name.endswith(".py"):
        known = [*TASKS, *_OWN]
        hint = did_you_mean(name, known)
        raise ValueError(f"Unknown task {name!r}.{hint} Known: {', '.join(known)}; or a file with TASK = ... in it.")
    if not Path(name).is_file():  # before the libraries that running it needs
        raise FileNotFoundError(f"--task: no such file: {name}")
    from trl_weaks.study.methods import load_module

    found = getattr(load_module(Path(name)), "TASK", None)
    return checked_task(found, f"{name}: TASK")


def checked_task(task: Any, what: str) -> Any:
    """
    Raises:
        ValueError: no task, or one without a name, or without classes.
    """
    from trl_weaks.study.tasks.base import ClassificationTask, CompletionTask

    if not isinstance(task, CompletionTask | ClassificationTask):
        raise ValueError(f"{what} is {task!r}; it must be a CompletionTask or a ClassificationTask.")
    if not task.name:
        raise ValueError(f"{what} has no `name`.")
    if isinstance(task, ClassificationTask) and (
        isinstance(task.classes, str) or not isinstance(task.classes, Sequence)
    ):
        raise ValueError(f"{what}: `classes` must be a list of names; got {task.classes!r}.")
    if isinstance(task, ClassificationTask) and (len(task.classes) < 2 or len(set(task.classes)) < len(task.classes)):
        raise ValueError(f"{what}: `classes` must be at least two different names; got {list(task.classes)}.")
    return task
