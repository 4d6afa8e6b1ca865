"""Answers of which only the text is used: decoded and scored again, as once, or only decoded; alternately in one run.

    OMP_NUM_THREADS=1 python benchmarks/answers.py                  # about a minute, one thread
    OMP_NUM_THREADS=1 python benchmarks/answers.py --prompts 300    # as the table in the notebook

Two stages of a study ask for text only: the preference stage (`build_preferences`: the student's candidates, then
scored by all supervisors) and the evaluation (`predict_completions`: the student's answer to every test prompt).
Before, both called `generate`, which also gives each token's log-probability, by forward passes over the answers just
decoded; now they call `answer`. The models are the tiny ones that the package ships, the prompts those of the embedded
grammar, the settings those of the preset `slot_filling_tiny`. CPU time of one thread; the order alternates from round
to round.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from datasets import Dataset, disable_progress_bars

from trl_weaks import WeakEnsemble, WeakSupervisor, build_preferences
from trl_weaks.columns import EXAMPLE_ID, PROMPT
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.models.shipped import FOLDER
from trl_weaks.study.pipeline.predictions import PREDICTIONS, predict_completions
from trl_weaks.study.tasks.slot_filling import SlotFilling

SEED = 0  # of the splits
CANDIDATES, EVAL_BEAMS, NEW_TOKENS, BATCH = 4, 1, 56, 64  # the preset's
WEAK = ("gpt2", "opt", "gpt_neox")


class ScoredAgain(WeakSupervisor):
    """A student that answers as it once did: `generate`, of which the text is taken."""

    def answer(self, *args, **kwargs):
        return [[(c.text, c.finished) for c in row] for row in self.generate(*args, **kwargs)]


def candidates(student: WeakSupervisor, ensemble: WeakEnsemble, rows: Dataset) -> object:
    """Only the student's part of the preference stage."""
    asked = [rows[PROMPT][i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [student.answer(prompts, CANDIDATES, NEW_TOKENS) for prompts in asked]


def preferences(student: WeakSupervisor, ensemble: WeakEnsemble, rows: Dataset) -> object:
    return build_preferences(
        student, ensemble, rows, CANDIDATES, max_new_tokens=NEW_TOKENS, batch_size=BATCH
    ).to_list()


def evaluation(student: WeakSupervisor, ensemble: WeakEnsemble, rows: Dataset) -> object:
    with tempfile.TemporaryDirectory() as folder:
        predict_completions(student, rows.to_list(), Path(folder), EVAL_BEAMS, NEW_TOKENS, BATCH)
        return (Path(folder) / PREDICTIONS).read_text()


STAGES = {"candidates": candidates, "preferences, whole": preferences, "evaluation, whole": evaluation}


def timed(stage, student: WeakSupervisor, ensemble: WeakEnsemble, rows: Dataset) -> tuple[float, int, object]:
    """CPU seconds, forward passes of the student, and what the stage gives."""
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = student.model.base_model.register_forward_pre_hook(count)
    start = time.process_time()
    result = stage(student, ensemble, rows)
    seconds = time.process_time() - start
    hook.remove()
    return seconds, passes, result


def told(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    task = SlotFilling(SlotFillingConfig(output_dir="", prompt="short", num_test=options.prompts))
    test = task.splits(SEED).test
    rows = Dataset.from_list([{EXAMPLE_ID: e.id, PROMPT: task.prompt(e)} for e in test])
    students = {
        "before": ScoredAgain.from_pretrained(str(FOLDER / "student"), "student", "cpu"),
        "now": WeakSupervisor.from_pretrained(str(FOLDER / "student"), "student", "cpu"),
    }
    ensemble = WeakEnsemble([WeakSupervisor.from_pretrained(str(FOLDER / name), name, "cpu") for name in WEAK])
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {vars(options)}\n")
    print("| stage | before, s | now, s | before / now | student's forward passes |\n|---|---|---|---|---|")
    for name, stage in STAGES.items():
        times: dict[str, list[float]] = {"before": [], "now": []}
        for turn in range(-1, options.rounds):  # the first round warms up
            found = {}
            for kind in ("before", "now") if turn % 2 else ("now", "before"):
                seconds, passes, result = timed(stage, students[kind], ensemble, rows)
                found[kind] = passes, result
                if turn >= 0:
                    times[kind].append(seconds)
            if found["before"][1] != found["now"][1]:
                raise SystemExit(f"{name}: the texts differ.")
        ratios = [b / n for b, n in zip(times["before"], times["now"], strict=True)]
        counted = f"{found['before'][0]}, {found['now'][0]}"
        print(f"| {name} | {told(times['before'])} | {told(times['now'])} | {told(ratios)} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
