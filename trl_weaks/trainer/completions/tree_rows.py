"""Token trees in training: where they are exact, and what a model is given for a batch of them."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..._compat import attention_of
from ...inference.prefix_trees import PrefixTrees, training_trees
from ...inference.probe import made_up_tokens
from ...inference.scoring import accepted, narrow_attention
from ..common.dropout import first_dropout
from ..weak_supervision_config import WeakSupervisionConfig
from .layout_probe import tried

TREES = ("tree_nodes", "tree_first", "tree_ends")  # the batch's names for the fields of a `PrefixTrees`
EXACT = ("gpt2", "gpt_neox", "llama", "opt")  # proved by tests/trainer/test_token_trees.py; others are tried at start


def why_rows(model: nn.Module, args: WeakSupervisionConfig, aux_loss: bool) -> str | None:
    """
    Why a student has to be trained on separate rows; None where token trees give the same numbers.

    Args:
        model: The student, with its adapters.
        args: Its settings.
        aux_loss: Whether a mixture of experts is balanced over the tokens it sees, which are fewer in a tree.
    """
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention = attention_of(base.config.get_text_config())
    if args.packing or args.padding_free or args.eval_packing:
        return "packed rows hold texts already"
    if getattr(args.accelerator_config, "dispatch_batches", None):
        return "`dispatch_batches=True` cuts batches by rows"
    if any(getattr(c, "is_prompt_learning", False) for c in getattr(model, "peft_config", {}).values()):
        return "prompt learning puts tokens of its own before each row"
    if args.neftune_noise_alpha:
        return "`neftune_noise_alpha` adds other noise to every row"
    if aux_loss:
        return "the experts are balanced over all tokens of the rows"
    if attention not in ("sdpa", "eager"):
        return f"attention {attention!r} takes no mask of a tree; 'sdpa' and 'eager' do"
    if (where := first_dropout(model)) is not None:
        return f"dropout is on ({where}), and a token of a tree is dropped for all of its rows at once"
    if narrow := narrow_attention(base):
        return narrow
    if not accepted(base, "position_ids"):
        return "its forward takes no position_ids"
    return None if base.config.model_type in EXACT else _tried(base)


def tree_columns(input_ids: list[list[int]], length: int, width: int) -> dict[str, Tensor]:
    """The prefix trees of a batch as tensors beside its rows; nothing where trees save too little."""
    packed = training_trees(input_ids, length, width)
    return {} if packed is None else dict(zip(TREES, (packed.nodes, packed.first, packed.ends), strict=True))


def take_trees(inputs: dict[str, Any]) -> PrefixTrees | None:
    """Remove the prefix trees from a batch, which is then an ordinary batch of rows."""
    fields = [inputs.pop(name, None) for name in TREES]
    return None if fields[0] is None else PrefixTrees(*fields)


def tree_inputs(model: nn.Module, packed: PrefixTrees, input_ids: Tensor) -> dict[str, Tensor]:
    """Arguments of the model's forward: `(G, Q)` tokens and positions, `(G, 1, Q, Q)` mask."""
    mask = packed.visible()
    config = model.get_base_model().config if hasattr(model, "get_base_model") else model.config
    if attention_of(config.get_text_config()) == "eager":  # which adds the mask to its scores
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill_(~mask, torch.finfo(model.dtype).min)
    return {"input_ids": packed.tokens(input_ids), "position_ids": packed.positions(), "attention_mask": mask}


def _tried(model: PreTrainedModel) -> str | None:
    ids = made_up_tokens(model, 12)
    rows = [torch.cat([ids[:, :6], ids[:, 6:9]], 1), torch.cat([ids[:, :6], ids[:, 9:]], 1)]
    # one node per token: a trunk of six, two branches of three
    first = torch.tensor([[*range(9), *range(9 + 6, 9 + 9)]], device=model.device)
    ends = torch.tensor([[12] * 6 + [9] * 3 + [12] * 3], device=model.device)
    places = [range(9), [*range(6), *range(9, 12)]]
    packed = PrefixTrees(torch.tensor([list(p) for p in places], device=model.device), first, ends)
    return tried(model, tree_inputs(model, packed, torch.cat(rows)), rows, places, EXACT)
