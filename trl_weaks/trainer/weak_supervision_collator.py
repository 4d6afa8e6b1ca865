"""Pads the weak columns next to TRL's own."""

from dataclasses import dataclass
from typing import Any

import torch

from ._compat import DataCollatorForLanguageModeling
from .preparation import UNIT_IDS, UNIT_LOGPS, WEIGHTS


@dataclass
class WeakSupervisionCollator(DataCollatorForLanguageModeling):
    """TRL's collator, plus three float32/long tensors for rows prepared by [`prepare_row`].

    Adds `weak_unit_ids` (B, L) long, -1 where a token has no unit; `weak_unit_logps` (B, L, S) float32, nats; and
    `weak_row_weights` (B, S) float32, S the largest number of supervisors in the batch, missing ones of weight 0.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        rows, length = batch["input_ids"].shape
        supervisors = max(len(example[WEIGHTS]) for example in examples)
        unit_ids = torch.full((rows, length), -1, dtype=torch.long)
        unit_logps = torch.zeros(rows, length, supervisors)
        weights = torch.zeros(rows, supervisors)
        for row, example in enumerate(examples):
            tokens, n = len(example["input_ids"]), len(example[WEIGHTS])
            unit_ids[row, :tokens] = torch.tensor(example[UNIT_IDS])
            unit_logps[row, :tokens, :n] = torch.tensor(example[UNIT_LOGPS], dtype=torch.float32)
            weights[row, :n] = torch.tensor(example[WEIGHTS], dtype=torch.float32)
        batch |= {UNIT_IDS: unit_ids, UNIT_LOGPS: unit_logps, WEIGHTS: weights}
        return batch
