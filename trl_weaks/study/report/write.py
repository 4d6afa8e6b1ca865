"""The report of a study: `results.json`, `report.md`, and the figures, from plain values, no models."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.report.markdown import render
from trl_weaks.study.report.plots import plot_agreement, plot_curves, plot_pgr, plot_reliability
from trl_weaks.study.report.results import SLU_F1, Measure, at_floor, calibrate, score_systems
from trl_weaks.study.report.story import Story


def write_report(
    output_dir: str | Path,
    systems: Sequence[Mapping[str, Any]],
    *,
    seeds: Sequence[int],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    agreement: Mapping[str, Any] | None = None,
    word_confidences: Mapping[str, tuple[Sequence[float], Sequence[bool]]] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    story: Story | None = None,
    measure: Measure = SLU_F1,
    floor: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Score every system, measure PGR with paired-bootstrap intervals, and write the report.

    Without matplotlib the figures are left out and the report says so. Each file is whole or absent.

    Args:
        output_dir: made if needed.
        systems: name, label, role, per-seed samples and parse failures of every system, see [`score_systems`].
        seeds: the training seeds, in the order of the samples.
        config: all settings of the run; goes into `results.json` as it is.
        environment: versions, machine, date; see [`trl_weaks.study.environment.describe_environment`].
        agreement: of the supervisors, from `slot_agreement` or `label_agreement`.
        word_confidences: supervisor -> (confidence of each word it wrote, whether the word is right).
        curves: training losses of the students, `name` and `points` of (step, loss).
        story: what the caller adds in words.
        measure: `SLU_F1` or `ACCURACY` of [`trl_weaks.study.report.results`].
        floor: what is scored without knowing anything, see [`~trl_weaks.study.report.results.at_floor`].
        confidence, resamples: of the intervals.

    Returns:
        The content of `results.json`, with NaN and infinities where the file has null.

    Raises:
        ValueError: from [`score_systems`], or a system's runs are neither one nor as many as `seeds`.
    """
    story = story or Story()
    _check_seeds(systems, seeds)
    results = score_systems(systems, measure=measure, confidence=confidence, resamples=resamples)
    results |= {
        "floor": floor,
        "at_floor": at_floor(results, floor),
        "seeds": list(seeds),
        "config": dict(config),
        "environment": dict(environment),
        "agreement": agreement or {},
        "calibration": calibrate(word_confidences or {}),
        "preference": dict(story.preference),
        "stage_seconds": dict(story.stage_seconds),
        "command": story.command,
    }
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"pgr.png": _draw(folder / "pgr.png", lambda path: plot_pgr(results, path, measure.title))}
    if results["calibration"]:
        drawn = _draw(folder / "reliability.png", lambda path: plot_reliability(results["calibration"], path))
        figures["reliability.png"] = drawn
    if results["agreement"]:
        drawn = _draw(folder / "agreement.png", lambda path: plot_agreement(results["agreement"], path))
        figures["agreement.png"] = drawn
    if drawable := [curve for curve in curves if curve["points"]]:
        figures["curves.png"] = _draw(folder / "curves.png", lambda path: plot_curves(drawable, path))
    write_atomically(folder / "results.json", json_bytes(results))
    write_atomically(folder / "report.md", render(results, story, measure, figures).encode())
    return results


def _draw(path: Path, plot: Callable[[Path], None]) -> str | None:
    """Draw a figure; the reason why not, if matplotlib is missing."""
    try:
        plot(path)
    except ImportError as error:
        path.unlink(missing_ok=True)  # a figure of an earlier run would show other numbers
        return f"matplotlib could not be imported ({error}); install the extra `plots`: pip install 'trl-weaks[plots]'"
    return None


def _check_seeds(systems: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> None:
    for system in systems:
        runs = len(system["samples"])
        if runs not in (1, len(seeds)):
            raise ValueError(f"{system['name']}: samples of {runs} runs for the {len(seeds)} seeds {list(seeds)}")
