"""From a command line to a finished experiment: what the example scripts share."""

import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TypeVar

from trl import TrlParser

from trl_weaks.study.pipeline.config import ExperimentConfig

Config = TypeVar("Config", bound=ExperimentConfig)


def parse(config_class: type[Config], arguments: Sequence[str]) -> Config:
    """Settings from a preset or `--config`, and the command line over them.

    Raises:
        ValueError: an unknown preset, or settings that contradict each other.
    """
    arguments = list(arguments)
    if "--config" not in arguments:
        preset = arguments[arguments.index("--preset") + 1] if "--preset" in arguments[:-1] else "tiny"
        arguments += ["--config", str(config_class.preset_path(preset))]
    (config,) = TrlParser(config_class).parse_args_and_config(arguments)
    return config


def launch(config_class: type[ExperimentConfig], experiment: str) -> None:
    """Run the experiment that the command line describes; bad input ends with one line that names it.

    Args:
        config_class: the experiment's settings.
        experiment: name of the module with `run(config, command) -> folder`, imported after parsing: `--help` should
            not wait for the libraries.
    """
    try:
        config = parse(config_class, sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    import datasets
    import transformers

    run = importlib.import_module(experiment).run
    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        folder = run(config, " ".join(["accelerate launch", *sys.argv]))
    except (ValueError, OSError) as error:  # bad input: the message names it; everything done so far is kept
        sys.exit(f"error: {error}")
    if "report" in config.stages:
        print(f"Report: {folder / 'report.md'}")
