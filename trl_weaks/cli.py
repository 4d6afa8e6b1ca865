"""The console script `trl-weaks`.

trl-weaks label --dataset prompts.jsonl --supervisors gpt2-large facebook/opt-1.3b --output_dir labels
trl-weaks label verify (the same arguments)
accelerate launch -m trl_weaks.cli label ...
trl-weaks report labels --gold gold.csv
trl-weaks view labels -o view.html
trl-weaks memory --model meta-llama/Llama-2-7b-hf --zero 3 --gpus 4 --tokens 5.4e6
"""

import argparse
import sys
from collections.abc import Sequence

from ._version import __version__
from .commands.config import add_options as add_config_options
from .commands.config import config
from .commands.look import add_report_options, add_view_options, report, view
from .study.hours import hours_row
from .study.label_command import label, verify
from .study.label_options import add_options
from .study.memory import add_arguments, table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trl-weaks", description="Weak-to-strong training with several supervisors.")
    parser.add_argument("--version", action="version", version=f"trl-weaks {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_options(commands.add_parser("label", help="label prompts with several weak supervisors, or verify labels"))
    add_arguments(commands.add_parser("memory", help="GPU and host memory that training a model needs, and hours"))
    add_report_options(commands.add_parser("report", help="how good, how sure and how alike the supervisors are"))
    add_view_options(commands.add_parser("view", help="a page to look at labels: every answer, word by word"))
    add_config_options(commands.add_parser("config", help="print a launch configuration for accelerate or DeepSpeed"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with its message, without a traceback."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "memory":
            print("\n".join([table(options), *([hours_row(options)] if options.tokens else [])]))
        elif options.command in ("report", "view", "config"):
            {"report": report, "view": view, "config": config}[options.command](options)
        else:
            verify(options) if options.action == "verify" else label(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"trl-weaks: {error}")


if __name__ == "__main__":
    main()
