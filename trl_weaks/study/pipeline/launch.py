"""From a command line to a finished study: what the example scripts and `trl-weaks study` share."""

import argparse
import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from trl import TrlParser

from trl_weaks.commands.errors import Parser, did_you_mean, stop
from trl_weaks.commands.sources import refuse_missing_model, refuse_unknown_model
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.table_config import Tables
from trl_weaks.study.tasks.find import config_class, in_own_folder, task_of

Config = TypeVar("Config", bound=StudyConfig)
ELSEWHERE = ("tiny:", "pypi:")  # models that are built or fetched; no path names them


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default, that of the preset; nothing where there is none."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, "", []) else super()._get_help_string(action)


class _Settings(Parser, TrlParser):
    """TRL's parser, whose errors look like those of every command."""


def make_parser(config_class: type[Config], prog: str | None = None) -> _Settings:
    """The parser of a study's settings; `prog` as in `parse`."""
    return _Settings(config_class, prog=prog, formatter_class=_Help)


def parse(config_class: type[Config], arguments: Sequence[str], prog: str | None = None) -> Config:
    """Settings from a preset or `--config`, and the command line over them.

    Args:
        prog: what was called, as the usage says it.

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
    parser = make_parser(config_class, prog)
    config, from_file, left = parser.parse_args_and_config(
        rest, return_remaining_strings=True, separate_remaining_strings=True
    )
    _refuse_unknown(given.config or "the preset", from_file[::2], config_class)
    _refuse_unknown("the command line", left, config_class)
    if given.config is not None and config.preset is not None:
        raise ValueError(f"{given.config}: `preset` has no effect in a file of settings; remove it.")
    return config


def _refuse_unknown(where: str, words: Sequence[str], config_class: type[StudyConfig]) -> None:
    """
    Raises:
        ValueError: settings that no field reads.
    """
    if words:
        known = [f.name for f in fields(config_class)]
        name = words[0].lstrip("-").partition("=")[0]
        hint = did_you_mean(name, known) or " --help lists the settings."
        raise ValueError(f"unknown setting {words[0]!r} in {where}.{hint}")


def refuse_missing_sources(config: StudyConfig) -> None:
    """
    Raises:
        FileNotFoundError: files, folders and models that the settings name and that a stage to run would not find.
        ValueError: a table that is not named, or a model that the Hub does not give.
    """
    for name in ("data_dir", "pretrain_dir"):
        folder = getattr(config, name, None)
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"--{name}: no such folder: {folder}")
    for method in config.methods:
        if method.endswith(".py") and not Path(method).is_file():
            raise FileNotFoundError(f"--methods: no such file: {method}")
    if isinstance(config, Tables):
        config.check()
    models = [("--weak_models", name) for name in config.weak_models if "weak" in config.stages]
    models += [("--student_model", config.student_model)] if {"student", "ceiling"} & set(config.stages) else []
    for option, name in models:
        if name and not name.startswith(ELSEWHERE):
            refuse_missing_model(option, name)
            refuse_unknown_model(option, name)


def launch(
    name: str, arguments: Sequence[str] | None = None, command: str | None = None, prog: str | None = None
) -> None:
    """Run the study that the command line describes; bad input ends with one line that names it.

    Args:
        name: of a task in [`TASKS`], or a file with `TASK = ...`.
        arguments: of the command line; default those of this process.
        command: what the report says was run; default `accelerate launch` and the command line of this process.
        prog: what was called, as the usage says it.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        config = parse(config_class(name), arguments, prog)
        refuse_missing_sources(config)
        task = task_of(name, config)
        config = in_own_folder(config, task)
    except (ValueError, OSError) as error:
        stop(error)
    import datasets  # after parsing: `--help` should not wait for the libraries
    import transformers

    from trl_weaks.study.pipeline.run import run
    from trl_weaks.study.report.page import PAGE

    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        command = command or f"accelerate launch {shlex.join(sys.argv)}"
        folder = run(config, task, command)
    except (ValueError, OSError) as error:  # bad input: the message names it; everything done so far is kept
        stop(error)
    if "report" in config.stages:
        print(f"Report: {folder / 'report.md'}; to look at every answer, in a browser: {folder / PAGE}")
