"""Studies for the curves of the evidence, and their figures.

    python docs/evidence/curves.py supervisors --data_dir path/to/slurp --seeds 0      # 1 to 8 supervisors
    python docs/evidence/curves.py labels --data_dir path/to/slurp --seeds 0           # number and noise of labels
    python docs/evidence/curves.py strength_500 --data_dir path/to/slurp --seeds 0     # gold texts of the supervisors

The same call continues a killed run, and more seeds keep those that are done. Results go to `results/curve_*.json`,
figures come with `make evidence`. MiniLM learns SLURP's scenarios, with the settings of the preset `pretrained`.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scores
from datasets import Dataset
from make import published, refuse_fewer_seeds, seeds_above
from scipy import stats

from trl_weaks.aggregation.transforms import Relabel, compose
from trl_weaks.study import Method, run_study
from trl_weaks.study.data.slurp import json_lines
from trl_weaks.study.tasks.find import config_class, task_of

CURVE = "curve_"
SIZE = {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 256}
SHAPES = {  # the preset's three, a fourth shape, and each once more with another vocabulary
    "gpt2": {"vocab_size": 600},
    "opt": {"vocab_size": 700},
    "gpt_neox": {"vocab_size": 900},
    "llama": {"vocab_size": 800},
    "gpt2_b": {"vocab_size": 1000, "shape": "gpt2"},
    "opt_b": {"vocab_size": 500, "shape": "opt"},
    "gpt_neox_b": {"vocab_size": 1200, "shape": "gpt_neox"},
    "llama_b": {"vocab_size": 500, "shape": "llama"},
}
AMOUNTS = (250, 500, 1000, 2000, 4000)
NOISE = (10, 20, 30, 40, 50)  # percent
STRENGTHS = (250, 500, 1000, 2000)
PLAIN: dict[str, Any] = {"loss": "naive", "settings": {"gamma_max": 0.0}}


@dataclass(frozen=True)
class First:
    """The first rows of the labels."""

    rows: int

    def __call__(self, labels: Dataset) -> Dataset:
        return labels.select(range(min(self.rows, len(labels))))


@dataclass(frozen=True)
class Noisy:
    """Gold instead of a weak label; with the chance `noise` a class drawn at random. What a level replaces, a higher
    one replaces too.

    Args:
        gold: text -> its class, of all texts.
        classes: how many.
    """

    gold: Mapping[str, int]
    classes: int
    noise: float

    def __call__(self, row: Mapping[str, Any]) -> list[float]:
        stream = random.Random(row["example_id"])
        replaced, drawn = stream.random() < self.noise, stream.randrange(self.classes)
        label = drawn if replaced else self.gold[row["example_id"]]
        return [float(k == label) for k in range(self.classes)]


def gold_of(data_dir: str) -> tuple[dict[str, int], int]:
    """Example id -> class of all training texts, and the number of classes; as the task numbers them."""
    found, names = {}, set()
    for split in ("train", "devel", "test"):
        rows = [row for _, row in json_lines(Path(data_dir) / f"{split}.jsonl")]
        names |= {row["scenario"] for row in rows}
        found |= {row["id"]: row["scenario"] for row in rows if split == "train"}
    order = sorted(names)
    return {example: order.index(name) for example, name in found.items()}, len(order)


def labels_right(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Noise -> per seed, the share of its 1,000 labels that are right: what C4 compares the student with."""
    gold, classes = gold_of(config["data_dir"])
    kind = config_class("classification")
    task = task_of("classification", kind(**config))
    found: dict[str, list[float]] = {f"noise_{percent}": [] for percent in NOISE}
    for seed in seeds:
        for percent in NOISE:
            noisy = Noisy(gold, classes, percent / 100)
            rows = [example.id for example in task.splits(seed).half_b[:1000]]
            right = [noisy({"example_id": name})[gold[name]] for name in rows]
            found[f"noise_{percent}"].append(sum(right) / len(right))
    return found


