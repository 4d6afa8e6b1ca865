"""From a command line to a finished study: what the example scripts and `trl-weaks study` share."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TypeVar

from trl import TrlParser

from trl_weaks.study.config import StudyConfig
from trl_weaks.study.tasks.find import config_class, task_of

Config = TypeVar("Config", bound=StudyConfig)


def parse(config_class: type[Config], arguments: Sequence[str]) -> Config:
    """Settings from a preset or `--config`, and the command line over them.

    Raises:
        ValueError: an unknown preset, a preset and a `--config`, or settings that contradict each other.
        OSError: no such `--config`.
    """
    first = argparse.ArgumentParser(add_help=False)  # reads `--preset=small` too, as the parser after it does
    first.add_argument("--preset")
    first.add_argument("--config")
    given, rest = first.parse_known_args(list(arguments))
    if given.config is None:
        preset = "tiny" if given.preset is None else given.preset
        rest += ["--config", str(config_class.preset_path(preset)), "--preset", preset]
    elif given.preset is not None:
        raise ValueError("--preset and --config exclude each other: a preset is a file of settings like your own.")
    else:
        rest += ["--config", given.config]
    (config,) = TrlParser(config_class).parse_args_and_config(rest)
    if given.config is not None and config.preset is not None:
        raise ValueError(f"{given.config}: `preset` has no effect in a file of settings; remove it.")
    return config


def launch(name: str, arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run the study that the command line describes; bad input ends with one line that names it.

    Args:
        name: of a task in [`TASKS`], or a file with `TASK = ...`.
        arguments: of the command line; default those of this process.
        command: what the report says was run; default `accelerate launch` and the command line of this process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        config = parse(config_class(name), arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    import datasets  # after parsing: `--help` should not wait for the libraries
    import transformers

    from trl_weaks.study.pipeline.run import run

    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        command = command or " ".join(["accelerate launch", *sys.argv])
        folder = run(config, task_of(name, config), command)
    except (ValueError, OSError) as error:  # bad input: the message names it; everything done so far is kept
        sys.exit(f"error: {error}")
    if "report" in config.stages:
        print(f"Report: {folder / 'report.md'}")
