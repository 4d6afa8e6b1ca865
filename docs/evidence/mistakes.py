"""Where a student corrects its supervisors and where it copies their mistakes; and what its vacuity is worth.

    python docs/evidence/mistakes.py runs/evidence/intent_minilm --data_dir path/to/slurp --students naive ceiling \\
        --crowd mean_vote --vacuity bayesian dirichlet_votes

Reads the answers that a finished study keeps of the test split and writes `results/mistakes/NAME.json`;
`make evidence` puts the tables into the pages and draws the coverage-risk curves. The answer of the supervisors
together (`--crowd`) is their mean vote, or their joint answer where answers are texts. An answer is right where it is
the gold class, or states exactly the gold slots. Intervals: bootstrap over test texts, all seeds of a text together.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scores
from make import kind_of, place_of, write_results

from trl_weaks.study.config import StudyConfig
from trl_weaks.study.data.targets import decode_slots
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.pipeline.run import seed_runs
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.find import config_class, task_of

FOLDER = Path(__file__).resolve().parent / "results" / "mistakes"
RESAMPLES = 10_000
RISK_RESAMPLES = 2_000  # each sorts all texts anew
WANTED = np.linspace(0.05, 1, 20)  # shares of the texts that are answered
LIMITS = (0.025, 0.975)
CONFIDENCE = "1 - confidence"
SHOWN = 4  # examples of each kind
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00")
KINDS = {  # (crowd right, student right, the same answer) -> what that is
    (False, True, False): "corrected",
    (False, False, True): "copied",
    (False, False, False): "other mistake",
    (True, False, False): "lost",
    (True, True, True): "kept",
}
Answer = tuple[tuple[str, str], ...] | str


@dataclass(frozen=True)
class Run:
    """Answers of a finished study.

    Args:
        tests: seed -> test examples, the same texts for every seed.
        gold: of the test texts, in their order.
        answers: system -> seed -> answers, in the order of the texts.
        names: slots whose values in the test nobody was taught, where the task's file says so.
        doubts: how sure an evidential classifier is, by what is asked: its vacuity, or one minus its largest
            probability -> system and seed -> of every text.
    """

    tests: Sequence[Example]
    gold: Sequence[Answer]
    answers: Mapping[str, Sequence[Sequence[Answer]]]
    doubts: Mapping[str, Mapping[str, np.ndarray]]
    names: Collection[str] = ()


def slots(text: str) -> Answer:
    """What an answer states, whatever its order and case; what cannot be read states nothing."""
    return tuple(sorted((name, filler.strip().lower()) for name, filler in decode_slots(text)[0]))


def read_run(folder: Path, data_dir: str | None, systems: Sequence[str], vacuity: Sequence[str]) -> Run:
    if not (folder / "results.json").is_file():
        raise SystemExit(f"{folder} is not the folder of a finished study: it has no results.json")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = kind_of(folder)
    kind = config_class(name)
    config: StudyConfig = kind(**results["config"] | {"data_dir": data_dir, "output_dir": str(folder)})
    task = task_of(name, config)
    tests = seed_runs(config, task, [])[0].splits.test
    read: Callable[[str, int], list[dict[str, Any]]] = lambda system, seed: read_predictions(  # noqa: E731
        folder / f"seed-{seed}" / "predictions" / system, [example.id for example in tests]
    )
    classes = hasattr(task, "classes")
    gold = [task.classes[task.label(e)] if classes else slots(task.completion(e)) for e in tests]
    supervisors = list(results["weak"])
    answers: dict[str, list[list[Answer]]] = {}
    for system in dict.fromkeys([*supervisors, *systems]):
        if system == "mean_vote":
            votes = [
                np.mean([[row["probabilities"] for row in read(one, seed)] for one in supervisors], axis=0)
                for seed in results["seeds"]
            ]
            answers[system] = [[task.classes[k] for k in vote.argmax(axis=1)] for vote in votes]
        elif classes:
            rows = [read(system, seed) for seed in results["seeds"]]
            answers[system] = [[task.classes[int(np.argmax(row["probabilities"]))] for row in one] for one in rows]
        else:
            answers[system] = [[slots(row["completion"]) for row in read(system, s)] for s in results["seeds"]]
    if classes:
        check(answers, gold, results)
    else:
        scores.of_study(folder, data_dir)  # raises where the answers are not those of the results
    doubts: dict[str, dict[str, np.ndarray]] = {"vacuity": {}, CONFIDENCE: {}}
    for one in vacuity:
        rows = [read(one, seed) for seed in results["seeds"]]
        doubts["vacuity"][one] = np.array([[row["vacuity"] for row in seed] for seed in rows])
        doubts[CONFIDENCE][one] = np.array([[1 - max(row["probabilities"]) for row in seed] for seed in rows])
    return Run(tests, gold, answers, doubts, getattr(sys.modules[type(task).__module__], "NAMES", ()))


def check(
    answers: Mapping[str, Sequence[Sequence[Answer]]], gold: Sequence[Answer], results: Mapping[str, Any]
) -> None:
    """
    Raises:
        ValueError: answers are right less or more often than the report says: other answers, or other gold.
    """
    rows = {**results["weak"], **results["methods"]}
    for system, seeds in answers.items():
        found = [np.mean([a == b for a, b in zip(one, gold, strict=True)]) for one in seeds]
        if not np.allclose(found, rows[system]["accuracy_per_seed"], atol=1e-9):
            raise ValueError(f"{system}: {found} is right, {rows[system]['accuracy_per_seed']} says results.json")


def kinds(run: Run, student: str, crowd: str) -> np.ndarray:
    """What the student makes of the supervisors' answer: (seeds, texts), of the values of `KINDS`."""
    found = []
    for theirs, its in zip(run.answers[crowd], run.answers[student], strict=True):
        rows = zip(theirs, its, run.gold, strict=True)
        found.append([KINDS[a == gold, b == gold, a == b] for a, b, gold in rows])
    return np.array(found)


