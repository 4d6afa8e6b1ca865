"""Tokens per second while training, and the share of the devices' peak that this makes (MFU)."""

import time
from typing import Any

from transformers import PreTrainedConfig, TrainerCallback

from .._compat import compute_flops_per_token, compute_mfu

PER_SECOND, PER_DEVICE, MFU = "perf/tokens_per_second", "perf/tokens_per_second_per_device", "perf/mfu"


class Throughput(TrainerCallback):
    """
    The clock of a training run: seconds since it was last read, without evaluation and saving.

    It starts with the first step, so that loading and the batches skipped on resuming do not count; waiting for data
    does. Read it where the devices have caught up, as they have when the loss is logged.
    """

    def __init__(self):
        self.rows = 0  # of this process, since the last reading
        self._since: float | None = None
        self._step_end = self._away = 0.0
        self._tokens = 0

    def restart(self, tokens: int) -> None:
        """Leave out what came before, such as an earlier training; `tokens` were counted in it."""
        self._tokens, self.rows, self._since, self._away = tokens, 0, None, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._since is None:
            self._since = self._step_end = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_end = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self._away, self._step_end = self._away + now - self._step_end, now

    on_save = on_evaluate

    def read(self, tokens: int) -> tuple[int, float, int]:
        """Tokens, seconds and this process's rows since the last reading; `tokens` counts from the start."""
        now = time.perf_counter()
        seconds = now - self._away - (now if self._since is None else self._since)
        new, rows = tokens - self._tokens, self.rows
        self._since, self._step_end, self._away, self._tokens, self.rows = now, now, 0.0, tokens, 0
        return new, seconds, rows


def model_flops_utilisation(
    config: PreTrainedConfig, tokens_per_second: float, mean_length: float, devices: int, peak: float | None
) -> float | None:
    """
    Per cent of the devices' peak that full fine-tuning at this rate does, by TRL's count of FLOPs.

    Args:
        config: of a causal language model; TRL counts those with gated feed-forward layers (Llama, Qwen, Mistral ...).
        mean_length: tokens per row, which the cost of attention depends on.
        peak: FLOP/s of one device; `None` where TRL does not know it.

    Returns:
        `None` where TRL cannot say.
    """
    if peak is None:
        return None
    try:
        flops = compute_flops_per_token(config.get_text_config(), round(mean_length))
    except AttributeError:  # GPT-2, OPT, GPT-NeoX: other names, and feed-forward layers of two matrices
        return None
    return compute_mfu(flops, tokens_per_second, devices, peak)
