"""`trl-weaks study`: a weak-to-strong study on a task of the package, of one's own, or on files."""

import argparse
import sys
from collections.abc import Sequence

from .errors import Parser

DESCRIPTION = """Train weak supervisors, label with them, train students on the labels, and report what they recovered.

  trl-weaks study --task slot_filling                            embedded data and tiny models: a first look
  trl-weaks study --task classification:intent
  trl-weaks study --task my_task.py --methods headline my_methods.py --compare naive mine
  trl-weaks study --task completions --train_file gold.jsonl --unlabelled_file prompts.jsonl --test_file test.jsonl \\
      --metric exact_match --weak_models A B C --student_model D
  trl-weaks study --task classes --train_file gold.csv --unlabelled_file texts.csv --test_file test.csv
  accelerate launch -m trl_weaks.cli study ...                   the same on several processes

`trl-weaks study --task TASK --help` lists the settings of a task."""


def parser() -> argparse.ArgumentParser:
    """What is read before the settings of the task are known."""
    from trl_weaks.study.tasks.base import TASKS

    found = Parser(
        prog="trl-weaks study",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    found.add_argument("--task", metavar="TASK", help=f"{', '.join(TASKS)}, or a file with TASK = ...")
    return found


def add_options(to: argparse.ArgumentParser) -> None:
    """The options of the command that the whole command line knows."""
    to.add_argument("--task", metavar="TASK", help="a task's name or file")


def study(arguments: Sequence[str]) -> None:
    """Run the study that the command line describes.

    Raises:
        SystemExit: after help, and with one line for bad input.
    """
    first = parser()
    given, rest = first.parse_known_args(list(arguments))
    if given.task is None:
        if {"-h", "--help"} & set(rest):
            print(first.format_help())
            return
        first.error("--task is needed; see trl-weaks study --help")
    name, _, variant = given.task.partition(":") if given.task.startswith("classification:") else (given.task, "", "")
    from trl_weaks.study.pipeline.launch import launch

    rest += ["--task", variant] if variant else []
    launch(name, rest, " ".join(["trl-weaks study", *sys.argv[2:]]), f"trl-weaks study --task {given.task}")
