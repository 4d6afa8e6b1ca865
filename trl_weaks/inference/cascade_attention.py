"""Attention over keys that many rows share, without copying them to every row.

A cache layer keeps *shared levels* beside the rows' own keys: level p of P keys serves N / P consecutive rows each.
Beam search has two: the prefix that all prompts begin with (P = 1) and each prompt (P = prompts, serving its beams).
Queries meet each level in one matrix product, and the parts are joined by their log-sum-exp, which is exact.
Growing and reordering beams then moves only what the beams generated. The decomposition is known from Hydragen
(Juravsky et al., arXiv 2402.05099).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from .._compat import attention_of

NAME = "trl_weaks_cascade"
MASKED = -1e30  # finite: a row that sees nothing of one level must not become NaN
UNKNOWN = ("softcap", "s_aux", "position_bias", "sliding_window")  # attention of another kind: refused below

Level = tuple[Tensor, Tensor]  # keys, values: (P, heads, length, size)


class CascadeLayer(DynamicLayer):
    """Keys and values of one model layer: shared levels, and the rows' own as in any dynamic cache."""

    def __init__(self, levels: list[Level]):
        super().__init__()
        self.levels = levels

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> Level:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        keys.levels = self.levels  # how the attention function finds them
        return keys, values

    def get_seq_length(self) -> int:
        return sum(keys.shape[-2] for keys, _ in self.levels) + super().get_seq_length()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if super().get_seq_length():
            self.keys, self.values = self.keys.index_select(0, beam_idx), self.values.index_select(0, beam_idx)

    def share(self) -> None:
        """Turn the rows' own keys into a shared level, for more rows to come."""
        if super().get_seq_length():
            self.levels = [*self.levels, (self.keys, self.values)]
            self.keys = self.values = None
            self.is_initialized = False


def cascade_cache(levels: list[Level] | None, layers: int) -> Cache:
    """A fresh cache on top of a prefix: one (keys, values) for each layer, or nothing."""
    return Cache(layers=[CascadeLayer([levels[i]] if levels else []) for i in range(layers)])


def cascade_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The `transformers` attention function over shared levels and own keys.

    Shapes: query (N, H, q, d); key, value (N, G, S, d) with H a multiple of G; attention_mask bool
    (N, 1, q, shared + S). Returns (N, q, H, d) in the query's dtype; softmax in float32.
    """
    unknown = [name for name in UNKNOWN if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {unknown[0]}")
    n, heads, q, d = query.shape
    groups = key.shape[1]
    query = query.reshape(n, groups, heads // groups, q, d) * (d**-0.5 if scaling is None else scaling)
    parts, start = [], 0
    for keys, values in [*key.levels, (key, value)]:
        stop = start + keys.shape[-2]
        hidden = (
            None if len(keys) == 1 and n > 1 else attention_mask[..., start:stop]
        )  # a common prefix has no padding
        parts.append(_attend(query, keys, values, hidden))
        start = stop
    peak = torch.stack([m for m, _, _ in parts]).amax(0)
    scales = [(m - peak).exp() for m, _, _ in parts]
    total = sum(scale * s for scale, (_, s, _) in zip(scales, parts, strict=True))
    mixed = sum(scale * o for scale, (_, _, o) in zip(scales, parts, strict=True)) / total
    return mixed.reshape(n, heads, q, -1).transpose(1, 2).to(query.dtype).contiguous(), None


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Unnormalised attention of one level: peak, sum of exponentials (N, G, g, q, 1), weighted values (…, d)."""
    n, groups, per, q, d = query.shape
    p = keys.shape[0]
    packed = query.view(p, n // p, groups, per, q, d).transpose(1, 2).reshape(p, groups, -1, d)
    scores = (packed @ keys.transpose(-1, -2)).float()
    if mask is not None:
        seen = mask.reshape(p, 1, n // p, 1, q, -1)
        scores = scores.view(p, groups, n // p, per, q, -1).masked_fill(~seen, MASKED).view(scores.shape)
    peak = scores.amax(-1, keepdim=True)
    weights = (scores - peak).exp_()
    parts = (peak, weights.sum(-1, keepdim=True), (weights.to(values.dtype) @ values).float())
    return tuple(
        part.view(p, groups, n // p, per, q, -1).transpose(1, 2).reshape(n, groups, per, q, -1) for part in parts
    )


def _whole_mask(*args: object, **kwargs: object) -> Tensor:
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


AttentionInterface.register(NAME, cascade_attention)
AttentionMaskInterface.register(NAME, _whole_mask)


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Another attention implementation for a while."""
    before = attention_of(model.config)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
