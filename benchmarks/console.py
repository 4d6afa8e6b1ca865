"""How long the command line takes to answer: help of every command, and what it says to wrong input.

    python benchmarks/console.py

Each command runs three times in a process of its own, in an empty folder; the table has medians.
On a machine with other work the wall clock grows and the processor's time does not.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from trl_weaks.cli import COMMANDS

WRONG = (
    "lable",
    "label --dataset none.jsonl --supervisors a b --output_dir labels",
    "label --dataset prompts.jsonl --supervisors no/model --output_dir labels",
    "label --dataset prompts.jsonl --prompt_column text --supervisors no/model --output_dir labels",
    "view none",
    "config zero",
    "memory --model no/model",
    "study --task slot_filing",
    "study --task slot_filling --preset slurb",
    "study --task mine.py",
    "study --task completions --train_file a.jsonl --unlabelled_file b.jsonl --test_file c.jsonl",
)


def seconds(words: str, folder: str, rounds: int = 3) -> tuple[float, float]:
    """Medians of a command's wall clock and of its processor time, its interpreter included."""
    taken = []
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "trl_weaks.cli", *words.split()]
    for _ in range(rounds):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, env=environment, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((time.perf_counter() - start, spent))
    wall, processor = zip(*taken, strict=True)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    helped = ["--help", "--version", *(f"{name} --help" for name in COMMANDS), "study --task completions --help"]
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/prompts.jsonl", "w", encoding="utf-8") as file:
            file.write('{"example_id": "1", "prompt": "play"}\n')
        for title, commands in (("help", helped), ("wrong input", WRONG)):
            print(f"| {title} | wall clock, s | processor, s |\n|---|---|---|")
            for words in commands:
                wall, processor = seconds(words, folder)
                print(f"| `trl-weaks {words}` | {wall:.2f} | {processor:.2f} |")
            print()


if __name__ == "__main__":
    main()
