"""What the report of a classification task shows: scores, tests between students, calibration, disagreement."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trl_weaks.markdown import table
from trl_weaks.metrics.agreement import right
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report import class_results as results
from trl_weaks.study.report.annotated import annotated_labels, annotated_section
from trl_weaks.study.report.diagnostics.classes import class_diagnostics
from trl_weaks.study.report.plots import plot_disagreement, plot_reliability
from trl_weaks.study.report.results import calibrate
from trl_weaks.study.report.study import NOT_STUDENTS, Gathered, row_labels
from trl_weaks.study.tasks.base import ClassificationTask


def gather_classes(task: ClassificationTask, runs: Sequence[SeedRun], folder: Path) -> Gathered:
    """Everything the report needs of the finished runs of a classification task; draws its figures in `folder`."""
    found, supervisors = results.collect(runs), runs[0].config.supervisor_names
    labels = row_labels(runs[0], found.probabilities)
    students = [name for name in found.probabilities if name not in (*supervisors, *NOT_STUDENTS)]
    pairs = results.compare(found, students)
    correlations = {}
    if len(supervisors) > 1:
        correlations = dict(results.vacuity_and_disagreement(found, supervisors))
    annotated = annotated_labels(runs)
    figures = _figures(supervisors, found, labels, correlations, folder)
    calibrated = results.CALIBRATED if runs[0].config.calibrate else None
    return Gathered(
        {name: np.stack([right(seed, found.labels) for seed in table]) for name, table in found.probabilities.items()},
        runs[0].votes(),
        extra={name: results.extra_scores(found, name) for name in found.probabilities},
        agreement=results.agreement(found, supervisors),
        about=[calibrated or "Votes are not calibrated."],
        notes=[annotated_section(runs[0], annotated), _mcnemar(pairs, labels), *figures],
        results={
            "mcnemar": pairs,
            "vacuity_disagreement_correlation": correlations,
            "classes": list(task.classes),
        }
        | ({"annotators": annotated} if annotated else {}),
        diagnostics=class_diagnostics(runs, found),
        floor=float(np.bincount(found.labels).max() / len(found.labels)),
    )


def _mcnemar(pairs: Sequence[dict[str, Any]], labels: dict[str, str]) -> str:
    """A table of the pairs in which some seed has p < 0.05, and how many were tested."""
    head, rows = ["first", "second", "only first right / only second right (per seed)", "p (per seed)"], []
    for pair in pairs:
        if min(test["p_value"] for test in pair["seeds"]) < 0.05:
            counts = ", ".join(f"{t['first_only']} / {t['second_only']}" for t in pair["seeds"])
            values = ", ".join(f"{t['p_value']:.2g}" for t in pair["seeds"])
            rows.append([labels[pair["first"]], labels[pair["second"]], counts, values])
    return (
        "## Do two students differ? McNemar's exact test\n\n"
        f"Pairs of students tested: {len(pairs)}, on the texts that exactly one of them gets right, two-sided, "
        "each seed by itself; p values are not adjusted for the number of pairs. Shown are the pairs with p < 0.05 in "
        "at least one seed; all are in `results.json`.\n\n" + table(head, rows)
    )


def _figures(
    supervisors: Sequence[str],
    found: results.Predictions,
    labels: dict[str, str],
    correlations: dict[str, float],
    folder: Path,
) -> list[str]:
    shown = [n for n in ("naive", "bayesian", "bayesian_aux", "dirichlet_votes", "ceiling") if n in labels]
    stated = calibrate({labels[name]: found.stated(name) for name in shown})
    drawn = _draw(
        "reliability.png",
        "Reliability diagram of the students",
        lambda path: plot_reliability(stated, path, "predicted class"),
        folder,
    )
    notes = [f"## Calibration of the students\n\n{drawn}"]
    if correlations:
        gaps = results.disagreement(found, supervisors)
        vacuity = {labels[name]: values for name, values in found.vacuity.items()}
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
