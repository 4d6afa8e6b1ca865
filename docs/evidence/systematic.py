"""Are a student's labels wrong at random, or in a way that it learns? Two students on labels that are equally bad.

    python docs/evidence/systematic.py runs/evidence/slots_smollm2 --data_dir path/to/slurp --seeds 0 1

Both are trained as the ceiling is, from the same sentences of a finished study: `imitator` takes the supervisors'
joint answer for gold; `randomly_wrong` has gold of which so many sentences got that of another one, drawn at random,
that these labels have the same score. They go to the study's folder, `seed-S/more/NAME`; `answers.py` has them answer.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from answers import run_of

from trl_weaks.columns import COMPLETION, EXAMPLE_ID
from trl_weaks.study.pipeline.completions import CompletionRun
from trl_weaks.study.pipeline.students.completions import train_on_gold
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.checks import SCORED, checked_statistics, measure_of

STUDENTS = ("imitator", "randomly_wrong")


def labels_of(run: CompletionRun) -> dict[str, dict[str, str]]:
    """Student -> example id -> completion; the same examples for both, those with a joint answer."""
    said = {row[EXAMPLE_ID]: row[COMPLETION] for row in run.labels("joint")}
    examples = [example for example in run.splits.half_b if example.id in said]
    wanted = score(run, examples, said)
    low, high = 0.0, 1.0  # share of the sentences with another one's gold
    for _ in range(20):
        share = (low + high) / 2
        mixed = wrong_at_random(run, examples, share)
        low, high = (share, high) if score(run, examples, mixed) > wanted else (low, share)
    return {"imitator": said, "randomly_wrong": mixed}


def wrong_at_random(run: CompletionRun, examples: Sequence[Example], share: float) -> dict[str, str]:
    """Gold; with the chance `share` that of another example. What is wrong at a share is wrong at a higher one."""
    found = {}
    for example in examples:
        stream = random.Random(f"{run.seed}:{example.id}")
        source = stream.choice(examples) if stream.random() < share else example
        found[example.id] = run.task.completion(source)
    return found


def score(run: CompletionRun, examples: Sequence[Example], said: Mapping[str, str]) -> float:
    """The study's headline score of labels."""
    measure = measure_of(run.task, *examples[:SCORED])
    counts = np.array([checked_statistics(run.task, said[example.id], example) for example in examples], dtype=float)
    head = measure.scores[measure.key]
    return float(counts.mean() if head is None else head(counts.mean(0)))


def train(run: CompletionRun, student: str, labels: Mapping[str, Mapping[str, str]]) -> Path:
    """Returns the folder; nothing is done where the student is there."""
    folder = run.root / "more" / student
    if (folder / "done.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    examples = [example for example in run.splits.half_b if example.id in labels[student]]
    rows = [row | {COMPLETION: labels[student][row[EXAMPLE_ID]]} for row in run.rows(examples)]
    loaded = run.factory.student(run.base, run.seed, run.texts())
    train_on_gold(loaded, rows, run.config.training(run.gold_settings()), folder, run.seed, lora=run.lora)
    (folder / "done.json").write_text(json.dumps(told(run, labels[student])) + "\n", encoding="utf-8")
    return folder


def told(run: CompletionRun, labels: Mapping[str, str]) -> dict[str, Any]:
    """What the labels are worth: rows, score, the share that is gold word by word."""
    examples = [example for example in run.splits.half_b if example.id in labels]
    right = np.mean([labels[example.id] == run.task.completion(example) for example in examples])
    return {"rows": len(examples), "score": score(run, examples, labels), "gold": float(right)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the finished study")
    parser.add_argument("--data_dir", required=True, help="SLURP's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=STUDENTS)
    asked = parser.parse_args()
    for seed in asked.seeds:
        run = run_of(asked.run, asked.data_dir, seed)
        labels = labels_of(run)
        for student in asked.students:
            print(student, told(run, labels[student]), flush=True)
            print(train(run, student, labels), flush=True)


if __name__ == "__main__":
    main()