def shares(found: np.ndarray) -> dict[str, Any]:
    """Share of each kind among the texts on which the supervisors are wrong, or right; with its interval."""
    draws = _draws(found.shape[1], RESAMPLES)
    counts = {kind: draws @ (found == kind).sum(axis=0) for kind in KINDS.values()}
    made = {}
    for group in (("corrected", "copied", "other mistake"), ("kept", "lost")):
        whole = sum(counts[kind] for kind in group)
        number = int(np.isin(found, group).sum())
        for kind in group:
            interval = np.quantile(counts[kind] / np.maximum(whole, 1), LIMITS)
            made[kind] = {
                "of": number,
                "share": float((found == kind).sum() / max(number, 1)),
                "interval": interval.tolist(),
            }
    return made


def shown(
    run: Run, student: str, crowd: str, supervisors: Sequence[str], found: np.ndarray, most: int = SHOWN
) -> list[dict[str, Any]]:
    """Examples of the first seed, drawn at random, a few of each kind but the kept ones."""
    made = []
    for kind in ("corrected", "copied", "other mistake", "lost"):
        places = np.flatnonzero(found[0] == kind).tolist()
        for i in sorted(random.Random(0).sample(places, min(most, len(places)))):
            said = {name: run.answers[name][0][i] for name in (*supervisors, crowd, student)}
            made.append({"kind": kind, "text": run.tests[i].text, "gold": run.gold[i], "answers": said})
    return made


def recall(run: Run, names: Collection[str], crowd: str) -> dict[str, dict[str, Any]]:
    """System -> of the gold slots with names that nobody was taught, and of the others, how many are stated; the share
    with its interval over texts, and the difference from that of the supervisors together."""
    draws = _draws(len(run.gold), RESAMPLES)
    made: dict[str, dict[str, Any]] = {system: {} for system in run.answers}
    for kind, of in (("names", True), ("other slots", False)):
        gold = [Counter(slot for slot in slots if (slot[0] in names) == of) for slots in run.gold]
        stated = np.array([want.total() for want in gold])
        whole, shares, points = np.maximum(draws @ stated, 1), {}, {}
        for system, seeds in run.answers.items():
            right = np.mean(
                [[(Counter(said) & want).total() for said, want in zip(one, gold, strict=True)] for one in seeds], 0
            )
            shares[system], points[system] = draws @ right / whole, float(right.sum() / max(stated.sum(), 1))
        for system in run.answers:
            made[system][kind] = {
                "of": int(stated.sum()),
                "share": points[system],
                "interval": np.quantile(shares[system], LIMITS).tolist(),
                "ahead": points[system] - points[crowd],
                "ahead_interval": np.quantile(shares[system] - shares[crowd], LIMITS).tolist(),
            }
    return made


