"""What each row of `--methods field` costs beside one naive student: CPU seconds of its stages, without evaluation.

    python benchmarks/field_cost.py classification --output_dir runs/cost
    python benchmarks/field_cost.py classification --output_dir runs/cost --rounds 2    # and how far two rounds differ

Settings of `trl-weaks study` go behind. A row is charged with every stage that the naive student does not need: the
labels that are made for it alone, its student, and the student that it reads (`two_stage` reads that of `surer_half`).
All stages run in this process, one after the other, and CPU seconds are counted, so that other work on the machine
matters little. What is in the folder already is not run, and cannot be charged.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
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


def one_round(task: str, arguments: list[str]) -> dict[str, float]:
    """Run all stages but evaluation. The naive student runs twice: the first training warms up."""
    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.pipeline.run import methods_of, optional_rows, seed_runs
    from trl_weaks.study.tasks.find import config_class, task_of
    from trl_weaks.study.workers import in_order

    config = parse(config_class(task), arguments)
    made = task_of(task, config)
    chosen = methods_of(config, made)
    (run,) = seed_runs(config, made, chosen, optional_rows(config, made))
    run.stages()
    students = {method.name: run.systems[method.name].after[0] for method in chosen}
    seconds, needed = {}, set().union(*map(upstream, students.values()))
    for stage in in_order(sorted(needed, key=lambda stage: stage.name)):
        if stage.settled():
            continue
        if stage is students[REFERENCE]:
            warm = stage.folder.with_name("warm-up")
            warm.mkdir(parents=True, exist_ok=True)
            stage.action(warm)
        started = time.process_time()
        stage.run()
        seconds[stage] = time.process_time() - started
        print(f"{seconds[stage]:8.1f} s  {stage.name}", file=sys.stderr)
    return ratios({row: stage for row, stage in students.items() if stage.refusal() is None}, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="classification or slot_filling")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    asked, more = parser.parse_known_args()
    rounds = []
    for number in range(asked.rounds):
        folder = str(asked.output_dir / f"round-{number}")
        rounds.append(one_round(asked.task, ["--methods", "field", "--seeds", "0", *more, "--output_dir", folder]))
    print("| row | students |\n|---|---|")
    for row in rounds[0]:
        each = [one[row] for one in rounds if row in one]
        spread = f" ({min(each):.2f} to {max(each):.2f})" if len(each) > 1 else ""
        print(f"| `{row}` | {statistics.median(each):.2f}{spread} |")


if __name__ == "__main__":
    main()
