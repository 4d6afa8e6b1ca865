"""From the stages of a finished study to its report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from trl_weaks.distributed import processes
from trl_weaks.labelling.reliability.report_card import supervisor_report
from trl_weaks.metrics.bootstrap import as_table, seed_scores
from trl_weaks.study.annotators import ANNOTATORS
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.compare import compare_systems, comparison_section
from trl_weaks.study.report.diagnostics.base import Diagnostics, diagnose, diagnostics_section
from trl_weaks.study.report.page import named_gold, training_curves, write_page
from trl_weaks.study.report.results import Measure
from trl_weaks.study.report.story import Story
from trl_weaks.study.report.write import write_report
from trl_weaks.study.stages import Stage
from trl_weaks.study.tasks.base import Task

TINY_NOTE = (
    "These models are tiny and trained from scratch. They show that the pipeline works and how the methods compare "
    "under these conditions; they say nothing about how large pre-trained models rank the methods."
)
LABELS = {
    "ceiling": "Ceiling: student on gold labels of half B",
    "strong_on_a": "Student on gold labels of half A",
    "untrained": "Student without supervision",
    "few_shot": "Student without supervision, gold examples in its prompt",
    "joint_answer": "Joint answer of the supervisors",
    "cdpo": "Bayesian multi-weak + auxiliary, then cDPO",
    "mean_vote": "Mean vote of the supervisors",
    "majority_vote": "Majority vote of the supervisors",
    "dawid_skene": "Dawid-Skene on the supervisors' votes",
}
NO_GOLD = "Ceiling: student on gold labels of half A (half B has none)"
NOT_STUDENTS = (
    *("strong_on_a", "untrained", "few_shot", "joint_answer"),
    *("mean_vote", "majority_vote", "dawid_skene"),
)


@dataclass(frozen=True)
class Gathered:
    """What a kind of task brings to its report.

    Args:
        samples: system -> per-seed, per-example statistics.
        unparsable: system -> per seed and example, whether the answer could not be read.
        extra: system -> further scores by name.
        agreement, word_confidences: see [`write_report`]; alike_on: see [`Story`].
        about, notes: sentences on data and models; sections of their own.
        preference: what the preference stage counted.
        results: further entries of `results.json`.
        labels: of half B, the first seed's.
        diagnostics: of the students, see [`diagnose`].
        floor: what is scored without knowing anything.
    """

    samples: Mapping[str, Any]
    labels: Dataset
    unparsable: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    word_confidences: Mapping[str, Any] = field(default_factory=dict)
    about: Sequence[str] = ()
    notes: Sequence[str] = ()
    preference: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Diagnostics = field(default_factory=lambda: Diagnostics({}))
    floor: float = 0.0
    alike_on: str = "the test examples"


def row_labels(run: SeedRun, names: Iterable[str]) -> dict[str, str]:
    """What the report calls each system."""
    own = {method.name: method.label for method in run.methods}
    own |= {name: f"Weak supervisor, {name}" for name in run.config.supervisor_names}
    own |= {} if run.splits.half_b_has_gold else {"ceiling": NO_GOLD}
    return {name: own.get(name) or LABELS[name] for name in names}


def report_rows(run: SeedRun, found: Gathered) -> list[dict[str, Any]]:
    """Every evaluated system as [`write_report`] wants it, in the order of the table."""
    labels, supervisors = row_labels(run, found.samples), run.config.supervisor_names
    own: dict[str, list[str] | None] = {m.name: list(m.supervisors) for m in run.methods if m.supervisors}
    own |= {method.name: None for method in run.methods if method.labels == ANNOTATORS}
    rows = []
    for name, samples in found.samples.items():
        role = "weak" if name in supervisors else "ceiling" if name == "ceiling" else "method"
        row = {"name": name, "label": labels[name], "role": "baseline" if name in NOT_STUDENTS else role}
        row |= {"samples": samples, "extra": found.extra.get(name, {})}
        row |= {"unparsable": found.unparsable[name]} if name in found.unparsable else {}
        row |= {"supervisors": own[name]} if name in own else {}
        rows.append(row)
    return rows


def write_study_report(
    config: StudyConfig,
    task: Task,
    runs: Sequence[SeedRun],
    measure: Measure,
    gather: Callable[..., Gathered],
    stages: Sequence[Stage],
    command: str,
    refused: Mapping[str, str] | None = None,
) -> None:
    """Write `report.md`, `results.json` and the figures; the first process only.

    Args:
        refused: rows that are not there -> the reason.

    Raises:
        ValueError: a system has not been evaluated yet; names the missing stages.
    """
    refuse_unfinished(runs)
    if not processes().is_main_process:
        return
    found = gather(task, runs, Path(config.output_dir))
    rows, refused = report_rows(runs[0], found), dict(refused or {})
    pairs = [pair for pair in zip(config.compare[::2], config.compare[1::2], strict=True) if not refused.keys() & pair]
    samples = {row["name"]: row["samples"] for row in rows}
    comparisons = compare_systems(samples, measure, [name for pair in pairs for name in pair])
    labels = {row["name"]: row["label"] for row in rows}
    diagnosed = diagnosed_methods(rows, found.diagnostics, measure, config.supervisor_names)
    notes = [
        *found.notes,
        _report_card(task, runs[0], found.labels),
        comparison_section(comparisons, measure, labels),
        _refused_section(refused),
        diagnostics_section(diagnosed, labels),
    ]
    notes += [TINY_NOTE] if config.student_model.startswith(TINY) else []
    written = write_report(
        config.output_dir,
        rows,
        seeds=config.seeds,
        config=config.snapshot(),
        environment=describe_environment(),
        agreement=found.agreement,
        word_confidences=found.word_confidences,
        curves=_labelled_curves(runs[0], {row["name"]: row["label"] for row in rows}),
        story=Story(
            title=task.report_title,
            about=_about(config, task, runs[0], found.about),
            notes=[note for note in notes if note],
            command=command,
            stage_seconds=stage_seconds(stages),
            preference=found.preference,
            alike_on=found.alike_on,
        ),
        measure=measure,
        floor=found.floor,
    )
    extra = dict(found.results) | {"diagnostics": diagnosed, "refused_rows": refused}
    extra |= {"comparisons": comparisons} if comparisons else {}
    write_atomically(Path(config.output_dir) / "results.json", json_bytes(written | extra))
    write_page(task, runs[0], found.labels, written, Path(config.output_dir))


def _refused_section(refused: Mapping[str, str]) -> str:
    if not refused:
        return ""
    reasons = "\n".join(f"- `{name}`: {reason}" for name, reason in refused.items())
    about = "The data gave these rows nothing to work on, in one seed at least; the first such seed says why."
    return f"## Rows that could not be computed\n\n{about}\n\n{reasons}"


def diagnosed_methods(
    rows: Sequence[Mapping[str, Any]], found: Diagnostics, measure: Measure, supervisors: Sequence[str]
) -> dict[str, Any]:
    """[`diagnose`] with the headline scores of the rows."""
    head = measure.scores[measure.key]
    means = {row["name"]: as_table(row["name"], row["samples"], head).mean(1) for row in rows}
    scores = {name: seed_scores(table, head).tolist() for name, table in means.items()}
    return diagnose(found, scores, {row["name"]: row.get("supervisors", supervisors) for row in rows})


def _labelled_curves(run: SeedRun, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    students = [name for name in run.systems if name not in run.config.supervisor_names]
    return [{**curve, "name": labels[curve["name"]]} for curve in training_curves(run, students)]


def _report_card(task: Task, run: SeedRun, labels: Dataset) -> str:
    """How good, how sure and how alike the supervisors are on half B of the first seed."""
    card = supervisor_report(labels, named_gold(task, run, labels) or None).markdown()
    reading = "Agreement is the share of equal answers; kappa and alpha are agreement beyond chance."
    return f"## Report card of the supervisors\n\nOn half B of the first seed. {reading}\n\n{card.strip()}"


def _about(config: StudyConfig, task: Task, run: SeedRun, more: Sequence[str]) -> list[str]:
    """Sentences on the data and the models."""
    splits = run.splits
    gold = "whose gold labels only the ceiling sees" if splits.half_b_has_gold else "which have no gold labels"
    about = [
        f"Data: {task.description()}",
        f"{len(splits.half_a)} gold examples train the supervisors (half A); the supervisors label "
        f"{len(splits.half_b)} others (half B), {gold}. {len(splits.test)} test examples, the same for every seed; "
        f"validation: {len(splits.validation)}.",
        f"Weak supervisors: {', '.join(config.weak_models)}. Student: {config.student_model}.",
        *more,
    ]
    if run.base is not None:
        dialogues = getattr(config, "pretrain_dir", None)
        where = "dialogue turns of another ontology" if dialogues else "unlabelled text of the same task"
        fewer = "had less of the same" if config.weak_pretraining else "had none"
        about.append(
            f"What should make the student stronger than its supervisors is size and pre-training on {where}. It saw "
            f"no label of the task; whether it is stronger, the ceiling tells. The supervisors {fewer}."
        )
    return about


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