def risks(run: Run) -> dict[str, dict[str, Any]]:
    """Doubt and system -> error rate of the answers of least doubt against their share, at twenty shares, and the area
    under that: means over the seeds, with intervals. `ahead` is by how much the area is below that of one minus the
    system's largest probability: positive where the doubt sorts better.
    """
    draws = _draws(len(run.gold), RISK_RESAMPLES)
    made: dict[str, dict[str, Any]] = {}
    for system in next(iter(run.doubts.values())):
        wrong = np.array([[a != gold for a, gold in zip(one, run.gold, strict=True)] for one in run.answers[system]])
        points, areas, drawn = {}, {}, {}
        for doubt, tables in run.doubts.items():
            once = np.ones((1, len(run.gold)))
            points[doubt], areas[doubt] = (found[0] for found in _risk(once, tables[system], wrong))
            drawn[doubt] = _risk(draws, tables[system], wrong)
        for doubt in run.doubts:
            own = {
                "coverage": WANTED.round(2).tolist(),
                "risk": points[doubt].round(4).tolist(),
                "interval": np.quantile(drawn[doubt][0], LIMITS, axis=0).T.round(4).tolist(),
                "area": float(areas[doubt]),
                "area_interval": np.quantile(drawn[doubt][1], LIMITS).tolist(),
            }
            if doubt != CONFIDENCE:
                ahead = drawn[CONFIDENCE][1] - drawn[doubt][1]
                own["ahead"] = float(areas[CONFIDENCE] - areas[doubt])
                own["ahead_interval"] = np.quantile(ahead, LIMITS).tolist()
            made[f"{doubt}, {system}"] = own
    return made


def _draws(texts: int, resamples: int) -> np.ndarray:
    """How often each text is in each resample: (resamples, texts)."""
    return np.random.default_rng(0).multinomial(texts, np.full(texts, 1 / texts), resamples)


