"""Rows padded into one batch, and the models that must not be: beside a longer row they say something else.

A recurrent state runs over padding; "longrope" and "dynamic" RoPE take their frequencies from the longest row, and
"dynamic" also from every row before it; some models count padding among their positions. The last kind cannot be read
from a configuration, so the model is asked, once, on made-up tokens.

How much fits into memory at once is told in tokens, and as many logits as go with them.
"""

import inspect
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

MAX_TOKENS = 16_384
WIDTH = 4096  # logits that weigh as much as one token in flight; 16,384 tokens allow 0.25 GiB of them in float32
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # layer types that padding cannot disturb
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}  # nats per token, and for other dtypes:
COARSE = 0.5
POSITIONS = (
    0.1  # nats, where equal positions are given and not given: the same numbers, perhaps by another kernel. *ours*
)
FOLLOWING = ("dynamic", "longrope")  # kinds of RoPE
SHORT, LONG = ((3, 5, 7), (9, 11)), (tuple(range(3, 23)), (4, 6))  # prompt and completion to ask with

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # prompt ids, completion ids

_asked: "weakref.WeakKeyDictionary[nn.Module, tuple[int, bool]]" = weakref.WeakKeyDictionary()


def most_logits(model: PreTrainedModel, max_tokens: int) -> int:
    """Rows of logits over the vocabulary that a budget of tokens allows, at least one."""
    return max(1, max_tokens * WIDTH // model.config.get_text_config().vocab_size)


def at_once(model: PreTrainedModel, max_tokens: int, tokens: int, logits: int) -> int:
    """Items of so many tokens and rows of logits each that a batch may hold, at least one."""
    return max(1, min(max_tokens // tokens, most_logits(model, max_tokens) // logits))


def accepted(model: torch.nn.Module, name: str) -> bool:
    """Whether the model's forward takes this argument by name (others swallow unknown ones silently)."""
    return name in inspect.signature(model.forward).parameters


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


def batch_logps(
    model: torch.nn.Module, pairs: Sequence[Pair], pad_id: int, own_positions: bool = False
) -> list[list[float]]:
    """Log-probabilities of the pairs' completion tokens by one forward pass over all of them, padded on the left.

    Args:
        own_positions: leave it to the model to number the tokens, as it does where it is trained.
    """
    inputs = left_pad([[*prompt, *completion] for prompt, completion in pairs], pad_id, model.device)
    if own_positions or not accepted(model, "position_ids"):
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


def rope_modules(model: nn.Module) -> list[nn.Module]:
    """Rotary embeddings whose frequencies depend on the longest row."""
    return [m for m in model.modules() if any(kind in str(getattr(m, "rope_type", "")) for kind in FOLLOWING)]


def positions_follow_length(model: nn.Module) -> bool:
    """Whether the longest row of a batch decides about the positions of the others."""
    config = model.config.get_text_config()
    rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    return bool(rope_modules(model)) or any(kind in rope for kind in FOLLOWING)


def forget_lengths(model: nn.Module) -> None:
    """Let the next pass find "dynamic" frequencies as a new model has them, whatever was read before."""
    for module in rope_modules(model):
        for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
            module._buffers[name.replace("original_", "")] = module._buffers[name].clone()
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            setattr(module, name, module.original_max_seq_len)


def forward_state(model: nn.Module) -> int:
    """A number that changes with the code of a forward pass: hooks, replaced methods and modules, kinds of attention.

    What a model was found to do on made-up tokens holds as long as it stays the same.
    """
    config = model.config.get_text_config()
    parts = [str(getattr(config, name, None)) for name in ("sliding_window", "use_sliding_window", "layer_types")]
    modules = [
        (type(m), id(vars(m).get("forward")), tuple(m._forward_hooks), tuple(m._forward_pre_hooks))
        for m in model.modules()
    ]
    return hash((model.dtype, *parts, *modules))


def one_length_only(model: nn.Module) -> bool:
    """Whether padding beside longer rows changes what the model says; call without gradients and dropout."""
    if is_recurrent(model) or positions_follow_length(model):
        return True
    state = forward_state(model)
    if _asked.get(model, (None,))[0] != state:
        _asked[model] = state, not _padding_is_harmless(model)
    return _asked[model][1]


def leading_of_one_length(model: nn.Module, lengths: Sequence[int]) -> int:
    """How many of a batch's rows, the longest first, may be read together: all, or those as long as the first."""
    if not one_length_only(model):
        return len(lengths)
    return next((i for i, length in enumerate(lengths) if length != lengths[0]), len(lengths))


def _padding_is_harmless(model: nn.Module) -> bool:
    """Raises ValueError where the model numbers its tokens otherwise than `left_pad`, which generation does too."""
    size = model.get_input_embeddings().weight.shape[0]
    short, long = (tuple(tuple(t % size for t in part) for part in pair) for pair in (SHORT, LONG))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and context < sum(map(len, long)) + 2:
        return False  # too small a model for the question: the safe answer
    (alone,) = batch_logps(model, [short], 0, own_positions=True)
    if _difference(batch_logps(model, [short], 0)[0], alone) > ROUNDING.get(model.dtype, POSITIONS):
        raise ValueError(
            f"{model.config._name_or_path or type(model).__name__} ({model.config.model_type}) begins its positions "
            "elsewhere than at 0, as RoBERTa and its kin do, and would be read at the wrong ones. Use another model."
        )
    return _difference(batch_logps(model, [long, short], 0)[1], alone) < ROUNDING.get(model.dtype, COARSE)


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
