"""Teacher-forced log-probabilities: of packed trees behind a shared prefix, and by plain forward passes of whole rows.

Every model takes the plain path that the fast one does not fit (see `probe`).
"""

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from .cascade_attention import Level, attention
from .padding import (
    Pair,
    accepted,
    at_once,
    batch_logps,
    forget_lengths,
    is_recurrent,
    leading_of_one_length,
    most_logits,
    positions_follow_length,
)
from .prefix_trees import ScoringTree, scoring_trees

CAPACITY = 512  # nodes in one forward pass: more wastes attention on what a node must not see


def packed_logps(
    model: PreTrainedModel, pairs: Sequence[Pair], prefix: list[Level] | None, max_tokens: int
) -> list[list[float]]:
    """Log-probability of every completion token of every pair, nats; the same as by plain forward passes.

    Args:
        pairs: distinct (prompt ids, completion ids), whose prompts all begin with the prefix and are longer.
        prefix: keys and values of the prefix, one (1, heads, length, size) pair per layer, or nothing.
        max_tokens: nodes held at once, but for a single pair that is longer.
    """
    skip = prefix[0][0].shape[-2] if prefix else 0
    result: list[list[float]] = [[] for _ in pairs]
    with attention(model, "sdpa"):
        for tree in scoring_trees(pairs, skip, min(CAPACITY, max_tokens), most_logits(model, max_tokens)):
            for index, row in _tree_logps(model, tree, pairs, prefix, skip):
                result[index] = row
    return result


def _tree_logps(
    model: PreTrainedModel, tree: ScoringTree, pairs: Sequence[Pair], prefix: list[Level] | None, skip: int
) -> list[tuple[int, list[float]]]:
    device = model.device
    wanted = sorted({node for _, nodes in tree.pairs for node in nodes})
    place = {node: i for i, node in enumerate(wanted)}
    seen = tree.trees.visible().to(device)
    inputs = {
        "input_ids": tree.tokens.to(device),
        "position_ids": tree.trees.positions().to(device) + skip,
        "attention_mask": torch.cat([seen.new_ones(*seen.shape[:-1], skip), seen], dim=-1),
        "logits_to_keep": torch.tensor(wanted, device=device),
    }
    if prefix:
        inputs["past_key_values"] = _cache(prefix)
    logits = model(**inputs, use_cache=bool(prefix)).logits[0].float()  # (wanted, V)
    total = logits.logsumexp(-1)
    nodes = torch.tensor([place[node] for _, path in tree.pairs for node in path], device=device)
    targets = torch.tensor([token for index, _ in tree.pairs for token in pairs[index][1]], device=device)
    flat = iter((logits[nodes, targets] - total[nodes]).clamp_max(0.0).tolist())
    return [(index, [next(flat) for _ in path]) for index, path in tree.pairs]


def _cache(prefix: list[Level]) -> DynamicCache:
    """A fresh cache each time: a forward pass grows it, and a used one gives wrong numbers without an error."""
    cache = DynamicCache()
    cache.layers = []
    for keys, values in prefix:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def prefix_levels(model: PreTrainedModel, ids: Sequence[int]) -> list[Level]:
    """Keys and values of a prefix, computed by the model without its head."""
    cache = DynamicCache()
    positions = torch.arange(len(ids), device=model.device)[None]
    model.base_model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return [(layer.keys, layer.values) for layer in cache.layers]


def logits_made(model: torch.nn.Module, tokens: int, wanted: int) -> int:
    """Rows of logits of a forward pass of which `wanted` are asked for; some models give them for all their tokens."""
    return wanted if accepted(model, "logits_to_keep") else max(tokens, wanted)


def plain_logps(
    model: torch.nn.Module, pairs: Sequence[Pair], pad_id: int, max_tokens: int, advance: Callable[[int], object]
) -> list[list[float]]:
    """Log-probabilities of every pair's completion tokens by full forward passes.

    Args:
        pairs: distinct (prompt ids, completion ids).
        max_tokens: padded tokens in one batch.
        advance: called with the number of pairs just done.

    Returns:
        For each pair, the log-probability of each completion token, nats.
    """
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]) - len(pairs[i][1]), pairs[i]))
    result: list[list[float]] = [[] for _ in pairs]
    most = max((len(completion) for _, completion in pairs), default=0)
    start = 0
    while start < len(order):
        longest = sum(map(len, pairs[order[start]]))
        batch = order[start : start + at_once(model, max_tokens, longest, logits_made(model, longest, most + 1))]
        batch = batch[: leading_of_one_length(model, [sum(map(len, pairs[i])) for i in batch])]
        forget_lengths(model)
        for i, logps in zip(batch, batch_logps(model, [pairs[i] for i in batch], pad_id), strict=True):
            result[i] = logps
        start += len(batch)
        advance(len(batch))
    return result


def narrow_attention(model: torch.nn.Module) -> str | None:
    """Why a token may not see all tokens before it at their plain positions; None where it does."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    types = getattr(config, "layer_types", None)
    if is_recurrent(model):
        return "recurrent layers"
    if (set(types) != {"full_attention"}) if types else window:
        return "attention within a window"
    if positions_follow_length(model):
        return "positions that depend on the length"
    return None
