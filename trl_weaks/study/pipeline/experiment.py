"""The order of every weak-to-strong experiment: the student's base, every seed's stages, and the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_weaks.study.pipeline.config import ExperimentConfig
from trl_weaks.study.pipeline.models import TINY, ModelFactory
from trl_weaks.study.stages import Stage
from trl_weaks.study.workers import run_stages


def run_experiment(
    config: ExperimentConfig,
    source: Any,
    factory: ModelFactory,
    pretrain_stage: Callable[..., Stage],
    seed_run: Callable[..., Any],
    write_report: Callable[..., None],
    command: str,
) -> Path:
    """Run the stages that `config.stages` names and write the report.

    Args:
        config: settings; a preset's, with the command line's over them.
        source: where the experiment's rows come from.
        factory: builds or loads its models.
        pretrain_stage: `(config, source, factory)` -> the stage that makes a tiny student's base.
        seed_run: `(config, source, factory, seed, base)` -> a [`SeedRun`].
        write_report: `(config, source, runs, stages, command)`.
        command: the command that started the run, for the report.

    Returns:
        The output folder.

    Raises:
        ValueError: settings that contradict each other, found before any work starts.
    """
    base = pretrain_stage(config, source, factory) if config.student_model.startswith(TINY) else None
    runs = [seed_run(config, source, factory, seed, base) for seed in config.seeds]
    stages = [base] if base and "pretrain" in config.stages else []
    for one in runs:
        stages += one.stages()
    if not all(stage.done() for stage in stages):
        factory.check()
    run_stages(stages, config.workers)
    if "report" in config.stages:
        write_report(config, source, runs, [*([base] if base else []), *stages], command)
    return Path(config.output_dir)
