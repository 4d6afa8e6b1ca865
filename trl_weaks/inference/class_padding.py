"""Classifiers that read a text otherwise beside a longer one: by convolutions over padding, by mixing without a mask.

That cannot be read from a configuration, so the model is asked, once, on made-up tokens.
"""

import logging
import weakref

import torch
from torch import Tensor, nn

from .padding import forget_lengths, forward_state
from .probe import made_up_tokens

SHORT, LONG = 3, 20  # tokens of the two rows to ask with, the longer one less where the model reads no more

logger = logging.getLogger(__name__)
_asked: "weakref.WeakKeyDictionary[nn.Module, tuple[int, bool]]" = weakref.WeakKeyDictionary()


def padding_matters(model: nn.Module) -> bool:
    """Whether padding beside longer rows changes a classifier's logits; call without gradients and dropout.

    A model that fails over the question counts as such.
    """
    if getattr(model.config, "attention_type", None) == "block_sparse":
        return True  # BigBird: the longest row decides about the attention of all, and asking it would change it
    state = forward_state(model)
    if _asked.get(model, (None,))[0] != state:
        _asked[model] = state, not _harmless(model)
        if _asked[model][1]:
            logger.info("%s reads texts of one length together: padding changes its logits", model.config.model_type)
    return _asked[model][1]


def _harmless(model: nn.Module) -> bool:
    try:
        alone, beside = _logits(model)
    except Exception as caught:  # whatever a foreign model does with a row that is too short or too long for it
        logger.info("%s cannot be asked about padding: %s: %s", model.config.model_type, type(caught).__name__, caught)
        return False
    error, size = (beside - alone).abs().max(), alone.abs().max().clamp_min(1.0)
    return bool(error < torch.finfo(model.dtype).eps ** 0.5 * size)  # rounding is a few times eps


def _logits(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Of the short row, alone and beside the long one."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or LONG
    tokens = made_up_tokens(model, SHORT + max(SHORT + 1, min(LONG, context - SHORT)))
    short, long = tokens[:, :SHORT], tokens[:, SHORT:]
    padded = nn.functional.pad(short, (0, long.shape[1] - SHORT), value=config.pad_token_id or 0)
    mask = torch.ones_like(long).repeat(2, 1)
    mask[1, SHORT:] = 0
    forget_lengths(model)
    alone = model(input_ids=short, attention_mask=mask[:1, :SHORT]).logits[0]
    both = model(input_ids=torch.cat([long, padded]), attention_mask=mask).logits
    return alone.float(), both[1].float()