def study(name: str, data_dir: str) -> dict[str, Any]:
    """Arguments of `run_study` for one of the studies."""
    if name == "supervisors":
        names = list(SHAPES)
        return {
            "methods": [
                Method(f"of_{n}", f"Student of {n}", supervisors=tuple(names[:n]), **PLAIN) for n in range(1, 9)
            ],
            "weak_models": [f"tiny:{one}" for one in names],
            "tiny_models": {one: SIZE | given for one, given in SHAPES.items()},
            "compare": ["of_8", "of_1", "of_8", "of_3"],
        }
    if name == "labels":
        gold, classes = gold_of(data_dir)
        methods = [Method(f"weak_{n}", f"{n} weak labels", transform=First(n), **PLAIN) for n in AMOUNTS]
        methods += [_on_gold(f"gold_{n}", f"{n} gold labels", n, gold, classes, 0.0) for n in AMOUNTS[:-1]]
        for percent in NOISE:
            label = f"1000 gold labels, {percent} % replaced"
            methods.append(_on_gold(f"noise_{percent}", label, 1000, gold, classes, percent / 100))
        return {"methods": methods, "num_weak": AMOUNTS[-1], "compare": [f"weak_{AMOUNTS[-1]}", f"weak_{AMOUNTS[0]}"]}
    size = int(name.removeprefix("strength_"))
    return {"methods": ["naive"], "num_gold": size, "compare": ["naive", "mean_vote"]}


def _on_gold(name: str, label: str, rows: int, gold: Mapping[str, int], classes: int, noise: float) -> Method:
    return Method(name, label, transform=compose(First(rows), Relabel(Noisy(gold, classes, noise))), **PLAIN)


Point = tuple[float, float, Sequence[float] | None]  # x, score, its interval
STYLES = (("#6e6e6e", "s"), ("#E69F00", "D"), ("#0072B2", "o"), ("#009E73", "^"), ("#D55E00", "v"))
NAMES = ("supervisors", "labels", *(f"strength_{size}" for size in STRENGTHS))


# figures


def draw(found: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """The figures of the curves that have results: results by name -> files."""
    made = []

    def add(name: str, *given: Any, **settings: Any) -> None:
        made.append(folder / f"{CURVE}{name}.svg")
        _plot(made[-1], *given, **settings)

    strengths: dict[int, Mapping[str, Any]] = {}  # of one strength the study with the most seeds
    for results in sorted(filter(_is_strength, found.values()), key=lambda one: len(one["seeds"])):
        strengths[results["config"]["num_gold"]] = results
    if len(strengths) > 1:
        add("strength", _by_strength(list(strengths.values())), "gold texts of the supervisors", log=True)
        gaps = [(size, "naive", strengths[size]["methods"]) for size in sorted(strengths)]
        add("strength_pgr", _recovered("student", gaps), "gold texts of the supervisors", log=True, score="PGR")
    if results := found.get(f"{CURVE}supervisors"):
        points = {"student": [(n, f"of_{n}") for n in range(1, len(SHAPES) + 1)]}
        add("supervisors", _rows(points, results), "supervisors", levels=_levels(results))
        gaps = [(n, f"of_{n}", results["pgr_of_all"]) for n in range(1, len(SHAPES) + 1)]
        add("supervisors_pgr", _recovered("student", gaps), "supervisors", score="PGR")
    if results := found.get(f"{CURVE}labels"):
        on_gold = [(n, f"gold_{n}") for n in AMOUNTS[:-1]] + [(AMOUNTS[-1], "ceiling")]
        amounts = {"weak labels": [(n, f"weak_{n}") for n in AMOUNTS], "gold labels": on_gold}
        add("labels", _rows(amounts, results), "labelled texts, three epochs", levels=_levels(results), log=True)
        gaps = [(n, f"weak_{n}", results["methods"]) for n in AMOUNTS]
        add("labels_pgr", _recovered("weak labels", gaps), "labelled texts, three epochs", log=True, score="PGR")
        noise = {"student": [(0, "gold_1000"), *((percent, f"noise_{percent}") for percent in NOISE)]}
        lines = _rows(noise, results)
        lines["its labels"] = [(0, 1.0, None)]
        lines["its labels"] += [(p, float(np.mean(results["labels_right"][f"noise_{p}"])), None) for p in NOISE]
        add("noise", lines, "percent of 1,000 gold labels replaced by a class at random")
    return made


def noise_table(results: Mapping[str, Any]) -> str:
    """How often the student of replaced labels is right, and they are (C4), in Markdown; Student's t over seeds."""
    lines = [
        "| replaced | student right, test | its labels right | difference [95 % interval] | seeds above 0 | p |",
        "|---|---|---|---|---|---|",
    ]
    for percent in NOISE:
        student = np.array(results["methods"][f"noise_{percent}"]["accuracy_per_seed"])
        labels = np.array(results["labels_right"][f"noise_{percent}"])
        found = stats.ttest_rel(student, labels)
        low, high = found.confidence_interval()
        each = f"{seeds_above(student - labels)} of {len(student)} | {found.pvalue:.2g}"
        difference = f"{(student - labels).mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {percent} % | {student.mean():.3f} | {labels.mean():.3f} | {difference} | {each} |")
    return "\n".join(lines)


