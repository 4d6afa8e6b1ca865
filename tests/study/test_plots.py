"""The figures: drawn, of a sensible size, and with every system and number in them."""

import json

import pytest

matplotlib = pytest.importorskip("matplotlib")

import numpy as np  # noqa: E402

from trl_weaks.metrics.agreement import label_agreement  # noqa: E402
from trl_weaks.study.files import json_bytes  # noqa: E402
from trl_weaks.study.report import plots  # noqa: E402
from trl_weaks.study.report.results import ACCURACY, calibrate, score_systems  # noqa: E402


def results(weak=0.4, seeds=3, **more):
    rng = np.random.default_rng(0)
    rates = {"first": ("weak", weak), "mine": ("method", 0.6), "plain": ("baseline", 0.5), "top": ("ceiling", 0.8)}
    systems = [
        {"name": n, "label": f"system {n}", "role": role, "samples": rng.uniform(size=(seeds, 200)) < rate}
        for n, (role, rate) in rates.items()
    ]
    systems[1] |= more
    return score_systems(systems, measure=ACCURACY, resamples=100)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, before they become pixels."""
    drawn = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    return drawn


def texts(axes):
    return [text.get_text() for text in axes.texts] + [label.get_text() for label in axes.get_yticklabels()]


def pixels(path):
    from matplotlib.image import imread

    return imread(path)


def test_forest_plot_shows_every_system(tmp_path, figures):
    found = results()
    plots.plot_pgr(found, tmp_path / "pgr.png", "Accuracy")
    image = pixels(tmp_path / "pgr.png")
    assert image.shape[1] > 1000 and image[..., :3].std() > 0.05
    (axes,) = figures[0].axes
    assert [f"system {n}" in texts(axes) for n in ("first", "mine", "plain", "top")] == [True] * 4
    mine = found["methods"]["mine"]
    assert plots.pgr_text(mine["pgr"], mine["pgr_interval"]) in texts(axes)
    lines = [tuple(line.get_xdata()) for line in axes.lines]
    assert tuple(mine["accuracy_interval"]) in lines and (mine["accuracy"],) in lines
    assert tuple(mine["accuracy_per_seed"]) in lines
    assert [found["ceiling"]] * 2 in [list(line) for line in lines]
    assert [found["weak_mean"]] * 2 in [list(line) for line in lines]
    assert axes.get_title("left") == "Accuracy of supervisors, students and ceiling"
    assert "mean over seeds" in axes.get_xlabel() and "small marks: single seeds" in axes.get_xlabel()


@pytest.mark.parametrize("ending", ["", ", with confidence and the auxiliary loss"])
def test_forest_plot_fits_its_text(ending, tmp_path, figures):
    """No label leaves the picture, and the legend leaves the head of the column beside it alone."""
    found = results()
    for row in (*found["weak"].values(), *found["methods"].values()):
        row["label"] += ending
    plots.plot_pgr(found, tmp_path / "pgr.png")
    figure = figures[0]
    head = next(text for text in figure.axes[0].texts if "PGR [" in text.get_text())
    assert not head.get_window_extent().overlaps(figure.axes[0].get_legend().get_window_extent())
    width, height = figure.bbox.width, figure.bbox.height
    for text in (*figure.axes[0].texts, *figure.axes[0].get_yticklabels(), figure.axes[0].get_legend()):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width + 1 and box.y0 >= 0 and box.y1 <= height + 1


def test_forest_plot_where_pgr_is_refused_says_why(tmp_path, figures):
    found = results(weak=0.9)
    plots.plot_pgr(found, tmp_path / "pgr.png")
    (axes,) = figures[0].axes
    assert texts(axes).count("refused") == 2 and found["pgr_refused"]
    assert found["pgr_refused"] in " ".join(axes.get_xlabel().split())
    assert all(len(line) < 110 for line in axes.get_xlabel().splitlines())


def test_forest_plot_of_a_student_whom_no_supervisor_taught(tmp_path, figures):
    plots.plot_pgr(results(supervisors=None), tmp_path / "pgr.png")
    assert "none: taught by none of them" in texts(figures[0].axes[0]) and "refused" not in texts(figures[0].axes[0])


def test_forest_plot_of_one_seed_speaks_of_no_seeds(tmp_path, figures):
    found = results(seeds=1)
    plots.plot_pgr(found, tmp_path / "pgr.png")
    (axes,) = figures[0].axes
    assert "seed" not in axes.get_xlabel() and "refused" not in axes.get_xlabel().lower()
    assert all(line.get_marker() != "|" for line in axes.lines)


def test_forest_plot_says_what_it_is_of(tmp_path, figures):
    plots.plot_pgr(results(), tmp_path / "plain.png")
    plots.plot_pgr(results(), tmp_path / "pgr.png", about="slots: 600 examples")
    plain, named = (figure.axes[0].get_title(loc="left") for figure in figures)
    assert named == plain + "\nslots: 600 examples"


def test_the_edge_of_a_mark_does_not_hide_a_short_interval(tmp_path, figures):
    plots.plot_pgr(results(), tmp_path / "pgr.png")
    marks = [line for line in figures[0].axes[0].lines if line.get_marker() in ("o", "s", "D", "^")]
    bars = [line for line in figures[0].axes[0].lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert len(marks) == 4 and len(bars) == 4
    assert all(mark.get_markeredgewidth() < bar.get_linewidth() / 4 for mark in marks for bar in bars)


def test_reliability_diagram(tmp_path, figures):
    rng = np.random.default_rng(0)
    words = {f"supervisor {i}": (c := rng.uniform(size=400), rng.uniform(size=400) < c) for i in range(8)}
    calibration = calibrate(words)
    plots.plot_reliability(calibration, tmp_path / "reliability.png", "answer")
    assert pixels(tmp_path / "reliability.png")[..., :3].std() > 0.05
    top, bottom = figures[0].axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert len(labels) == 9 and f"supervisor 7 (ECE {calibration['supervisor 7']['ece']:.3f})" in labels
    drawn = next(line for line in top.lines if line.get_label().startswith("supervisor 3"))
    assert list(drawn.get_ydata()) == calibration["supervisor 3"]["bins"]["accuracy"]
    assert len(bottom.patches) == 8 and top.get_title() and "of the answer" in bottom.get_xlabel()


@pytest.mark.parametrize("stored", [False, True])
def test_reliability_lines_break_at_empty_bins(stored, tmp_path, figures):
    """Confidences in the tenths 0, 1, 4 and 9 alone; read back from `results.json` an empty bin holds null."""
    calibration = calibrate({"one": ([0.05, 0.15, 0.15, 0.45, 0.95], [0, 0, 1, 1, 1])})
    if stored:
        calibration = json.loads(json_bytes(calibration))
    plots.plot_reliability(calibration, tmp_path / "reliability.png")
    top, bottom = figures[0].axes
    line = next(line for line in top.lines if line.get_label().startswith("one"))
    given = np.isfinite(line.get_ydata())
    assert np.flatnonzero(given).tolist() == [0, 1, 4, 9] == np.flatnonzero(np.isfinite(line.get_xdata())).tolist()
    assert np.asarray(line.get_ydata())[given].tolist() == [0, 0.5, 1, 1]
    (stairs,) = bottom.patches
    assert stairs.get_data().values.tolist() == pytest.approx([0.2, 0.4, 0, 0, 0.2, 0, 0, 0, 0, 0.2])


def test_agreement_matrix(tmp_path, figures):
    said = {"a": [0, 0, 1, 1], "b": [0, 0, 1, 0], "c": [1, 0, 1, 0]}
    plots.plot_agreement(label_agreement(said), tmp_path / "agreement.png")
    axes = figures[0].axes[0]
    shares = {frozenset("ab"): 0.75, frozenset("ac"): 0.5, frozenset("bc"): 0.75}
    table = axes.images[0].get_array()
    for i, first in enumerate("abc"):
        for j, second in enumerate("abc"):
            assert table.mask[i, j] if i == j else table[i, j] == shares[frozenset(first + second)]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(written) == 6 and written[2, 0] == "0.50" == written[0, 2] and written[0, 1] == "0.75"
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abc") and axes.get_title()


@pytest.mark.parametrize("count", [1, 5])
def test_learning_curves_have_a_panel_each_and_no_empty_one(count, tmp_path, figures):
    curves = [{"name": f"student {i}", "points": [[1, 2.0 + i], [5, 1.0 + i]]} for i in range(count)]
    plots.plot_curves(curves, tmp_path / "curves.png")
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [curve["name"] for curve in curves]
    assert [np.transpose(axes.lines[0].get_data()).tolist() for axes in panels] == [c["points"] for c in curves]
    assert "loss by step" in figures[0].get_suptitle()


def test_disagreement_has_intervals_over_texts(tmp_path, figures):
    """By plain loops: texts in the order of their mean disagreement, in fifths."""
    rng = np.random.default_rng(3)
    gaps, vacuity = rng.uniform(size=(2, 23)), rng.uniform(size=(2, 23))
    plots.plot_disagreement(gaps, {"mine": vacuity}, tmp_path / "disagreement.png")
    texts = sorted(((gaps[0, i] + gaps[1, i]) / 2, (vacuity[0, i] + vacuity[1, i]) / 2) for i in range(23))
    expected, start = [], 0
    for size in (5, 5, 5, 4, 4):
        part, start = texts[start : start + size], start + size
        gap, mean = (sum(pair[side] for pair in part) / size for side in (0, 1))
        variance = sum((value - mean) ** 2 for _, value in part) / (size - 1)
        half = 1.96 * (variance / size) ** 0.5
        expected.append((gap, mean, mean - half, mean + half))
    (axes,) = figures[0].axes
    (drawn,) = axes.containers
    line, _, (bars,) = drawn
    found = [(*point, *bar[:, 1]) for point, bar in zip(line.get_xydata(), bars.get_segments(), strict=True)]
    assert np.allclose(found, expected, atol=1e-12) and axes.get_title() and "95 %" in axes.get_xlabel()


def test_disagreement_of_fewer_texts_than_fifths():
    middle, mean, half = plots.fifths(np.array([[0.3, 0.1, 0.2]]), np.array([[3.0, 1.0, 2.0]]))
    assert (middle, mean, half) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0])


def test_importing_the_module_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sys, trl_weaks.study.report.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
