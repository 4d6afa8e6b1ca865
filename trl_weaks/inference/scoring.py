"""Teacher-forced log-probabilities by plain forward passes: the path every model takes that nothing faster fits."""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .batch_limits import at_once

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # layer types that padding cannot disturb
Pair = tuple[tuple[int, ...], tuple[int, ...]]  # prompt ids, completion ids


def accepted(model: torch.nn.Module, name: str) -> bool:
    """Whether the model's forward takes this argument by name (others swallow unknown ones silently)."""
    return name in inspect.signature(model.forward).parameters


def logits_made(model: torch.nn.Module, tokens: int, wanted: int) -> int:
    """Rows of logits of a forward pass of which `wanted` are asked for; some models give them for all their tokens."""
    return wanted if accepted(model, "logits_to_keep") else max(tokens, wanted)


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """Rows aligned at their ends, with the mask and the positions of the real tokens.

    Positions are always explicit: GPT-2 shape models count padding otherwise, without an error.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each of shape (B, L).
    """
    length = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}


def gather_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, in float32 whatever the model's dtype: (n, V), (n) -> (n) nats.

    In bfloat16 the log-sum-exp alone moves a 20-token sum by about one nat.
    """
    logits = logits.float()
    return (logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)).clamp_max(0.0)


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
        if is_recurrent(model):  # a recurrent state would run over the padding
            batch = [i for i in batch if sum(map(len, pairs[i])) == longest]
        for i, logps in zip(batch, _batch_logps(model, [pairs[i] for i in batch], pad_id), strict=True):
            result[i] = logps
        start += len(batch)
        advance(len(batch))
    return result


def _batch_logps(model: torch.nn.Module, pairs: Sequence[Pair], pad_id: int) -> list[list[float]]:
    inputs = left_pad([[*prompt, *completion] for prompt, completion in pairs], pad_id, model.device)
    if not accepted(model, "position_ids"):
        del inputs["position_ids"]
    keep = max(len(completion) for _, completion in pairs) + 1
    if accepted(model, "logits_to_keep"):
        inputs["logits_to_keep"] = keep
    logits = model(**inputs, use_cache=False).logits[:, -keep:-1]  # position t predicts token t + 1
    targets = inputs["input_ids"][:, 1 - keep :]
    result = []
    for row, ids, (_, completion) in zip(logits, targets, pairs, strict=True):
        n = len(completion)
        result.append(gather_logps(row[-n:], ids[-n:]).tolist())
    return result


def is_recurrent(model: torch.nn.Module) -> bool:
    types = set(getattr(model.config, "layer_types", None) or ())
    return bool(types - ATTENTION) or bool(getattr(model, "_is_stateful", False))


def narrow_attention(model: torch.nn.Module) -> str | None:
    """Why a token may not see all tokens before it at their plain positions; None where it does."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    types = getattr(config, "layer_types", None)
    rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if is_recurrent(model):
        return "recurrent layers"
    if (set(types) != {"full_attention"}) if types else window:
        return "attention within a window"
    if "dynamic" in rope or "longrope" in rope:
        return "positions that depend on the length"
    return None