def _is_strength(results: Mapping[str, Any]) -> bool:
    """MiniLM on the scenarios, taught by the preset's three supervisors with the naive loss."""
    config = results.get("config")
    if config is None:
        return False
    three = config["weak_models"] == ["tiny:gpt2", "tiny:opt", "tiny:gpt_neox"]
    on = (config.get("task"), config["student_model"]) == ("scenario", "pypi:minilm")
    return three and on and {"naive", "mean_vote"} <= set(results["methods"])


def _by_strength(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Weak, mean vote, student and ceiling against the gold texts of the supervisors, as in Burns et al. (2023)."""
    lines: dict[str, list[Point]] = {}
    for results in sorted(found, key=lambda one: one["config"]["num_gold"]):
        size, rows = results["config"]["num_gold"], results["methods"]
        lines.setdefault("supervisors, mean", []).append((size, results["weak_mean"], None))
        for name, key in (("mean vote", "mean_vote"), ("student", "naive"), ("ceiling", "ceiling")):
            lines.setdefault(name, []).append((size, rows[key]["accuracy"], rows[key]["accuracy_interval"]))
    return lines


def _rows(points: Mapping[str, Sequence[tuple[float, str]]], results: Mapping[str, Any]) -> dict[str, list[Point]]:
    rows = results["methods"]
    return {
        line: [(x, rows[name]["accuracy"], rows[name]["accuracy_interval"]) for x, name in found]
        for line, found in points.items()
    }


def _recovered(line: str, found: Sequence[tuple[float, str, Mapping[str, Any]]]) -> dict[str, list[Point]]:
    """PGR of a row of each of these, with its interval."""
    return {line: [(x, rows[name]["pgr"], rows[name]["pgr_interval"]) for x, name, rows in found]}


def _levels(results: Mapping[str, Any]) -> dict[str, float]:
    """What does not change along the curve."""
    vote = results["methods"]["mean_vote"]["accuracy"]
    return {"supervisors, mean": results["weak_mean"], "mean vote": vote, "ceiling": results["ceiling"]}


def _plot(
    path: Path,
    lines: Mapping[str, Sequence[Point]],
    what: str,
    levels: Mapping[str, float] | None = None,
    log: bool = False,
    score: str = "Accuracy",
) -> None:
    """A score with its intervals along `what`, one line each; `levels` are dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, points), (colour, marker) in zip(lines.items(), STYLES, strict=False):
        xs, ys, intervals = zip(*points, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, label=name)
        for x, interval in zip(xs, intervals, strict=True):
            if interval is not None and None not in interval:
                axes.plot([x, x], interval, color=colour, linewidth=1.6)
    for (name, level), (colour, _) in zip((levels or {}).items(), STYLES[len(lines) :], strict=False):
        axes.axhline(level, color=colour, linestyle="--", linewidth=1, label=name)
    if log:
        axes.set_xscale("log")
    ticks = sorted({x for points in lines.values() for x, *_ in points})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel=what, ylabel=f"{score}; bars: 95 % intervals")
    save(figure, axes, path)


def save(figure: Any, axes: Any, path: Path) -> None:
    """One look for the curves of these pages; the same numbers give the same bytes."""
    from matplotlib import rc_context

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8)
    with rc_context({"svg.hashsalt": "trl_weaks"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=NAMES)
    parser.add_argument("--data_dir", required=True, help="SLURP's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", default="runs/evidence", help="where a study keeps what it has done")
    asked = parser.parse_args()
    name = CURVE + asked.study
    folder = Path(asked.output_dir) / name
    try:
        gold_of(asked.data_dir)
        settings = {"data_dir": asked.data_dir, "seeds": asked.seeds} | study(asked.study, asked.data_dir)
    except FileNotFoundError as missing:
        parser.error(f"--data_dir: {missing}")
    refuse_fewer_seeds(name, ["--seeds", *map(str, asked.seeds)])
    run_study("classification", preset="pretrained", output_dir=folder, **settings)
    command = f"python docs/evidence/curves.py {asked.study} --data_dir path/to/slurp --seeds"

    def finish(kept: scores.Kept, results: Mapping[str, Any]) -> dict[str, Any]:
        """What the curve needs beside the results of a study."""
        if asked.study == "supervisors":
            return {"pgr_of_all": scores.pgr_of_all(kept, results)}
        settings = results["config"] | {"data_dir": asked.data_dir}
        return {"labels_right": labels_right(settings, results["seeds"])} if asked.study == "labels" else {}

    path = published(folder, name, asked.data_dir, " ".join([command, *map(str, asked.seeds)]), finish)
    print(path)


if __name__ == "__main__":
    main()
