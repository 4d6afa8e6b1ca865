"""Teacher-forced log-probabilities by plain forward passes: the path every model takes that nothing faster fits."""

from collections.abc import Callable, Sequence

import torch

from .batch_limits import at_once
from .padding import (
    Pair,
    accepted,
    batch_logps,
    forget_lengths,
    is_recurrent,
    leading_of_one_length,
    positions_follow_length,
)


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
