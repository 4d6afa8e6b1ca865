"""Batches of preference pairs with their own flip probability and weight."""

from dataclasses import dataclass
from typing import Any

import torch

from ...columns import PAIR_EPSILON, PAIR_WEIGHT
from .._compat import DataCollatorForPreference


@dataclass
class WeakPreferenceCollator(DataCollatorForPreference):
    """TRL's preference collator plus `pair_epsilon` and `pair_weight`, each float32 (n,), where the rows have them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for column in (PAIR_EPSILON, PAIR_WEIGHT):
            given = [column in example for example in examples]
            if any(given) and not all(given):
                raise ValueError(f"Some rows of a batch have `{column}` and others have none: give it to every row.")
            if all(given):
                batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float32)
        return batch
