"""Students of a finished study on other labels: why is its student no better than its supervisors' joint answer?

    python docs/evidence/relabelled.py runs/evidence/slots_smollm2_four --data_dir path/to/slurp --seeds 0 1 2

`imitator` takes the joint answers for gold, and is trained as the ceiling is, from the same sentences;
`randomly_wrong` has gold instead, of which so many sentences got that of another one, drawn at random, that these
labels have the same score. `joint_3100` is the study's student of joint decoding with 3,100 labelled sentences, those
of the study and more. They go to the study's folder, `seed-S/more/NAME`; `answers.py` has them answer.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from answers import DONE, finished, loaded, run_of
from datasets import Dataset, concatenate_datasets
from make import read

from trl_weaks.columns import COMPLETION, EXAMPLE_ID
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.study.pipeline.completions import JOINT_ANSWER, CompletionRun
from trl_weaks.study.pipeline.run import methods_of
from trl_weaks.study.pipeline.students.completions import train_on_gold, train_on_weak
from trl_weaks.study.stages import STAMP
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.checks import SCORED, checked_statistics, measure_of
from trl_weaks.supervisors.ensemble import WeakEnsemble

ON_GOLD, MORE = ("imitator", "randomly_wrong"), {"joint_3100": 3100}


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
    folder, made = run.root / "more" / student, told(run, labels[student])
    made["key"] = f"{read(run.labels_folder / STAMP)['key']}, {student}"
    if finished(folder, made):
        return folder
    examples = [example for example in run.splits.half_b if example.id in labels[student]]
    rows = [row | {COMPLETION: labels[student][row[EXAMPLE_ID]]} for row in run.rows(examples)]
    untrained = run.factory.student(run.base, run.seed, run.texts())
    train_on_gold(untrained, rows, run.config.training(run.gold_settings()), folder, run.seed, lora=run.lora)
    (folder / DONE).write_text(json.dumps(made), encoding="utf-8")  # last: weights alone may be half written
    return folder


def train_on_more(run: CompletionRun, more: CompletionRun, student: str) -> Path:
    """The student of joint decoding with more sentences, which the study's supervisors label; else as the study's.

    Args:
        more: the same seed with more sentences in half B.

    Raises:
        SystemExit: the study's sentences are not the first of these.
    """
    known, examples = run.splits.half_b, more.splits.half_b
    if [example.id for example in examples[: len(known)]] != [example.id for example in known]:
        raise SystemExit("the study's half B is not the first part of the longer one")
    folder = run.root / "more" / student
    if finished(
        folder, made := {"rows": len(examples), "key": f"{read(run.labels_folder / STAMP)['key']}, {student}"}
    ):
        return folder
    c, method = run.config, next(one for one in methods_of(run.config, run.task) if one.name == "joint")
    labels = label_completions(
        WeakEnsemble(loaded(run, JOINT_ANSWER), weights=c.weak_weights),
        Dataset.from_list(more.unlabelled_rows(examples[len(known) :])),
        mode="joint",
        num_candidates=c.num_candidates,
        max_new_tokens=c.max_new_tokens,
        output_dir=folder / "labels",
        batch_size=c.generation_batch_size,
    )
    rows = concatenate_datasets([run.labels("joint"), labels])
    untrained = run.factory.student(run.base, run.seed, run.texts())
    train_on_weak(untrained, rows, method, c.training(c.student_training), folder, run.seed, run.lora)
    (folder / DONE).write_text(json.dumps(made), encoding="utf-8")
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the study; default: 0")
    parser.add_argument(
        "--students", nargs="+", choices=[*ON_GOLD, *MORE], default=[*ON_GOLD, *MORE], help="default: all three"
    )
    asked = parser.parse_args()
    for seed in asked.seeds:
        run = run_of(asked.run, asked.data_dir, seed)
        labels = labels_of(run) if set(asked.students) & set(ON_GOLD) else {}
        for student in asked.students:
            if student in MORE:
                more = run_of(asked.run, asked.data_dir, seed, num_weak=MORE[student])
                print(train_on_more(run, more, student), flush=True)
            else:
                print(train(run, student, labels), told(run, labels[student]), flush=True)


if __name__ == "__main__":
    main()
