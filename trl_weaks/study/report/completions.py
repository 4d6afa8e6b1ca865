"""What the report of a completion task shows: scores, agreement, word confidences, preference pairs."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk

from trl_weaks import alignment, columns
from trl_weaks.aggregation.comparisons.preferences import judge_pairs
from trl_weaks.study.paper_methods import PREFERENCE
from trl_weaks.study.pipeline.label_views import completions_by_supervisor
from trl_weaks.study.pipeline.predictions import read_confidences, read_predictions
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.pipeline.students.completions import PAIRS
from trl_weaks.study.report.diagnostics.completions import completion_diagnostics, words_right
from trl_weaks.study.report.study import Gathered
from trl_weaks.study.tasks.base import CompletionTask
from trl_weaks.study.tasks.checks import checked_statistics


def gather_completions(task: CompletionTask, runs: Sequence[SeedRun], folder: Path) -> Gathered:
    """Everything the report needs of the finished runs of a completion task."""
    samples, unparsable = {}, {}
    said = {name: [_answers(run, name) for run in runs] for name in runs[0].systems}
    for name, answers in said.items():
        tests = [run.splits.test for run in runs]
        samples[name] = np.array(
            [
                [checked_statistics(task, text, example) for text, example in zip(texts, test, strict=True)]
                for texts, test in zip(answers, tests, strict=True)
            ]
        )
        read = [[task.parsed(text) for text in texts] for texts in answers]
        if read[0][0] is not None:
            unparsable[name] = ~np.array(read, dtype=bool)
    labels = runs[0].labels("independent")
    half_b = runs[0].splits.half_b if runs[0].splits.half_b_has_gold else ()
    return Gathered(
        samples,
        labels,
        unparsable,
        agreement=supervisor_agreement(task, labels),
        word_confidences=word_confidences(labels, {e.id: task.completion(e) for e in half_b}) if half_b else {},
        about=["Agreement and calibration are measured on half B of the first seed."],
        alike_on="the examples of the first seed's half B that all of them answered",
        preference=_preference(task, runs[0]),
        diagnostics=completion_diagnostics(
            runs,
            said,
            {name: [_confidences(run, name) for run in runs] for name in said},
            [[task.completion(example) for example in run.splits.test] for run in runs],
        ),
    )


def _answers(run: SeedRun, name: str) -> list[str]:
    rows = read_predictions(run.systems[name].folder, [example.id for example in run.splits.test])
    return [row["completion"] for row in rows]


def _confidences(run: SeedRun, name: str) -> list[dict[str, Any]] | None:
    return read_confidences(run.systems[name].folder, [example.id for example in run.splits.test])


def supervisor_agreement(task: CompletionTask, labels: Dataset) -> dict[str, Any]:
    """How often the supervisors say the same on half B."""
    answers = completions_by_supervisor(labels)
    shared = sorted(set.intersection(*(set(found) for found in answers.values())))
    if len(answers) < 2 or not shared:
        return {}
    return dict(task.agreement({name: [_plain(found[i]) for i in shared] for name, found in answers.items()}))


def word_confidences(labels: Dataset, gold: dict[str, str]) -> dict[str, tuple[list[float], list[bool]]]:
    """Per supervisor: the confidence of each word it wrote, and whether the gold completion has that word there.

    Words are matched by a longest-common-subsequence alignment of the two completions.
    """
    found: dict[str, tuple[list[float], list[bool]]] = {}
    for row in labels:
        text = _plain(row[columns.COMPLETION])
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        words = [text[start:end] for start, end in spans]
        if not words:  # white space alone
            continue
        right = words_right(words, gold[row[columns.EXAMPLE_ID]])
        for name, offsets, logps in zip(
            row[columns.SUPERVISORS], row[columns.OFFSETS], row[columns.LOGPS], strict=True
        ):
            confidences, correct = found.setdefault(name, ([], []))
            units = alignment.transfer_logps([tuple(o) for o in offsets], logps, spans, text=text, unit="word")
            confidences += units.exp().clamp(max=1.0).tolist()
            correct += right
    return found


def _preference(task: CompletionTask, run: SeedRun) -> dict[str, Any]:
    """What the preference stage counted, and how often its pairs are right by the task's own score on half B."""
    stage = run.systems.get(PREFERENCE)
    if stage is None:
        return {}
    folder = stage.after[0].folder
    counted = json.loads((folder / PAIRS).read_text(encoding="utf-8"))
    if not run.splits.half_b_has_gold:
        return counted
    examples = {example.id: example for example in run.splits.half_b}

    def judge(row: Mapping[str, Any], text: str) -> float:
        return float(next(iter(task.score(text, examples[row[columns.EXAMPLE_ID]]).values())))

    judged = judge_pairs(load_from_disk(str(folder / "preferences" / "dataset")), judge)
    return counted | {f"against gold: {name}": value for name, value in judged.items() if name != "pairs"}


def _plain(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
