"""What each row of `--methods field` costs beside one naive student: CPU seconds of its stages, without evaluation.

    python benchmarks/field_cost.py classification --output_dir runs/cost --rounds 3
    python benchmarks/field_cost.py classification --output_dir runs/cost --rows naive loss_product on_raven

Settings of `trl-weaks study` go behind. A row is charged with every stage that the naive student does not need: the
labels that are made for it alone, its student, and the student that it reads (`two_stage` reads that of `surer_half`).
All stages run in this process; then those that are charged are timed in turns, and the least CPU seconds of the rounds
count, so that other work on the machine matters little. Stages that are done already are only timed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REFERENCE = "naive"


def upstream(stage: Any) -> set[Any]:
    """A stage and all that it needs."""
    return {stage}.union(*(upstream(before) for before in stage.after))


def ratios(students: Mapping[str, Any], seconds: Mapping[Any, float]) -> dict[str, float]:
    """Row -> what its own stages took, in those of the naive student.

    Args:
        students: row -> the stage that trains its student.
        seconds: stage -> what it took.
    """
    free = upstream(students[REFERENCE]) - {students[REFERENCE]}
    spent = {row: sum(seconds[stage] for stage in upstream(stage) - free) for row, stage in students.items()}
    return {row: value / spent[REFERENCE] for row, value in spent.items()}


def timed(stages: Iterable[Any], rounds: int) -> dict[Any, float]:
    """The least CPU seconds of each stage's work, done again in a folder of its own; in turns, so that a busy quarter
    of an hour does not fall on one row."""
    stages, seconds = list(stages), {}
    for _ in range(rounds):
        for stage in stages:
            folder = Path(tempfile.mkdtemp(dir=stage.folder.parent))
            started = time.process_time()
            stage.action(folder)
            spent = time.process_time() - started
            shutil.rmtree(folder)
            seconds[stage] = min(spent, seconds.get(stage, spent))
            print(f"{spent:8.2f} s  {stage.name}", file=sys.stderr)
    return seconds


def students_of(task: str, arguments: list[str], rows: Iterable[str]) -> dict[str, Any]:
    """Row -> the stage that trains its student, all done; without rows that the data refuse."""
    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.pipeline.run import methods_of, optional_rows, seed_runs
    from trl_weaks.study.tasks.find import config_class, task_of
    from trl_weaks.study.workers import run_stages

    config = parse(config_class(task), arguments)
    made = task_of(task, config)
    chosen = methods_of(config, made)
    (run,) = seed_runs(config, made, chosen, optional_rows(config, made))
    run.stages()
    wanted = set(rows) or {method.name for method in chosen}
    students = {name: stage.after[0] for name, stage in run.systems.items() if name in wanted | {REFERENCE}}
    run_stages(set().union(*map(upstream, students.values())))
    return {row: stage for row, stage in students.items() if stage.refusal() is None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="classification or slot_filling")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=[], help="some rows alone")
    asked, more = parser.parse_known_args()
    settings = ["--methods", "field", "--seeds", "0", *more, "--output_dir", asked.output_dir]
    students = students_of(asked.task, settings, asked.rows)
    charged = set().union(*map(upstream, students.values())) - upstream(students[REFERENCE]) | {students[REFERENCE]}
    found = ratios(students, timed(sorted(charged, key=lambda stage: stage.name), asked.rounds))
    print("| row | students |\n|---|---|")
    print("\n".join(f"| `{row}` | {ratio:.2f} |" for row, ratio in found.items()))


if __name__ == "__main__":
    main()
