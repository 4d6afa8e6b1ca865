"""The whole experiment: the student's base, every seed's stages, and the report."""

from pathlib import Path

from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.models import ClassifierFactory
from trl_weaks.study.classification.pipeline import SeedRun
from trl_weaks.study.classification.pretrain import pretrain_stage
from trl_weaks.study.classification.reporting import write_report
from trl_weaks.study.classification.sources import ClassSource
from trl_weaks.study.slot_filling.models import TINY
from trl_weaks.study.stages import run_stages


def run(config: ClassificationConfig, command: str) -> Path:
    """Run the stages that `config.stages` names and write the report.

    Args:
        config: settings; a preset's, with the command line's over them.
        command: the command that started the run, for the report.

    Returns:
        The output folder.

    Raises:
        ValueError: settings that contradict each other, found before any work starts.
    """
    if not config.weak_models:
        raise ValueError("`weak_models` is empty. Choose a preset, or name the supervisors.")
    source = ClassSource(config)
    factory = ClassifierFactory(config, len(source.classes))
    base = pretrain_stage(config, source, factory) if config.student_model.startswith(TINY) else None
    runs = [SeedRun(config, source, factory, seed, base) for seed in config.seeds]
    stages = [base] if base and "pretrain" in config.stages else []
    for one in runs:
        stages += one.stages()
    run_stages(stages)
    if "report" in config.stages:
        write_report(config, source, runs, [*([base] if base else []), *stages], command)
    return Path(config.output_dir)
