"""Can this model share keys and read packed trees? Asked of the model itself, once, on a few made-up tokens.

Position handling, masks and caches differ between architectures, and the errors are silent. Models that are known not
to fit (sliding windows, recurrent layers, positions that depend on the length) are left out by their configuration;
every other model has to show that both fast paths give the numbers of the plain one, which must depend on the prompt.
The tokens say nothing, so that what is found on them holds for every text.
"""

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .._compat import exchanges_attention
from .beam_search import prefill
from .cascade_attention import NAME, attention
from .padding import accepted, gather_logps
from .scoring import narrow_attention, packed_logps, plain_logps, prefix_levels

logger = logging.getLogger(__name__)


def made_up_tokens(model: PreTrainedModel, count: int) -> Tensor:
    """
    Distinct token ids from all over the vocabulary, never the padding token, whose embedding may be zero: `(1, count)`
    on the model's device, the same at every call and on every process. Smaller vocabularies repeat them.
    """
    embedding = model.get_input_embeddings()
    # the configuration's where the weights lie in pieces (ZeRO-3)
    size = embedding.weight.shape[0] or model.config.get_text_config().vocab_size
    padding = {getattr(embedding, "padding_idx", None), getattr(model.config.get_text_config(), "pad_token_id", None)}
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    ids = [i for i in order[: count + len(padding)] if i not in padding] or order
    return torch.tensor([(ids * count)[:count]], device=model.device)


def tells_apart(outputs: Tensor) -> bool:
    """Whether outputs, `(rows, ...)`, differ from row to row by more than rounding: otherwise equal says nothing."""
    outputs = outputs.float()
    return bool((outputs - outputs[:1]).abs().max() > 1e-5 * outputs.abs().max())


def can_share(model: PreTrainedModel) -> bool:
    """Whether packed scoring and cascade generation agree with plain forward passes of this model."""
    reason = _unfit(model)
    if reason is None:
        try:
            error = _worst_error(model)
            tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.5
            reason = None if error < tolerance else f"log-probabilities differ by {error:.1e}"
        except Exception as caught:  # whatever a foreign model does with arguments it does not expect
            reason = f"{type(caught).__name__}: {caught}"
    if reason is not None:
        logger.info("%s is labelled by plain forward passes: %s", model.config.model_type, reason)
    return reason is None


def _unfit(model: PreTrainedModel) -> str | None:
    if narrow := narrow_attention(model):
        return narrow
    if not exchanges_attention(model):
        return "its attention cannot be exchanged"
    if not all(accepted(model, name) for name in ("position_ids", "logits_to_keep")):
        return "its forward takes no position_ids or logits_to_keep"
    return None


def _worst_error(model: PreTrainedModel) -> float:
    """Largest difference of a log-probability to plain forward passes, in nats."""
    ids = made_up_tokens(model, 22)[0].split((6, 3, 5, 3, 3, 2))
    prefix, one, two, right, left, deep = (tuple(part.tolist()) for part in ids)
    pairs = [
        (prefix + one, right),
        (prefix + one, right[:1] + deep),
        (prefix + two, left),
        (prefix + two, right),
    ]
    plain = torch.tensor(plain_logps(model, pairs, pad_id=0, max_tokens=64, advance=bool))
    if not tells_apart(plain[[0, 3]][:, 0]):
        raise ValueError("its log-probabilities do not depend on the prompt, so that nothing can be found out")
    levels = prefix_levels(model, prefix)
    errors = [plain - torch.tensor(packed_logps(model, pairs, None, 64))]
    errors.append(plain - torch.tensor(packed_logps(model, pairs, levels, 64)))
    for skip, shared in ((0, None), (len(prefix), levels)):
        with attention(model, NAME):
            ids, mask, cache = prefill(model, [pairs[0][0], pairs[2][0]], 0, skip, shared)
            answers = torch.tensor([completion for _, completion in pairs], device=model.device)
            new = torch.cat([ids[:, -1:].repeat_interleave(2, 0), answers[:, :-1]], dim=-1)
            mask = torch.cat([mask.repeat_interleave(2, 0), torch.ones_like(answers[:, :-1])], dim=-1)
            where = (mask.cumsum(-1) - 1)[:, -new.shape[1] :]
            logits = model(
                input_ids=new, attention_mask=mask, position_ids=where, past_key_values=cache, use_cache=True
            ).logits
        errors.append(plain - gather_logps(logits.flatten(0, 1), answers.flatten()).view(plain.shape).cpu())
    return max(error.abs().max().item() for error in errors)
