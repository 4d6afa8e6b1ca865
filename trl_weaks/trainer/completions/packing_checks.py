"""Are texts packed into one row computed as if each were alone? Models where they are not are refused."""

import torch
from transformers import PreTrainedModel

from ..._compat import attention_of
from ...inference.probe import made_up_tokens
from ...inference.scoring import is_recurrent
from .layout_probe import tried

EXACT = ("llama", "gpt2", "gpt_neox")  # proved by tests/trainer/test_packing.py; others are tried at start


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
    elif kind not in EXACT and "flash" not in attention_of(model.config):
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
