"""From the stages of a finished run to its report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl_weaks.distributed import processes
from trl_weaks.study.classification import results
from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.figures import plot_disagreement, plot_reliability
from trl_weaks.study.classification.pipeline import ClassificationRun
from trl_weaks.study.classification.sources import ClassSource
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.study.pipeline.reporting import TINY_NOTE, refuse_unfinished, stage_seconds
from trl_weaks.study.report import write_report as write
from trl_weaks.study.results import ACCURACY
from trl_weaks.study.stages import Stage
from trl_weaks.study.story import Story


def write_report(
    config: ClassificationConfig,
    source: ClassSource,
    runs: Sequence[ClassificationRun],
    stages: Sequence[Stage],
    command: str,
) -> None:
    """Write `report.md`, `results.json` and the figures; the first process only.

    Raises:
        ValueError: a system has not been evaluated yet; names the missing stages.
    """
    refuse_unfinished(runs)
    if not processes().is_main_process:
        return
    found, folder = results.collect(runs), Path(config.output_dir)
    rows = results.systems(runs, found)
    labels = {row["name"]: row["label"] for row in rows}
    students = [row["name"] for row in rows if row["role"] in ("method", "ceiling")]
    pairs = results.compare(found, students)
    correlations = {}
    if len(config.weak_models) > 1:
        correlations = dict(results.vacuity_and_disagreement(found, config.supervisor_names))
    notes = [_mcnemar(pairs, labels), *_figures(config, found, labels, correlations, folder), *found.left_out]
    if config.student_model.startswith(TINY):
        notes.append(TINY_NOTE)
    story = Story(
        title="Weak-to-strong report: classification",
        about=_about(config, source, runs),
        notes=notes,
        command=command,
        stage_seconds=stage_seconds(stages),
    )
    written = write(
        folder,
        rows,
        seeds=config.seeds,
        config=config.snapshot(),
        environment=describe_environment(),
        agreement=results.agreement(found, config.supervisor_names),
        story=story,
        measure=ACCURACY,
    )
    written |= {"mcnemar": pairs, "vacuity_disagreement_correlation": correlations, "classes": source.classes}
    write_atomically(folder / "results.json", json_bytes(written))


def _about(config: ClassificationConfig, source: ClassSource, runs: Sequence[ClassificationRun]) -> list[str]:
    splits = runs[0].splits
    sizes = f"{len(splits.half_a)} gold texts for the supervisors, {len(splits.half_b)} texts that they label"
    about = [
        f"Data: {source.description}",
        f"Sizes: {sizes}, {len(splits.test)} test texts; validation: {len(splits.validation)}.",
        f"Weak supervisors: {', '.join(config.weak_models)}; student: {config.student_model}.",
    ]
    if config.student_model.startswith(TINY):
        about.append(
            "The student is stronger because it was pre-trained as a language model on unlabelled text of the domain; "
            "the supervisors were not."
        )
    calibrated = (
        "Temperatures were fitted on the validation split." if config.calibrate else "Votes are not calibrated."
    )
    return [*about, calibrated]


def _mcnemar(pairs: Sequence[dict[str, Any]], labels: dict[str, str]) -> str:
    """A table of the pairs in which some seed has p < 0.05, and how many were tested."""
    lines = [
        "| first | second | only first right / only second right (per seed) | p (per seed) |",
        "|---|---|---|---|",
    ]
    for pair in pairs:
        if min(test["p_value"] for test in pair["seeds"]) < 0.05:
            counts = ", ".join(f"{t['first_only']} / {t['second_only']}" for t in pair["seeds"])
            values = ", ".join(f"{t['p_value']:.2g}" for t in pair["seeds"])
            lines.append(f"| {labels[pair['first']]} | {labels[pair['second']]} | {counts} | {values} |")
    return (
        "## Do two students differ? McNemar's exact test\n\n"
        f"{len(pairs)} pairs of students were tested on the texts that exactly one of them gets right, two-sided, "
        "each seed by itself; p values are not adjusted for the number of pairs. Shown are the pairs with p < 0.05 in "
        "at least one seed; all are in `results.json`.\n\n" + "\n".join(lines)
    )


def _figures(
    config: ClassificationConfig,
    found: results.Predictions,
    labels: dict[str, str],
    correlations: dict[str, float],
    folder: Path,
) -> list[str]:
    shown = [n for n in ("naive", "bayesian", "bayesian_aux", "dirichlet_votes", "ceiling") if n in labels]
    stated = {labels[name]: found.stated(name) for name in shown}
    notes = [
        "## Calibration of the students\n\n"
        + _draw("reliability.png", "Reliability diagram", lambda path: plot_reliability(stated, path), folder)
    ]
    if correlations:
        gaps = results.disagreement(found, config.supervisor_names).ravel()
        vacuity = {labels[name]: values.ravel() for name, values in found.vacuity.items()}
        drawn = _draw(
            "disagreement.png",
            "Vacuity of the evidential students by disagreement of their supervisors",
            lambda path: plot_disagreement(gaps, vacuity, path),
            folder,
        )
        told = "; ".join(f"{labels[name]} {value:+.3f}" for name, value in correlations.items())
        notes.append(
            "## Does the student know where its supervisors disagree?\n\n"
            "Naive and Bayesian multi-weak see the mean vote only; the Dirichlet fitted to the votes sees the votes. "
            f"Rank correlation of vacuity with the supervisors' disagreement on the test texts: {told}.\n\n{drawn}"
        )
    return notes


def _draw(name: str, caption: str, plot: Callable[[Path], None], folder: Path) -> str:
    path = folder / name
    try:
        plot(path)
    except ImportError as error:
        path.unlink(missing_ok=True)  # a figure of an earlier run would show other numbers
        return f"`{name}` was left out: matplotlib could not be imported ({error}); install the extra `plots`."
    return f"![{caption}]({name})"