def _risk(draws: np.ndarray, doubts: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Risk at the wanted shares, (resamples, 20), and the area, (resamples,): means over the seeds of `doubts` and
    `wrong`, (seeds, texts), each in its own order; equal doubts are answered together."""
    curves, areas = [], []
    for doubt, mistaken in zip(doubts, wrong, strict=True):
        order = np.argsort(doubt, kind="stable")
        last = np.flatnonzero(np.append(np.diff(doubt[order]) > 0, True))
        often = draws[:, order]
        answered = np.cumsum(often, axis=1)[:, last]
        risk = np.cumsum(often * mistaken[order], axis=1)[:, last] / np.maximum(answered, 1)
        share = answered / answered[:, -1:]
        areas.append((np.diff(share, prepend=0.0, axis=1) * risk).sum(axis=1))
        rows = ((row, there > 0, curve) for row, there, curve in zip(share, answered, risk, strict=True))
        curves.append([np.interp(WANTED, row[some], curve[some]) for row, some, curve in rows])
    return np.mean(curves, axis=0), np.mean(areas, axis=0)


def tables(made: Mapping[str, Any]) -> str:
    """The shares and the examples, in Markdown."""
    lines = [
        "| student | of the supervisors' mistakes: corrected | copied | another | of their right answers: lost |",
        "|---|---|---|---|---|",
    ]
    for student, found in made["shares"].items():
        cells = []
        for kind in ("corrected", "copied", "other mistake", "lost"):
            low, high = found[kind]["interval"]
            cells.append(f"{found[kind]['share']:.1%} [{low:.1%}, {high:.1%}]")
        lines.append("| " + " | ".join([student, *cells]) + " |")
    some = next(iter(made["shares"].values()))
    lines += ["", f"{some['corrected']['of']:,} wrong and {some['kept']['of']:,} right answers of {made['crowd']}, in "
              f"{len(made['seeds'])} seed{'s' * (len(made['seeds']) > 1)}."]  # fmt: skip
    if made.get("recall"):
        than = f"ahead of {made['crowd']}"
        lines += ["", f"| system | names stated rightly | {than} | other slots stated rightly | {than} |"]
        lines += ["|---|---|---|---|---|"]
        for system, found in made["recall"].items():
            cells = []
            for one in found.values():
                cells.append(f"{one['share']:.1%} [{one['interval'][0]:.1%}, {one['interval'][1]:.1%}]")
                low, high = one["ahead_interval"]
                cells.append("" if system == made["crowd"] else f"{one['ahead']:+.1%} [{low:+.1%}, {high:+.1%}]")
            lines.append("| " + " | ".join([system, *cells]) + " |")
        lines += ["", " and ".join(f"{one['of']:,} {kind}" for kind, one in found.items()) + " in gold."]
    if areas := {name: curve for name, curve in made.get("risk", {}).items() if "area" in curve}:
        lines += ["", *area_table(areas)]
    if not made["examples"]:
        return "\n".join(lines)
    lines += [
        "",
        "| | text | gold | " + " | ".join(made["columns"]) + " |",
        "|---|---|---|" + "---|" * len(made["columns"]),
    ]
    for row in made["examples"]:
        cells = [row["kind"], row["text"], row["gold"], *(row["answers"][name] for name in made["columns"])]
        lines.append("| " + " | ".join(said(cell) for cell in cells) + " |")
    return "\n".join(lines)


def area_table(areas: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [f"| doubt | mean error rate, least doubt first | below that of {CONFIDENCE} |", "|---|---|---|"]
    for name, curve in areas.items():
        cells = [f"{curve['area']:.3f} [{curve['area_interval'][0]:.3f}, {curve['area_interval'][1]:.3f}]", ""]
        if "ahead" in curve:
            cells[1] = f"{curve['ahead']:+.3f} [{curve['ahead_interval'][0]:+.3f}, {curve['ahead_interval'][1]:+.3f}]"
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def said(answer: Any) -> str:
    if isinstance(answer, str):
        return answer.replace("|", "\\|")
    return "; ".join(f"{name}: {filler}" for name, filler in answer).replace("|", "\\|") or "–"


def draw(made: Mapping[str, Any], path: Path) -> None:
    """Coverage and risk, one line for a system and a doubt."""
    from curves import save
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, curve), colour in zip(made["risk"].items(), COLOURS, strict=False):
        axes.plot(curve["coverage"], curve["risk"], marker="o", markersize=3, color=colour, label=name)
        if "interval" in curve:
            axes.fill_between(curve["coverage"], *zip(*curve["interval"], strict=True), color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="share answered, least doubt first", ylabel="error rate of the answered", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    save(figure, axes, path)


def command(asked: argparse.Namespace) -> str:
    """Without folders of the machine."""
    data = ["--data_dir", place_of(asked.run.name)] if asked.data_dir else []
    said = [f"runs/evidence/{asked.run.name}", *data, "--students", *asked.students, "--crowd", asked.crowd]
    vacuity = ["--vacuity", *asked.vacuity] if asked.vacuity else []
    vacuity += ["--examples", str(asked.examples)] if asked.examples != SHOWN else []
    return " ".join(
        ["python docs/evidence/mistakes.py", *said, *vacuity, *(["--name", asked.name] if asked.name else [])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished study")
    parser.add_argument("--data_dir", help="SLURP's folder; none for the embedded grammar")
    parser.add_argument(
        "--students", nargs="+", default=["naive", "ceiling"], help="the first one's examples are shown"
    )
    parser.add_argument("--crowd", default="mean_vote", help="mean_vote, or joint_answer for texts")
    parser.add_argument("--vacuity", nargs="*", default=[], help="evidential students of classes, for the curve")
    parser.add_argument("--examples", type=int, default=SHOWN, help="of each kind; 0 where their licence forbids it")
    parser.add_argument("--name", help="of the results; default the folder's")
    asked = parser.parse_args()
    if asked.name and not re.fullmatch(r"\w+", asked.name):
        parser.error(f"--name is letters, digits and underscores; got {asked.name!r}")
    systems = [*asked.students, asked.crowd, *asked.vacuity]
    try:
        run = read_run(asked.run, asked.data_dir, systems, asked.vacuity)
    except (ValueError, OSError) as error:  # a folder that is not there, answers of others, other data
        raise SystemExit(f"{error}") from error
    supervisors = [name for name in run.answers if name not in systems]
    found = {student: kinds(run, student, asked.crowd) for student in asked.students}
    first = asked.students[0]
    made = {
        "crowd": asked.crowd,
        "seeds": json.loads((asked.run / "results.json").read_text(encoding="utf-8"))["seeds"],
        "texts": len(run.tests),
        "environment": describe_environment(),
        "command": command(asked),
        "shares": {student: shares(one) for student, one in found.items()},
        "columns": [*supervisors, asked.crowd, first],
        "examples": shown(run, first, asked.crowd, supervisors, found[first], asked.examples),
        "recall": recall(run, run.names, asked.crowd) if run.names else {},
        "risk": risks(run) if asked.vacuity else {},
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(write_results(FOLDER / f"{asked.name or asked.run.name}.json", made))


if __name__ == "__main__":
    main()
