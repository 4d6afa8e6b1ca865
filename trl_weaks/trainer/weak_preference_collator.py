"""Batches of preference pairs with their own flip probability and weight."""

from dataclasses import dataclass
from typing import Any

import torch

from ..columns import PAIR_EPSILON, PAIR_WEIGHT
from ._compat import DataCollatorForPreference


@dataclass
class WeakPreferenceCollator(DataCollatorForPreference):
    """TRL's preference collator plus `pair_epsilon` and `pair_weight`, each float32 (n,), where the rows have them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for column in (PAIR_EPSILON, PAIR_WEIGHT):
            if column in examples[0]:
                batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float32)
        return batch
