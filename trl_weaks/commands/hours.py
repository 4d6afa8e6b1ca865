"""How long training takes, by arithmetic alone: the model's FLOPs over what the GPUs are assumed to do."""

import argparse

from trl_weaks.commands.memory import ModelSize, model_size, table
from trl_weaks.commands.sources import refuse_missing_model, refuse_unknown_model


def training_flops(size: ModelSize, tokens: float, length: int) -> float:
    """
    FLOPs of a forward and backward pass over so many tokens in rows of `length`, all weights trained.

    Six for each weight that multiplies a token; twelve for each layer, position and channel of attention, every token
    attending to the whole row (the convention of PaLM and of TRL). Recomputed activations do not count.
    """
    return tokens * (6.0 * size.multiplied + 12.0 * size.layers * size.hidden * length)


def training_hours(size: ModelSize, tokens: float, length: int, gpus: int, tflops: float, mfu: float) -> float:
    """Hours on GPUs of `tflops` each at the utilisation `mfu`.

    Raises:
        ValueError: a utilisation outside (0, 1], or no peak.
    """
    if not 0.0 < mfu <= 1.0:
        raise ValueError(f"--mfu {mfu} is the share of the peak that training reaches, above 0 and at most 1.")
    if not tflops > 0.0:
        raise ValueError(f"--tflops {tflops} must be positive.")
    return training_flops(size, tokens, length) / (gpus * tflops * 1e12 * mfu) / 3600.0


def hours_row(options: argparse.Namespace) -> str:
    """The last row of `trl-weaks memory --tokens`: hours for each number of GPUs, whatever the strategy.

    Raises:
        ValueError: as `model_size` and `training_hours`.
    """
    size = model_size(options.model, options.trust_remote_code)
    found = (
        training_hours(size, options.tokens, options.max_length, gpus, options.tflops, options.mfu)
        for gpus in options.gpus
    )
    cells = " | ".join(f"{hours:.2g} h" for hours in found)
    return f"| {options.tokens:g} tokens at {options.mfu:.0%} of {options.tflops:g} TFLOP/s (arithmetic) | {cells} |"


def report(options: argparse.Namespace) -> None:
    """Print what `trl-weaks memory` is asked for: the table, and hours where there are tokens."""
    refuse_missing_model("--model", options.model)
    refuse_unknown_model("--model", options.model)
    print("\n".join([table(options), *([hours_row(options)] if options.tokens else [])]))
