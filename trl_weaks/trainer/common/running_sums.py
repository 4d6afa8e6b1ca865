"""Means over rows, batches and processes: numerators and denominators are summed, and divided once, when read."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

Ratio = tuple[Tensor, Tensor]


class RunningSums:
    """
    Named ratios `sum of numerators / sum of denominators` since they were last read.

    The mean of the batches' means is another number wherever batches differ in rows or tokens. Sums are float64
    (float32 on MPS, which has nothing wider) and stay on the device; each `add` is one collective operation.
    """

    def __init__(self):
        self._totals: dict[str, Tensor] = {}

    def add(self, accelerator: Accelerator, values: Mapping[str, Ratio], drop_repeated: bool) -> None:
        """Add the rows of one batch of every process.

        Args:
            values: name -> numerators (B,) and denominators (B,), one of each per row **of the dataset**, in the
                batch's order: `(correct, torch.ones_like(correct))` for a mean over rows, sums and counts of tokens
                for a mean over tokens, zeros in both where a row has nothing to say. The same names on every process.
            drop_repeated: leave out the rows that a distributed sampler repeats to fill the last batch, as evaluation
                must; training learns from them, and counts them.
        """
        names = list(values)
        rows = torch.stack([torch.stack([_wide(n), _wide(d)], -1) for n, d in values.values()], 1)  # (B, names, 2)
        if drop_repeated:
            totals = accelerator.gather_for_metrics(rows).sum(0)
        else:
            totals = accelerator.reduce(rows.sum(0), "sum")
        for name, total in zip(names, totals, strict=True):
            self._totals[name] = self._totals[name] + total if name in self._totals else total

    def read(self) -> dict[str, float]:
        """Each name's ratio; without the names whose denominators sum to 0. Starts again from nothing."""
        totals = {name: total.tolist() for name, total in self._totals.items()}
        self.clear()
        return {name: numerator / denominator for name, (numerator, denominator) in totals.items() if denominator}

    def clear(self) -> None:
        """Forget what was added."""
        self._totals = {}


def _wide(values: Tensor) -> Tensor:
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)
