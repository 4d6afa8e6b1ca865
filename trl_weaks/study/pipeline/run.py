"""A study from its settings to its report."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trl_weaks.distributed import processes
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.field_methods import (
    BY_DAWID_SKENE,
    BY_MEAN,
    REFERENCE,
    annotated,
    class_field,
    completion_field,
    field_comparisons,
)
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.methods import Method, choose_methods
from trl_weaks.study.paper_methods import class_headline, class_methods, completion_headline, completion_methods
from trl_weaks.study.pipeline.check_settings import check_settings
from trl_weaks.study.pipeline.classes import ClassRun
from trl_weaks.study.pipeline.classifiers import ClassifierFactory
from trl_weaks.study.pipeline.completions import CompletionRun
from trl_weaks.study.pipeline.models import ModelFactory, Reader
from trl_weaks.study.pipeline.pretrain import base_stages
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.preference_methods import PreferenceMethod
from trl_weaks.study.report.classes import gather_classes
from trl_weaks.study.report.completions import gather_completions
from trl_weaks.study.report.push import check_push, push_study
from trl_weaks.study.report.study import write_study_report
from trl_weaks.study.tasks.base import ClassificationTask, Task
from trl_weaks.study.tasks.checks import SCORED, check_inputs, measure_of
from trl_weaks.study.tasks.find import TASK_OF_FOLDER, in_own_folder
from trl_weaks.study.workers import run_stages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    run: type[SeedRun]
    methods: Callable[[Sequence[str]], dict[str, Method]]
    headline: Callable[[Sequence[str]], list[str]]
    field: Callable[[], dict[str, Method]]
    gather: Callable[..., Any]
    annotators: Callable[[], dict[str, Method]] = dict


KINDS = {
    "completions": _Kind(CompletionRun, completion_methods, completion_headline, completion_field, gather_completions),
    "classes": _Kind(ClassRun, class_methods, class_headline, class_field, gather_classes, annotated),
}


def methods_of(config: StudyConfig, task: Task, own: Sequence[Method] = ()) -> list[Method]:
    """The methods that the settings name, and those given beside them.

    Raises:
        ValueError: from [`choose_methods`].
    """
    names, kind = config.supervisor_names, KINDS[task.kind]
    given, field = [*config.methods, *own], kind.field()
    found = choose_methods(given, kind.methods(names), kind.headline(names), names, field, kind.annotators())
    preferred = [method.name for method in found if isinstance(method, PreferenceMethod)]
    if preferred and task.kind == "classes":
        raise ValueError(f"method {preferred[0]!r} compares texts, and a classifier has none: completion tasks only.")
    return found


def optional_rows(config: StudyConfig, task: Task, own: Sequence[Method] = ()) -> set[str]:
    """Rows that only `field` asks for: where the data do not allow one, the study says why, and goes on."""
    if "field" not in config.methods:
        return set()
    return set(KINDS[task.kind].field()) - {REFERENCE, *config.methods, *(method.name for method in own)}


def seed_runs(
    config: StudyConfig, task: Task, methods: Sequence[Method], optional: Collection[str] = ()
) -> list[SeedRun]:
    """The stages of every seed, nothing run yet; for `optional` see [`optional_rows`]."""
    classified = isinstance(task, ClassificationTask)
    factory = ClassifierFactory(config, task.classes) if classified else ModelFactory(config)
    runs: list[SeedRun] = []

    def check(name: str, reader: Reader) -> None:
        for one in runs:
            one.check_room(name, reader)

    bases = base_stages(config, task, factory, check)
    runs += [KINDS[task.kind].run(config, task, factory, seed, methods, bases, optional) for seed in config.seeds]
    return runs


def run(config: StudyConfig, task: Task, command: str, methods: Sequence[Method] = ()) -> Path:
    """Run the stages that `config.stages` names and write the report.

    Args:
        config: settings; a preset's, with the command line's over them.
        task: the task.
        command: the command that started the run, for the report.
        methods: rows beside those that `config.methods` names.

    Returns:
        The output folder.

    Raises:
        ValueError: settings, data, methods or a metric that a stage or the report would refuse, found before any work
            starts.
    """
    if not config.weak_models:
        raise ValueError("`weak_models` is empty. Choose a preset, or name the supervisors.")
    config = in_own_folder(config, task)
    chosen = methods_of(config, task, methods)
    if not config.compare:
        pairs = field_comparisons(chosen) if "field" in config.methods else []
        pairs += [BY_DAWID_SKENE, BY_MEAN] if "annotators" in config.methods else []
        config = replace(config, compare=pairs)
    check_settings(config, task, chosen)
    runs = seed_runs(config, task, chosen, optional_rows(config, task, methods))
    if any(one.splits.test != runs[0].splits.test for one in runs):
        raise ValueError(
            f"task {task.name!r}: the test splits of the seeds {config.seeds} differ, so they cannot be paired. Let "
            "`splits(seed)` give the same `test` for every seed."
        )
    for one in runs:
        check_inputs(task, one.splits)
    measure = measure_of(task, *runs[0].splits.test[:SCORED])
    stages = []
    for one in runs:
        stages += one.stages()
    check_comparisons(config, runs[0])
    check_push(config, runs)
    if not all(stage.settled() for stage in stages):
        runs[0].factory.check()
        for one in runs:
            one.check_rooms()
    claim(config, task)
    run_stages(stages, config.workers)
    refused = leave_out_refused(runs)
    if "report" in config.stages:
        stages = [stage for stage in stages if not stage.refusal()]
        write_study_report(config, task, runs, measure, KINDS[task.kind].gather, stages, command, refused)
    if config.push_to_hub and processes().is_main_process:
        print(f"On the Hub: {push_study(config, task, runs)}")
    return Path(config.output_dir)


def claim(config: StudyConfig, task: Task) -> None:
    """Mark the folder as the task's."""
    mark = Path(config.output_dir) / TASK_OF_FOLDER
    if processes().is_main_process and not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(mark, json_bytes({"task": task.name}))


def leave_out_refused(runs: Sequence[SeedRun]) -> dict[str, str]:
    """Row -> why some seed could not compute it; the runs go without it from here on."""
    refused: dict[str, str] = {}
    for one in runs:
        refused = one.refused() | refused
    for name, reason in refused.items():
        logger.warning("The row %r could not be computed and is left out: %s", name, reason)
    for one in runs:
        one.leave_out(refused)
    return refused


def check_comparisons(config: StudyConfig, one: SeedRun) -> None:
    """
    Raises:
        ValueError: a row to compare that the report will not have.
    """
    extra = ("mean_vote", "majority_vote", "dawid_skene") if one.task.kind == "classes" else ()
    unknown = [name for name in config.compare if name not in one.systems and name not in extra]
    twice = [a for a, b in zip(config.compare[::2], config.compare[1::2], strict=False) if a == b]
    if twice:
        raise ValueError(f"`compare`: the row {twice[0]!r} is compared with itself; name two different ones.")
    if unknown:
        raise ValueError(f"`compare`: there is no row {unknown[0]!r}; there are {', '.join([*one.systems, *extra])}.")
