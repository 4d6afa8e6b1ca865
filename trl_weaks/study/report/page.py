"""The page of a study: what supervisors and students said of every example, beside the numbers of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from trl_weaks.columns import CLASSES, EXAMPLE_ID
from trl_weaks.labelling.sources.tables import shares_of_texts
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.pipeline.students.training import HISTORY
from trl_weaks.study.tasks.base import Example, Task
from trl_weaks.study.tasks.checks import label_index
from trl_weaks.viewer.from_labels import page_of_labels
from trl_weaks.viewer.page import Answer, Page, Shown

PAGE = "view.html"
MOST = 1000  # examples of the test split, and as many of half B. *ours*


def write_page(task: Task, run: SeedRun, labels: Dataset, results: Mapping[str, Any], folder: Path) -> Path:
    """Write `view.html`: the first seed's test split with every system's answer, then half B as it was labelled.

    Args:
        labels: of half B.
        results: the content of `results.json`.
    """
    supervisors = run.config.supervisor_names
    systems = [name for name in run.systems if name not in supervisors]
    labelled = page_of_labels(labels, named_gold(task, run, labels) or None, limit=MOST)
    tested = _tested(task, run, supervisors, systems)
    about = (
        f"{len(tested)} test examples with the answers of all systems (seed {run.seed}), {len(labelled.examples)} "
        f"of half B as the supervisors labelled them; {len(supervisors)} supervisors, {len(systems)} systems"
    )
    page = Page(
        task.report_title,
        about,
        supervisors,
        [*tested, *labelled.examples],
        systems,
        labelled.report,
        forest=_forest(results),
        curves=training_curves(run, systems),
        reliability=_reliability(results.get("calibration") or {}),
    )
    return page.write(folder / PAGE)


def half_b_gold(task: Task, run: SeedRun) -> dict[str, Any]:
    """Example id -> gold of half B; empty where there is none."""
    if not run.splits.half_b_has_gold:
        return {}
    if task.kind == "classes":
        return {example.id: label_index(task, example) for example in run.splits.half_b}
    return {example.id: task.completion(example) for example in run.splits.half_b}


def named_gold(task: Task, run: SeedRun, labels: Dataset) -> dict[str, Any]:
    """[`half_b_gold`] of the labelled examples, by the names of the classes where the labels have them: an index would
    be taken for a name where names are numbers."""
    gold = half_b_gold(task, run)
    named = task.kind == "classes" and CLASSES in labels.column_names
    labelled = [example for example in dict.fromkeys(labels[EXAMPLE_ID]) if example in gold]
    return {example: task.classes[gold[example]] if named else gold[example] for example in labelled}


def _tested(task: Task, run: SeedRun, supervisors: Sequence[str], systems: Sequence[str]) -> list[Shown]:
    test = run.splits.test
    ids, test = [example.id for example in test], test[:MOST]
    read = {name: read_predictions(stage.folder, ids) for name, stage in run.systems.items()}
    shown = []
    for number, example in enumerate(test):
        said = {name: _said(task, example, rows[number]) for name, rows in read.items()}
        answers = [Answer(name, said[name]["text"], score=said[name]["score"]) for name in supervisors]
        shares = shares_of_texts((answer.text, 1.0) for answer in answers)
        most = max(shares, key=shares.__getitem__)
        votes = round(shares[most])
        vacuity = next(
            (rows[number]["vacuity"] for rows in read.values() if rows[number].get("vacuity") is not None), None
        )
        shown.append(
            Shown(
                example.id,
                task.prompt(example) if task.kind == "completions" else task.text(example),
                answers,
                _answer(task, example),
                Answer("most supervisors", most) if votes > 1 else None,
                {name: said[name] for name in systems},
                1 - votes / len(answers),
                vacuity,
            )
        )
    return shown


def _answer(task: Task, example: Example) -> str:
    return task.completion(example) if task.kind == "completions" else str(task.classes[label_index(task, example)])


def _said(task: Task, example: Example, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a system answered, and the headline score of that; 1 at least for gold itself, which an F1 gives nothing
    where gold is empty."""
    if task.kind == "completions":
        text, score = row["completion"], float(next(iter(task.score(row["completion"], example).values())))
        return {"text": text, "score": max(score, 1.0) if text.strip() == task.completion(example).strip() else score}
    best = max(range(len(row["probabilities"])), key=row["probabilities"].__getitem__)
    return {"text": str(task.classes[best]), "score": float(best == row["label"])}


def _forest(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in results["methods"].values():
        low, high = row["pgr_interval"] or (None, None)
        why = (
            "the ceiling does not exceed every supervisor" if row["supervisors"] else "it had none of the supervisors"
        )
        reason = None if row["pgr"] is not None else why
        found.append({"label": row["label"], "pgr": row["pgr"], "low": low, "high": high, "reason": reason})
    return found


def training_curves(run: SeedRun, systems: Sequence[str]) -> list[dict[str, Any]]:
    """The training losses of the students: name, and points of (step, loss)."""
    found = []
    for name in systems:
        path = run.root / "students" / name / HISTORY
        if path.is_file():
            history = json.loads(path.read_text(encoding="utf-8"))
            found.append({"name": name, "points": [[row["step"], row["loss"]] for row in history if "loss" in row]})
    return found


def _reliability(calibration: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, entry in calibration.items():
        bins = entry["bins"]
        rows = zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
        found.append({"name": name, "points": [[x, y if count else None] for x, y, count in rows]})
    return found
