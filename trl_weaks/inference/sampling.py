"""Candidates drawn from a model instead of searched for, the same whichever prompts are drawn together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from ..fingerprint import digest


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn.

    Args:
        temperature: divides the logits; above 0.
        top_p: draw only from the most probable tokens that together have this probability, in (0, 1]; 1 draws from
            the whole distribution.
        seed: of every draw.

    Raises:
        ValueError: a temperature or top_p out of range.
    """

    temperature: float
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive, or None for beam search.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1.")

    def stream(self, supervisor: str, key: str, candidate: int) -> int:
        """The seed of one candidate of one prompt, in [0, 2^63)."""
        return int(digest(self.seed, supervisor, key, candidate), 16) % 2**63

    def processors(
        self, supervisor: str, keys: Sequence[str], candidates: Sequence[int], device: torch.device
    ) -> list:
        """Logits processors that turn greedy decoding, one row for each key and candidate number, into sampling."""
        seeds = [self.stream(supervisor, key, k) for key in keys for k in candidates]
        narrow = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [TemperatureLogitsWarper(float(self.temperature)), *narrow, _Noise(seeds, device)]


class _Noise(LogitsProcessor):
    """Adds Gumbel noise, after which the largest logit is a draw from their softmax.

    Every row has a random stream of its own, so a draw depends neither on the batch nor, but for a difference of
    two logits below their rounding, on how the batch was computed. On a CPU the streams are NumPy's: PyTorch's
    generator there reads 32 bits of a seed, and of 100,000 streams some would be the same.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        if device.type == "cpu":
            self.streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        else:
            self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        waits = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
        for row, stream in zip(waits, self.streams, strict=True):
            if isinstance(stream, np.random.Generator):
                row.copy_(torch.from_numpy(stream.standard_exponential(len(row), dtype=np.float32)))
            else:
                row.exponential_(generator=stream)
        return scores.float() - waits.clamp_min(torch.finfo(torch.float32).tiny).log()


def decoding(settings: dict) -> dict:
    """Arguments of `WeakSupervisor.answer` from settings: `num_candidates`, `max_new_tokens`, and where candidates
    are drawn also `temperature`, `top_p`, `seed`."""
    drawn = {name: value for name, value in settings.items() if name in ("temperature", "top_p", "seed")}
    searched = {name: value for name, value in settings.items() if name not in drawn}
    return {**searched, "sampling": Sampling(**drawn) if drawn else None}
