"""The figures: drawn, of a sensible size, and with every system and number in them."""

import pytest

matplotlib = pytest.importorskip("matplotlib")

import numpy as np  # noqa: E402

from trl_weaks.study.report import plots  # noqa: E402
from trl_weaks.study.report.results import ACCURACY, calibrate, score_systems  # noqa: E402


def results(weak=0.4):
    rng = np.random.default_rng(0)
    rates = {"first": ("weak", weak), "mine": ("method", 0.6), "plain": ("baseline", 0.5), "top": ("ceiling", 0.8)}
    systems = [
        {"name": n, "label": f"system {n}", "role": role, "samples": rng.uniform(size=(3, 200)) < rate}
        for n, (role, rate) in rates.items()
    ]
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
    assert "Accuracy" in axes.get_xlabel()


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


def test_forest_plot_where_pgr_is_refused(tmp_path, figures):
    plots.plot_pgr(results(weak=0.9), tmp_path / "pgr.png")
    assert "refused" in texts(figures[0].axes[0])


def test_reliability_diagram(tmp_path, figures):
    rng = np.random.default_rng(0)
    words = {f"supervisor {i}": (c := rng.uniform(size=400), rng.uniform(size=400) < c) for i in range(8)}
    calibration = calibrate(words)
    plots.plot_reliability(calibration, tmp_path / "reliability.png")
    assert pixels(tmp_path / "reliability.png")[..., :3].std() > 0.05
    top, bottom = figures[0].axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert len(labels) == 9 and f"supervisor 7 (ECE {calibration['supervisor 7']['ece']:.3f})" in labels
    drawn = next(line for line in top.lines if line.get_label().startswith("supervisor 3"))
    assert list(drawn.get_ydata()) == calibration["supervisor 3"]["bins"]["accuracy"]
    assert len(bottom.patches) == 8


def test_importing_the_module_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sys, trl_weaks.study.report.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
