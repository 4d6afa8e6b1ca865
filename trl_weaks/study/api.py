"""A study in one call."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from trl_weaks.commands.errors import did_you_mean
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.methods import Method
from trl_weaks.study.pipeline.run import run
from trl_weaks.study.tasks.base import Task
from trl_weaks.study.tasks.find import OF_KIND, checked_task, config_class, task_of


@dataclass(frozen=True)
class StudyResults:
    """What a finished study left: its folder, and the content of `results.json`.

    Args:
        folder: with `report.md`, the figures and every stage's outcome.
        results: scores, PGR and intervals; rows by name under `methods` and `weak`.
    """

    folder: Path
    results: Mapping[str, Any]

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """A row by name: a method, a baseline or a supervisor."""
        rows = dict(self.results["weak"]) | dict(self.results["methods"])
        reason = self.results.get("refused_rows", {}).get(name)
        if reason is not None:
            raise KeyError(f"the row {name!r} could not be computed: {reason}")
        if name not in rows:
            raise KeyError(f"there is no row {name!r}; there are {', '.join(rows)}.")
        return rows[name]

    @property
    def report(self) -> Path:
        return self.folder / "report.md"


def run_study(
    task: Task | type[Task] | str,
    methods: Sequence[str | Method] = ("headline",),
    preset: str | None = "tiny",
    output_dir: str | Path | None = None,
    **settings: Any,
) -> StudyResults:
    """Run a weak-to-strong study and return its results; the same call continues a killed run.

    Args:
        task: a [`CompletionTask`] or [`ClassificationTask`], or the class of one with settings of its own; the name of
            one of `TASKS`; or a file with `TASK = ...`, which is either.
        methods: rows of the report: `headline`, `all`, names, files with `METHODS = [...]`, [`Method`]s.
        preset: settings to start from; None for none.
        output_dir: folder for everything the run makes; default `runs/NAME`, the task's name.
        settings: over those of the preset, such as `seeds=[0, 1, 2]`, `num_gold=500`, `compare=["naive", "mine"]`.

    Raises:
        ValueError: settings, data, methods or a metric that the study cannot use, before anything is trained.

    See also:
        `trl-weaks study`, the same from a command line.
    """
    if isinstance(task, Task):
        checked_task(task, "task")
        kind: type[StudyConfig] = task.config_class or OF_KIND[task.kind]
    else:
        kind = config_class(task)
    _check_names(settings, kind)
    given = {} if preset is None else yaml.safe_load(kind.preset_path(preset).read_text(encoding="utf-8"))
    methods = [methods] if isinstance(methods, str | Method) else methods
    if not isinstance(methods, Sequence):
        raise ValueError(f"`methods` must be a list of names and `Method`s; got {methods!r}.")
    names = [method for method in methods if isinstance(method, str)]
    folder = None if output_dir is None else str(output_dir)
    config = kind(**given | settings | {"preset": preset, "output_dir": folder, "methods": names})
    found = task if isinstance(task, Task) else task_of(task, config)
    own = [method for method in methods if not isinstance(method, str)]  # what is neither is refused by name
    done = run(config, found, " ".join(sys.argv), own)
    path = done / "results.json"
    results = (
        json.loads(path.read_text(encoding="utf-8")) if "report" in config.stages else {"weak": {}, "methods": {}}
    )
    return StudyResults(done, results)


def _check_names(settings: Mapping[str, Any], kind: type[StudyConfig]) -> None:
    """
    Raises:
        ValueError: a setting that a study of this kind has not; names the nearest one.
    """
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known) or f" It takes the settings of {kind.__name__}."
            raise ValueError(f"unknown setting {name!r}.{hint}")
