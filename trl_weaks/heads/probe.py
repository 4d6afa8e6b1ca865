"""Whether a model's logits are its output layer times its last hidden state: asked of the model itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..inference.probe import made_up_tokens, tells_apart
from .projection import LogitTransform, gathered, head_parameters

# Of the largest logit: bfloat16 products of another order differ by less than the first.
_HALF_TOLERANCE, _TOLERANCE = 0.02, 1e-5
# What the largest logit is brought to. Soft caps, of 15 to 50, bend logits of this size beyond doubt, and those of a
# model that starts to learn hardly at all.
_LARGEST_LOGIT = 200.0
# Beyond it a logit stands for a token that is never said, as models pad their vocabulary.
_RULED_OUT = 5_000.0


def is_whole(model: nn.Module) -> bool:
    """Whether every parameter is here: neither sharded (ZeRO-3, FSDP2) nor on the meta device."""
    return all(p.numel() and not p.is_meta and not hasattr(p, "full_tensor") for p in model.parameters())


@torch.compiler.disable
def logits_can_be_rebuilt(model: PreTrainedModel) -> bool:
    """
    Try it on a few tokens, without gradient and dropout, as the model is and with hidden states so much larger that
    what is not linear shows. A model that says the same after every token (a head of zeros) shows nothing: False.

    A model in pieces is asked inside the forward of its engine, whose hooks put every module together as it runs.
    Every process asks at the same time: in its first forward.
    """
    head = model.get_output_embeddings()
    if model.base_model is model or head is None:
        return False
    ids = made_up_tokens(model, 6)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            own = _logits(model, head, ids, 1.0)
            factor = _LARGEST_LOGIT / _largest(own.float()).item()
            larger = _logits(model, head, ids, factor)
            with gathered(head):  # after the forward passes, whose hooks take the weights apart again
                return _agrees(model, head, hidden, own) and _agrees(model, head, hidden * factor, larger)
    finally:
        for module in training:
            module.training = True


def _logits(model: PreTrainedModel, head: nn.Module, ids: Tensor, factor: float) -> Tensor:
    """The model's own logits, from hidden states times `factor`."""
    hook = head.register_forward_pre_hook(lambda module, given: (given[0] * factor, *given[1:]))
    try:
        return model._forward_without_weak_head(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()


def _agrees(model: PreTrainedModel, head: nn.Module, hidden: Tensor, own: Tensor) -> bool:
    weight, bias = head_parameters(head) or (None, None)
    if weight is None or weight.shape[-1] != hidden.shape[-1]:
        return False  # quantised, or more than a matrix
    rebuilt = F.linear(hidden.to(weight.device), weight.to(hidden.dtype), bias)
    rounded = {own.dtype, rebuilt.dtype} & {torch.bfloat16, torch.float16}
    rounded = rounded or torch.get_float32_matmul_precision() != "highest"  # TF32
    rebuilt = LogitTransform.from_config(model.config).forward(rebuilt.float())
    own = own.float().to(rebuilt.device)
    if own.shape != rebuilt.shape or not torch.equal(own == -torch.inf, rebuilt == -torch.inf):
        return False  # a vocabulary that is cut or padded afterwards
    own, rebuilt = (x.masked_fill(x == -torch.inf, 0) for x in (own, rebuilt))
    tolerance = (_HALF_TOLERANCE if rounded else _TOLERANCE) * own.abs().clamp(min=_largest(own))
    return tells_apart(own.masked_fill(own.abs() > _RULED_OUT, 0)[0]) and bool(
        ((rebuilt - own).abs() <= tolerance).all()
    )


def _largest(logits: Tensor) -> Tensor:
    """The largest of those that rule no token out."""
    return logits.abs().masked_fill(~(logits.abs() <= _RULED_OUT), 0).max().clamp(min=1e-6)
