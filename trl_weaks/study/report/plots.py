"""The figures of the report. They need matplotlib (extra `plots`), imported only when one is drawn."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

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
_EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # thin: a short interval stays in sight
_CYCLE = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#000000", "P"))


def plot_pgr(results: Mapping[str, Any], path: str | Path, title: str = "SLU-F1", about: str = "") -> None:
    """Forest plot: every system's score with its interval, its seeds as small marks, PGR in words at the right.

    `results` is what [`score_systems`] returns; `about`, a second line of the heading, such as the name of the study.
    Raises ImportError without matplotlib.
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
    heading = f"{title} of supervisors, students and ceiling" + (f"\n{about}" if about else "")
    axes.set_title(heading, loc="left", pad=30, fontweight="bold")
    axes.set_xlabel(_told(results, rows, title))
    _beside(axes, -0.9, f"PGR [{results['confidence']:.0%} interval]")
    _legend(axes, rows)
    _save(figure, path)


def _told(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """What marks and lines mean; of seeds only where there are several, of a refused PGR why."""
    several = any(len(row[f"{results['measure']}_per_seed"]) > 1 for row in rows)
    lines = [f"{title}{', mean over seeds' if several else ''}, {results['confidence']:.0%} paired-bootstrap interval"]
    lines[0] += "; small marks: single seeds" if several else ""
    lines.append("dashed: mean of the weak supervisors (grey), ceiling (green)")
    if results["pgr_refused"]:
        lines += textwrap.wrap(f"Refused: {results['pgr_refused']}", 100)
    return "\n".join(lines)


def _forest_row(axes: Any, position: int, row: Mapping[str, Any], key: str) -> None:
    colour, marker = _STYLE[row["role"]]
    low, high = row[f"{key}_interval"]
    axes.plot([low, high], [position, position], color=colour, linewidth=2.2, solid_capstyle="butt")
    if not np.isfinite([low, high]).all():
        axes.axhline(position, color=colour, linewidth=0.8, linestyle="--")  # no bounds, on some side
    axes.plot(row[key], position, marker=marker, color=colour, markersize=7, linestyle="none", **_EDGE)
    seeds = row[f"{key}_per_seed"]
    if len(seeds) > 1:
        axes.plot(seeds, [position + 0.24] * len(seeds), "|", color=colour, markersize=4, alpha=0.8)
    if row["role"] in ("method", "baseline"):
        told = pgr_text(row["pgr"], row["pgr_interval"])
        _beside(axes, position, told if row["supervisors"] else "none: taught by none of them")


def _beside(axes: Any, position: float, text: str) -> None:
    """Text to the right of the axes, at the height of a row."""
    place = {"xy": (1.03, position), "xycoords": ("axes fraction", "data"), "annotation_clip": False}
    axes.annotate(text, **place, va="center", fontsize=9, color="#333333")


def _legend(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    roles = [role for role in _STYLE if any(row["role"] == role for row in rows)]
    handles = [
        Line2D([], [], color=_STYLE[role][0], marker=_STYLE[role][1], label=_ROLE_NAMES[role], **_EDGE)
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


def plot_reliability(calibration: Mapping[str, Any], path: str | Path, of: str = "word") -> None:
    """Reliability diagram, one line each; below, where the confidences lie. No line crosses an empty bin.

    `calibration` is what [`calibrate`] returns; `of`, what is right or wrong. Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 6.4), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    for (name, entry), (colour, marker) in zip(calibration.items(), cycle(_CYCLE), strict=False):
        stated, right = _points(entry["bins"])
        label = f"{name} (ECE {entry['ece']:.3f})"
        top.plot(stated, right, color=colour, marker=marker, markersize=5, clip_on=False, label=label)
        shares = [count / entry["words"] for count in entry["bins"]["count"]]
        bottom.stairs(shares, entry["bins"]["edges"], color=colour, linewidth=1.6)
    top.set(title="Stated confidence against truth", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    top.legend(frameon=False, fontsize=8)
    bottom.set(xlabel=f"stated confidence of the {of}", ylabel="share")
    _plain(top)
    _plain(bottom)
    _save(figure, path)


def _points(bins: Mapping[str, Sequence[float]]) -> list[list[float]]:
    """Confidences and accuracies of the bins, NaN where one is empty: a line breaks there."""
    columns = (bins["confidence"], bins["accuracy"])
    return [[v if count else math.nan for v, count in zip(of, bins["count"], strict=True)] for of in columns]


def plot_agreement(agreement: Mapping[str, Any], path: str | Path) -> None:
    """Matrix of how often two supervisors say the same; `agreement` as [`label_agreement`] returns it."""
    from matplotlib.figure import Figure

    key = _agreement_key(agreement)
    names = list(dict.fromkeys(pair[side] for side in ("first", "second") for pair in agreement["pairs"]))
    table = np.full((len(names), len(names)), np.nan)
    for pair in agreement["pairs"]:
        i, j = names.index(pair["first"]), names.index(pair["second"])
        table[i, j] = table[j, i] = pair[key]
    size = 2.4 + 0.75 * len(names)
    figure = Figure(figsize=(size + 0.8, size), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(np.isfinite(table)):
        shade = "white" if table[i, j] > 0.6 else "black"
        axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=shade)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Agreement of the supervisors")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label=key.replace("_", " "))
    _save(figure, path)


def _agreement_key(agreement: Mapping[str, Any]) -> str:
    """The first number of a pair."""
    return next(name for name in agreement["pairs"][0] if name not in ("first", "second"))


def plot_curves(curves: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Training loss of every student, each on a scale of its own: losses of different methods do not compare.

    `curves`: `name` and `points`, pairs of step and loss.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(2.7 * columns, 0.5 + 1.9 * rows), dpi=150, layout="constrained")
    figure.suptitle("Training loss by step, first seed; every student has a scale of its own", fontsize=10)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[len(curves) :]:
        unused.set_visible(False)
    for axes, curve in zip(panels, curves, strict=False):
        steps, losses = zip(*curve["points"], strict=True)
        axes.plot(steps, losses, color=_CYCLE[0][0], marker="." if len(steps) < 20 else None, linewidth=1.4)
        axes.set_title("\n".join(textwrap.wrap(curve["name"], 30)), fontsize=8)
        axes.tick_params(labelsize=7)
        _plain(axes)
    _save(figure, path)


def plot_disagreement(disagreement: np.ndarray, vacuity: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Mean vacuity of each evidential student in the five fifths of the texts, by disagreement of the supervisors.

    Both are (seeds, texts); a text counts once, with its mean over the seeds. Bars are 95 % intervals of the mean over
    the texts of a fifth, 1.96 standard errors to each side.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (label, values), (colour, marker) in zip(vacuity.items(), cycle(_CYCLE), strict=False):
        middle, mean, half = fifths(disagreement, values)
        axes.errorbar(middle, mean, half, color=colour, marker=marker, capsize=3, linewidth=1.4, label=label)
    axes.set(title="Does the student doubt where its supervisors disagree?", ylabel="mean vacuity, K / strength")
    axes.set_xlabel("disagreement of the supervisors (mean total variation distance)\nbars: 95 % intervals over texts")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    _save(figure, path)


def fifths(disagreement: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Mean disagreement, mean value and half its 95 % interval, in each fifth of the texts that has any."""
    gaps, values = np.asarray(disagreement).mean(0), np.asarray(values).mean(0)
    parts = [part for part in np.array_split(np.argsort(gaps, kind="stable"), 5) if len(part)]
    spread = [values[part].std(ddof=1) / math.sqrt(len(part)) if len(part) > 1 else 0.0 for part in parts]
    middle, mean = ([float(of[part].mean()) for part in parts] for of in (gaps, values))
    return middle, mean, [float(1.96 * one) for one in spread]


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Any, path: str | Path) -> None:
    """The format is the suffix; an SVG has no date and no random ids, so that the same numbers give the same file."""
    from matplotlib import rc_context

    buffer, kind = io.BytesIO(), Path(path).suffix.removeprefix(".")
    with rc_context({"svg.hashsalt": "trl_weaks"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(path, buffer.getvalue())
