"""
The weak-to-strong experiment on slot filling, from weak supervisors to the report.

    accelerate launch examples/slot_filling.py                                   # tiny models, embedded grammar
    accelerate launch examples/slot_filling.py --data_dir path/to/slurp          # the same on SLURP
    accelerate launch examples/slot_filling.py --methods all --seeds 0 1 2       # every row of the paper's Tables 4, 5
    accelerate launch examples/slot_filling.py --preset paper                    # the paper's models

A preset is a YAML file of settings; `--config my.yaml` reads your own, and the command line overrides either. Stages
that are done for the same settings are skipped, so the same command continues a killed run.
"""

import logging
import sys
import warnings

from trl import TrlParser

from trl_weaks.study.slot_filling.config import SlotFillingConfig, preset_path


def parse(arguments: list[str]) -> SlotFillingConfig:
    """Settings from a preset or `--config`, and the command line over them."""
    parser = TrlParser(SlotFillingConfig)
    if "--config" not in arguments:
        preset = arguments[arguments.index("--preset") + 1] if "--preset" in arguments[:-1] else "tiny"
        arguments = [*arguments, "--config", str(preset_path(preset))]
    (config,) = parser.parse_args_and_config(arguments)
    return config


def main() -> None:
    try:
        config = parse(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    # After parsing: `--help` should not wait for the libraries.
    import datasets
    import transformers

    from trl_weaks.study.slot_filling.experiment import run

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


if __name__ == "__main__":
    main()
