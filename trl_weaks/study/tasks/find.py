"""Tasks by name, or from a file of the user's."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trl_weaks.commands.errors import did_you_mean
from trl_weaks.study.config import ClassStudyConfig, CompletionStudyConfig, StudyConfig
from trl_weaks.study.tasks.base import TASKS, ClassificationTask, CompletionTask

TASK_OF_FOLDER = "study.json"  # names the task whose study a folder holds
OF_KIND = {"completions": CompletionStudyConfig, "classes": ClassStudyConfig}


def register_task(task: Any) -> Any:
    """Make a task of one's own known by its name, for `trl-weaks study --task NAME` in the same process.

    Raises:
        ValueError: the name is taken, or it is no task.
    """
    return TASKS.register()(checked_task(task, "the task"))


def config_class(name: str) -> type[StudyConfig]:
    """Class of a task's settings.

    Raises:
        ValueError: no such task; lists the known ones.
        FileNotFoundError: no such file.
    """
    task = TASKS.get(name, None) or _own(name)
    return task.config_class or OF_KIND[task.kind]


def task_of(name: str, config: StudyConfig) -> Any:
    """The task for a study's settings, of a class made with them (`from_config`); errors as in [`config_class`]."""
    found = TASKS.get(name, None) or _own(name)
    if not isinstance(found, type):
        return found
    try:
        made = found.from_config(config)
    except TypeError as error:
        raise ValueError(
            f"the task {name!r} is a class that its `from_config` cannot make from the settings alone: {error}. Give "
            "a task made from it, or a `from_config` of its own."
        ) from error
    return checked_task(made, f"the task {name!r}")


def in_own_folder(config: StudyConfig, task: Any) -> StudyConfig:
    """The settings with a folder: `runs/NAME`, the task's name, unless they say another.

    Raises:
        ValueError: the folder holds the study of another task, whose stages and report would be replaced, or the
            labels of `trl-weaks label`, which `report` and `view` would no longer find.
    """
    name = re.sub(r"[^\w.-]+", "_", task.name).strip(".") or "study"
    config = config if config.output_dir else replace(config, output_dir=f"runs/{name}")
    mark = Path(config.output_dir) / TASK_OF_FOLDER
    if not mark.exists() and (Path(config.output_dir) / "dataset").is_dir():
        raise ValueError(f"{config.output_dir} holds labels, not a study. Name another `--output_dir`.")
    other = json.loads(mark.read_text(encoding="utf-8"))["task"] if mark.exists() else task.name
    if other != task.name:
        raise ValueError(
            f"{config.output_dir} holds the study of the task {other!r}, not of {task.name!r}. Name another "
            "`--output_dir`, or remove that one."
        )
    return config


def _own(name: str) -> Any:
    """A task, or the class of one with settings of its own, which is made with them: see [`task_of`]."""
    if not isinstance(name, str):
        return name if _is_class_of_tasks(name) else checked_task(name, "the task")
    if not name.endswith(".py"):
        known = TASKS.names()
        hint = did_you_mean(name, known)
        raise ValueError(f"Unknown task {name!r}.{hint} Known: {', '.join(known)}; or a file with TASK = ... in it.")
    if not Path(name).is_file():  # before the libraries that running it needs
        raise FileNotFoundError(f"--task: no such file: {name}")
    from trl_weaks.study.methods import load_module

    found = getattr(load_module(Path(name)), "TASK", None)
    return found if _is_class_of_tasks(found) else checked_task(found, f"{name}: TASK")


def _is_class_of_tasks(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, CompletionTask | ClassificationTask)


def checked_task(task: Any, what: str) -> Any:
    """
    Raises:
        ValueError: no task, or one without a name, or without classes, or with classes that are no text.
    """
    if not isinstance(task, CompletionTask | ClassificationTask):
        raise ValueError(f"{what} is {task!r}; it must be a CompletionTask or a ClassificationTask.")
    if not task.name:
        raise ValueError(f"{what} has no `name`.")
    if isinstance(task, ClassificationTask) and (
        isinstance(task.classes, str) or not isinstance(task.classes, Sequence)
    ):
        raise ValueError(f"{what}: `classes` must be a list of names; got {task.classes!r}.")
    if isinstance(task, ClassificationTask) and not all(isinstance(name, str) for name in task.classes):
        raise ValueError(
            f"{what}: `classes` must be names, as text; 1 would be the class 1 and the second class. Got "
            f"{list(task.classes)}."
        )
    if isinstance(task, ClassificationTask) and (len(task.classes) < 2 or len(set(task.classes)) < len(task.classes)):
        raise ValueError(f"{what}: `classes` must be at least two different names; got {list(task.classes)}.")
    return task
