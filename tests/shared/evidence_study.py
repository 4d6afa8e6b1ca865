"""The folder of a finished study of a small task whose answers are drawn, and its results by loops."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY, Measure, at_floor, score_systems
from trl_weaks.study.tasks.base import Example, Splits

TEXTS, SEEDS = 60, (3, 5)
ROWS = ("weak", "methods", "comparisons", "ceiling", "weak_mean", "examples")
ROLES = {"one": "weak", "two": "weak", "student": "method", "ceiling": "ceiling"}


@dataclass
class Small:
    """A task without data; what the script asks of one."""

    kind: str
    classes: tuple[str, ...] = ("a", "b", "c")
    name: str = "small"
    said: str = "text"

    def splits(self, seed: int) -> Splits:
        """Cut as a study cuts them."""
        return Splits((), (), (), tuple(Example(f"{seed // 100}/{i}", self.said, "abc"[i % 3]) for i in range(TEXTS)))

    def label(self, example: Example) -> int:
        return "abc".index(example.target)

    def statistics(self, completion: str, example: Example) -> list[float]:
        return [float(completion == example.target), 1.0]

    def total(self, means: np.ndarray) -> dict[str, np.ndarray]:
        return {"whole": means[..., 1], "slot_f1": means[..., 0] / means[..., 1]}


class Seed:
    """What a study reads for one seed."""

    def __init__(self, task: Small, seed: int):
        self.task, self.seed, self.splits, self.data = task, seed, task.splits(seed), f"{seed} {task.said}"


def answers(draw: np.random.Generator, kind: str, ability: float, gold: str) -> dict[str, Any]:
    said = gold if draw.random() < ability else draw.choice(list("abc"))
    if kind == "completions":
        return {"completion": said}
    sure = draw.dirichlet(np.ones(3)) + 2.0 * (np.array(list("abc")) == said)
    return {"probabilities": (sure / sure.sum()).tolist(), "vacuity": None}


def shared(votes: Sequence[str]) -> list[float]:
    """The most frequent classes have the vote to equal parts; the share of each is how right it is."""
    most = max(votes.count(one) for one in "abc")
    best = [one for one in "abc" if votes.count(one) == most]
    return [(one in best) / len(best) for one in "abc"]


def study(
    folder: Path, kind: str, seeds: Sequence[int] = SEEDS, beta: float = 0.1, text: str = "text"
) -> dict[str, Any]:
    """The folder of a finished study, its answers drawn; and its results, by loops over what was drawn."""
    task, right = Small(kind, said=text), dict[str, list[list[float]]]()
    for seed in seeds:
        draw, votes = np.random.default_rng(seed), np.zeros((TEXTS, 3))
        ballots: list[list[str]] = [[] for _ in range(TEXTS)]
        for name, ability in zip(ROLES, (0.4, 0.5, 0.7, 0.95), strict=True):
            place = folder / f"seed-{seed}" / "predictions" / name
            place.mkdir(parents=True)
            rows = []
            for i, example in enumerate(task.splits(seed).test):
                row = answers(draw, kind, ability, example.target)
                rows.append({"id": example.id, **row})
                if kind == "classes":
                    votes[i] += np.array(row["probabilities"]) * (ROLES[name] == "weak")
                    ballots[i] += ["abc"[int(np.argmax(row["probabilities"]))]] * (ROLES[name] == "weak")
            (place / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            said = [row.get("completion") or "abc"[int(np.argmax(row["probabilities"]))] for row in rows]
            gold = [example.target for example in task.splits(seed).test]
            right.setdefault(name, []).append([float(a == b) for a, b in zip(said, gold, strict=True)])
        if kind == "classes":
            gold = [example.target for example in task.splits(seed).test]
            voted = [float("abc"[int(np.argmax(vote))] == b) for vote, b in zip(votes, gold, strict=True)]
            right.setdefault("mean_vote", []).append(voted)
            ties = [shared(votes)["abc".index(b)] for votes, b in zip(ballots, gold, strict=True)]
            right.setdefault("majority_vote", []).append(ties)
    classes = kind == "classes"
    of_all = {"slot_f1": lambda means: means[..., 0] / means[..., 1], "whole": lambda means: means[..., 1]}
    measure = ACCURACY if classes else Measure("Slot F1", of_all)
    samples = {name: np.array(table) for name, table in right.items()}
    if not classes:
        samples = {name: np.stack([table, np.ones_like(table)], axis=-1) for name, table in samples.items()}
    roles = ROLES | (dict.fromkeys(("mean_vote", "majority_vote"), "baseline") if classes else {})
    systems = [{"name": n, "label": n, "role": roles[n], "samples": samples[n]} for n in samples]
    systems[2] |= {"supervisors": ["two"]}
    results = score_systems(systems, measure=measure, resamples=500)
    environment = {"date": f"2026-11-2{len(seeds)} 10:00", "machine": "mine", "versions": {"torch": "2"}}
    config = {"weak_weights": None, "beta": beta, "seeds": list(seeds), "text": text}
    results |= {"seeds": list(seeds), "config": config, "environment": environment, "diagnostics": {"of": "one run"}}
    results |= {"stage_seconds": {"labels": 1.5 * len(seeds)}, "command": f"run {seeds}", "commit": "abc"}
    results["comparisons"] = compare_systems(samples, measure, ["student", "two", "ceiling", "student"])
    results["at_floor"] = at_floor(results)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "study.json").write_text(json.dumps({"task": "small"}))
    return results


def stamped(folder: Path, seeds: Sequence[int], text: str = "text", **spec: Any) -> None:
    """A stamp as the stages of a study leave it."""
    for seed in seeds:
        place = folder / f"seed-{seed}" / "students" / "student"
        place.mkdir(parents=True, exist_ok=True)
        made = {"data": f"{seed} {text}", "seed": seed, "method": {"gamma": 0.0}} | spec
        (place / "stage.json").write_text(json.dumps({"spec": made}))
