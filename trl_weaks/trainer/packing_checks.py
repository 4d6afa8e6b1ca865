"""Are texts packed into one row computed as if each were alone? Settings and models where they are not are refused."""

import torch
from transformers import PreTrainedModel

from ..inference.scoring import is_recurrent
from .layout_probe import made_up_tokens, tried
from .weak_supervision_config import WeakSupervisionConfig

EXACT = ("llama", "gpt2", "gpt_neox")  # proved by tests/trainer/test_packing.py; others are tried at start


def refuse_packing_settings(args: WeakSupervisionConfig) -> None:
    """
    Raises:
        ValueError: a packing setting that would cut completions or mix texts.
    """
    packing = args.packing or bool(args.eval_packing)
    if packing and args.packing_strategy == "wrapped":
        raise ValueError(
            "`packing_strategy='wrapped'` cuts completions in two, and each half would keep the confidence of the "
            "whole. Use 'bfd'."
        )
    if args.eval_packing and not (args.packing or args.padding_free):
        raise ValueError(
            "`eval_packing=True` needs `packing=True` or `padding_free=True`: TRL's collator otherwise attends across "
            "the texts of a packed row."
        )
    plugin = args.accelerator_config
    if (packing or args.padding_free) and getattr(plugin, "dispatch_batches", None):
        raise ValueError("`dispatch_batches=True` cuts batches by rows, and packed texts share a row; leave it unset.")


def refuse_packing(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: the model lets texts of one row see each other, or that cannot be found out.
    """
    kind = model.config.model_type
    reason = None
    if kind == "opt":
        reason = "OPT builds its causal mask without the positions, so that the texts of a row attend to each other"
    elif is_recurrent(model):
        reason = "its recurrent layers carry their state from one text of a row into the next"
    elif kind not in EXACT and "flash" not in model.config._attn_implementation:
        reason = _tried(model)
    if reason:
        raise ValueError(
            f"Packing and padding-free batches are not supported for {type(model).__name__}: {reason}. Train without "
            "`packing` and `padding_free`."
        )


def _tried(model: PreTrainedModel) -> str | None:
    ids = made_up_tokens(model, 12)
    positions = torch.tensor([[*range(5), *range(7)]], device=model.device)
    return tried(
        model,
        {"input_ids": ids, "position_ids": positions},
        rows=list(ids.split((5, 7), 1)),
        places=[range(5), range(5, 12)],
        known=EXACT,
    )
