"""Lays the weak columns out beside TRL's own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._compat import DataCollatorForLanguageModeling
from .preparation import UNIT_IDS, UNIT_LOGPS, WEIGHTS
from .tree_rows import tree_columns

SAMPLES = "weak_samples"


@dataclass
class WeakSupervisionCollator(DataCollatorForLanguageModeling):
    """TRL's collator, plus three float32/long tensors for rows prepared by [`prepare_row`].

    Adds `weak_unit_ids` (B, L) long, -1 where a token has no unit; `weak_unit_logps` (B, L, S) float32, nats; and
    `weak_row_weights` (B, S) float32, S the largest number of supervisors in the batch, missing ones of weight 0.
    With `padding_free` there is one row of all tokens, B = 1, and the weights are (B, L, S): a weight per token;
    `weak_samples` (B, L) long then says which example of the batch each token is of. Rows without weak columns make
    TRL's own batch.

    Args:
        tree_width (`int`, *optional*): Hidden size of a student that is trained on token trees: batches in which rows
            begin alike then carry a [`PrefixTrees`], beside everything an ordinary batch holds.
    """

    tree_width: int | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        if WEIGHTS not in examples[0]:
            return batch
        batch["labels"][:, 0] = -100  # nothing predicts it; transformers counts it for GPT-2 where it has a label
        return batch | (self._flat if self.padding_free else self._padded)(examples, batch["input_ids"])

    def _padded(self, examples: list[dict[str, Any]], input_ids: Tensor) -> dict[str, Tensor]:
        supervisors = max(len(example[WEIGHTS]) for example in examples)
        unit_ids = torch.full(input_ids.shape, -1, dtype=torch.long)
        unit_logps = torch.zeros(*input_ids.shape, supervisors)
        weights = torch.zeros(len(examples), supervisors)
        for row, example in enumerate(examples):
            tokens, n = len(example["input_ids"]), len(example[WEIGHTS])
            unit_ids[row, :tokens] = torch.tensor(example[UNIT_IDS])
            unit_logps[row, :tokens, :n] = torch.tensor(example[UNIT_LOGPS], dtype=torch.float32)
            weights[row, :n] = torch.tensor(example[WEIGHTS], dtype=torch.float32)
        columns = {UNIT_IDS: unit_ids, UNIT_LOGPS: unit_logps, WEIGHTS: weights}
        if self.tree_width is not None:
            rows = [example["input_ids"] for example in examples]
            columns |= tree_columns(rows, input_ids.shape[1], self.tree_width)
        return columns

    def _flat(self, examples: list[dict[str, Any]], input_ids: Tensor) -> dict[str, Tensor]:
        units, logps, weights = [], [], []
        samples = torch.full(input_ids.shape, len(examples) - 1, dtype=torch.long)
        for number, example in enumerate(examples):
            samples[0, len(units) : len(units) + len(example[UNIT_IDS])] = number
            units += example[UNIT_IDS]
            logps += example[UNIT_LOGPS]
            packed = "seq_lengths" in example
            weights += example[WEIGHTS] if packed else [example[WEIGHTS]] * len(example["input_ids"])
        unit_ids = torch.full(input_ids.shape, -1, dtype=torch.long)
        unit_ids[0, : len(units)] = torch.tensor(units)
        supervisors = max(map(len, weights))
        columns = {UNIT_IDS: unit_ids, SAMPLES: samples}
        for name, rows in ((UNIT_LOGPS, logps), (WEIGHTS, weights)):
            filled = [[*row, *[0.0] * (supervisors - len(row))] for row in rows]
            columns[name] = torch.zeros(*input_ids.shape, supervisors)
            columns[name][0, : len(rows)] = torch.tensor(filled, dtype=torch.float32)
        return columns
