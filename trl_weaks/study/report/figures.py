"""Figures of the classification report. Need matplotlib (extra `plots`), imported only when one is drawn."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trl_weaks.metrics.calibration import expected_calibration_error, reliability_bins
from trl_weaks.study.files import write_atomically

# Okabe and Ito's colours, told apart with every common colour vision; shapes say the same again
_CYCLE = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#000000", "P"))


def plot_reliability(systems: Mapping[str, tuple[Sequence[float], Sequence[bool]]], path: Path) -> None:
    """Label -> (probability of the predicted class, whether it is right), one line each."""
    figure, axes = _canvas(6.2, 5.2)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    for (label, (stated, right)), (colour, marker) in zip(systems.items(), _cycle(len(systems)), strict=False):
        table = reliability_bins(stated, right)
        filled = np.array(table["count"]) > 0
        ece = expected_calibration_error(stated, right)
        axes.plot(
            np.array(table["confidence"])[filled],
            np.array(table["accuracy"])[filled],
            color=colour,
            marker=marker,
            markersize=5,
            label=f"{label} (ECE {ece:.3f})",
        )
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_disagreement(disagreement: Sequence[float], vacuity: Mapping[str, Sequence[float]], path: Path) -> None:
    """Mean vacuity of each evidential student in the five fifths of the texts, by disagreement of the supervisors."""
    figure, axes = _canvas(6.2, 4.0)
    disagreement = np.asarray(disagreement)
    order = np.array_split(np.argsort(disagreement, kind="stable"), 5)
    middle = [float(disagreement[part].mean()) for part in order]
    for (label, values), (colour, marker) in zip(vacuity.items(), _cycle(len(vacuity)), strict=False):
        values = np.asarray(values)
        axes.plot(middle, [float(values[part].mean()) for part in order], color=colour, marker=marker, label=label)
    axes.set(
        xlabel="disagreement of the supervisors (mean total variation distance)", ylabel="mean vacuity, K / strength"
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _cycle(count: int) -> tuple[tuple[str, str], ...]:
    return _CYCLE * (count // len(_CYCLE) + 1)


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
