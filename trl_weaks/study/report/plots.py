"""The two figures of the report. Needs matplotlib (extra `plots`); imported only when a figure is drawn."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_weaks.study.files import write_atomically
from trl_weaks.study.report.markdown import pgr_text

# Okabe and Ito's colours, told apart with every common colour vision; shapes say the same again
_STYLE = {
    "weak": ("#6e6e6e", "s"),
    "method": ("#0072B2", "o"),
    "baseline": ("#E69F00", "D"),
    "ceiling": ("#009E73", "^"),
}
_ROLE_NAMES = {"weak": "weak supervisor", "method": "student", "baseline": "baseline", "ceiling": "ceiling"}
_CYCLE = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#000000", "P"))


def plot_pgr(results: Mapping[str, Any], path: str | Path, title: str = "SLU-F1") -> None:
    """Forest plot: every system's score with its interval, its seeds as small marks, PGR in words at the right.

    `results` is what [`score_systems`] returns. Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    key = results["measure"]
    rows = [*results["weak"].values(), *results["methods"].values()]
    figure = Figure(figsize=(9.2, 1.5 + 0.36 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for position, row in enumerate(rows):
        _forest_row(axes, position, row, key)
    axes.axvline(results["weak_mean"], color=_STYLE["weak"][0], linewidth=1, linestyle="--", zorder=0)
    axes.axvline(results["ceiling"], color=_STYLE["ceiling"][0], linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"{title}, mean over seeds, {results['confidence']:.0%} paired-bootstrap interval; small marks: single seeds\n"
        "dashed: mean of the weak supervisors (grey), ceiling (green)"
    )
    _beside(axes, -0.9, f"PGR [{results['confidence']:.0%} interval]")
    _legend(axes, rows)
    _save(figure, path)


def _forest_row(axes: Any, position: int, row: Mapping[str, Any], key: str) -> None:
    colour, marker = _STYLE[row["role"]]
    low, high = row[f"{key}_interval"]
    axes.plot([low, high], [position, position], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(row[key], position, marker=marker, color=colour, markersize=7, markeredgecolor="white", linestyle="none")
    seeds = row[f"{key}_per_seed"]
    if len(seeds) > 1:
        axes.plot(seeds, [position + 0.24] * len(seeds), "|", color=colour, markersize=4, alpha=0.8)
    if row["role"] in ("method", "baseline") and row["weak"] is not None:
        _beside(axes, position, pgr_text(row["pgr"], row["pgr_interval"]))


def _beside(axes: Any, position: float, text: str) -> None:
    """Text to the right of the axes, at the height of a row."""
    place = {"xy": (1.03, position), "xycoords": ("axes fraction", "data"), "annotation_clip": False}
    axes.annotate(text, **place, va="center", fontsize=9, color="#333333")


def _legend(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    roles = [role for role in _STYLE if any(row["role"] == role for row in rows)]
    handles = [
        Line2D([], [], color=_STYLE[role][0], marker=_STYLE[role][1], markeredgecolor="white", label=_ROLE_NAMES[role])
        for role in roles
    ]
    axes.legend(
        handles=handles,
        loc="lower right",  # of the axes, beside the head of the column of PGRs
        bbox_to_anchor=(1, 1),
        ncols=4,
        borderaxespad=0,
        columnspacing=1.4,
        frameon=False,
        fontsize=9,
    )


def plot_reliability(calibration: Mapping[str, Any], path: str | Path) -> None:
    """Reliability diagram of the weak word confidences, one line per supervisor; below, where the words lie.

    `calibration` is what [`calibrate`] returns. Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 6.2), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    for (name, entry), (colour, marker) in zip(
        calibration.items(), _CYCLE * (len(calibration) // 6 + 1), strict=False
    ):
        table = entry["bins"]
        filled = [b for b, count in enumerate(table["count"]) if count]
        stated, right = ([table[column][b] for b in filled] for column in ("confidence", "accuracy"))
        top.plot(stated, right, color=colour, marker=marker, clip_on=False, label=f"{name} (ECE {entry['ece']:.3f})")
        shares = [count / entry["words"] for count in table["count"]]
        bottom.stairs(shares, table["edges"], color=colour, linewidth=1.6)
    top.set(ylabel="share of words that are right", xlim=(0, 1), ylim=(0, 1))
    top.legend(frameon=False, fontsize=9)
    bottom.set(xlabel="stated confidence of the word", ylabel="share of words")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    _save(figure, path)


def _save(figure: Any, path: str | Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
