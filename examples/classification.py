"""
The weak-to-strong experiment on classification, from weak supervisors to the report.

    accelerate launch examples/classification.py                                    # tiny models, embedded grammar
    accelerate launch examples/classification.py --data_dir path/to/slurp           # SLURP's scenarios
    accelerate launch examples/classification.py --data_dir path/to/slurp --task action --methods all --seeds 0 1 2
    accelerate launch examples/classification.py --preset paper                     # SciQ; GPT2-L, OPT, Pythia -> 7B

A preset is a YAML file of settings; `--config my.yaml` reads your own, and the command line overrides either. Stages
that are done for the same settings are skipped, so the same command continues a killed run.
"""

import logging
import sys
import warnings

from trl import TrlParser

from trl_weaks.study.classification.config import ClassificationConfig, preset_path


def parse(arguments: list[str]) -> ClassificationConfig:
    """Settings from a preset or `--config`, and the command line over them."""
    parser = TrlParser(ClassificationConfig)
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

    from trl_weaks.study.classification.experiment import run

    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    folder = run(config, " ".join(["accelerate launch", *sys.argv]))
    if "report" in config.stages:
        print(f"Report: {folder / 'report.md'}")


if __name__ == "__main__":
    main()
