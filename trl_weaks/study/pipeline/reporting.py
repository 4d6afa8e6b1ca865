"""What the reports of all experiments need from their stages."""

from collections.abc import Iterable, Sequence

from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.stages import Stage

TINY_NOTE = (
    "These models are tiny and trained from scratch. They show that the pipeline works and how the methods compare "
    "under these conditions; they say nothing about how large pre-trained models rank the methods."
)


def refuse_unfinished(runs: Sequence[SeedRun]) -> None:
    """
    Raises:
        ValueError: a system has not been evaluated yet; names the missing stages.
    """
    missing = [stage.name for run in runs for stage in run.systems.values() if not stage.done()]
    if missing:
        raise ValueError(f"The report needs stages that have not run: {', '.join(missing)}. Add them to `stages`.")


def stage_seconds(stages: Iterable[Stage]) -> dict[str, float]:
    """Name of a stage -> seconds it took, summed over the seeds; what seeds share counts once."""
    seconds: dict[str, float] = {}
    for stage in {stage.folder: stage for stage in stages}.values():
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.stamp().get("seconds", 0.0)
    return seconds
