"""The console script `trl-weaks`.

trl-weaks label --dataset prompts.jsonl --supervisors gpt2-large facebook/opt-1.3b --output_dir labels
trl-weaks label verify (the same arguments)
accelerate launch -m trl_weaks.cli label ...
trl-weaks study --task my_task.py --preset tiny
trl-weaks report labels --gold gold.csv
trl-weaks triage labels --gold gold.csv --risk 0.1 -o queue.csv
trl-weaks view labels -o view.html
trl-weaks memory --model meta-llama/Llama-2-7b-hf --zero 3 --gpus 4 --tokens 5.4e6

torch, transformers and trl take seconds to import: a command's options are read when that command is asked for, and
its libraries are loaded when its arguments are right.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._version import __version__
from .commands.errors import Parser, did_you_mean, stop


class Command(NamedTuple):
    """One line of `trl-weaks --help`, and where the rest is, as `module:function` of this package.

    Attributes:
        options: adds the options to a parser; its module loads no library of models or data.
        run: gets the options; bad input is a ValueError, an OSError, an ImportError, or another error with a message.
    """

    help: str
    options: str
    run: str


COMMANDS = {
    "label": Command(
        "label prompts with several weak supervisors, or verify labels",
        "commands.label_options:add_options",
        "commands.label:run",
    ),
    "verify": Command(
        "make a share of the labels again and compare: the same as label verify",
        "commands.label_options:add_verify_options",
        "commands.label:run_verify",
    ),
    "study": Command(
        "train supervisors, label, train students, and report what they recovered: --task and its settings",
        "commands.study:add_options",
        "commands.study:study",
    ),
    "memory": Command(
        "GPU and host memory that training a model needs, and hours",
        "commands.memory:add_arguments",
        "commands.hours:report",
    ),
    "report": Command(
        "how good, how sure and how alike the supervisors are",
        "commands.look:add_report_options",
        "commands.look:report",
    ),
    "triage": Command(
        "which labels to accept, under a bound on their errors, and which to show to a person",
        "commands.triage:add_options",
        "commands.triage:triage",
    ),
    "preflight": Command(
        "which supervisors suit a student, measured before anything is trained",
        "commands.preflight:add_options",
        "commands.preflight:run",
    ),
    "view": Command(
        "a page to look at labels: every answer, word by word", "commands.look:add_view_options", "commands.look:view"
    ),
    "config": Command(
        "print a launch configuration for accelerate or DeepSpeed",
        "commands.config:add_options",
        "commands.config:config",
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; a command's own options are added when it is asked for."""
    parser = Parser(prog="trl-weaks", description="Weak-to-strong training with several supervisors.")
    parser.add_argument("--version", action="version", version=f"trl-weaks {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help).options = command.options
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with its message, without a traceback."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["study"]:  # its settings depend on the task: it reads its own
        _load("commands.study:study")(given[1:])
        return
    parser = build_parser()
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(
            f"there is no command {given[0]!r}.{did_you_mean(given[0], COMMANDS)} Known: {', '.join(COMMANDS)}."
        )
    options = parser.parse_args(given)
    try:
        _load(COMMANDS[options.command].run)(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        stop(error)


class _Parser(Parser):
    """A command's parser, empty until it has to read or explain something."""

    options: str | None = None

    def parse_known_args(self, args=None, namespace=None):
        self.fill()
        return super().parse_known_args(args, namespace)

    def fill(self) -> "_Parser":
        if self.options is not None:
            add, self.options = _load(self.options), None
            add(self)
        return self


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), attribute)


if __name__ == "__main__":
    main()
