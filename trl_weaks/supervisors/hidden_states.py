"""The state of a language model after it has read a text."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ..inference.as_found import inference
from ..inference.padding import forget_lengths
from .adapters import Adapters


def last_states(
    model: PreTrainedModel, adapters: Adapters, rows: Sequence[list[int]], max_tokens: int
) -> torch.Tensor:
    """The last layer's state at the last token of each row of ids, (n, d) float32 on the CPU.

    Rows of one length are read together, so that no row is padded.

    Args:
        max_tokens: of a forward pass, where it holds more than one row.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    states: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with adapters.in_use(), inference(model):
        while order:
            length = len(rows[order[0]])
            batch = [i for i in order[: max(1, max_tokens // length)] if len(rows[i]) == length]
            forget_lengths(model)
            ids = torch.tensor([rows[i] for i in batch], device=model.device)
            read = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1].float().cpu()
            for place, state in zip(batch, read, strict=True):
                states[place] = state
            order = order[len(batch) :]
    return torch.stack(states)
