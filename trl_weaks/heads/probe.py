"""Whether a model's logits are its output layer times its last hidden state: asked of the model itself."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .projection import LogitTransform, gathered, head_parameters

TOLERANCE = 0.02  # of the largest logit; bfloat16 products of another order differ by less


def is_whole(model: nn.Module) -> bool:
    """Whether every parameter is here: neither sharded (ZeRO-3, FSDP2) nor on the meta device."""
    return all(p.numel() and not p.is_meta and not hasattr(p, "full_tensor") for p in model.parameters())


@torch.compiler.disable
def logits_can_be_rebuilt(model: PreTrainedModel) -> bool:
    """
    Try it on two tokens, without gradient and dropout.

    A model in pieces is asked inside the forward of its engine, whose hooks put every module together as it runs.
    Every process asks at the same time: in its first forward.
    """
    head = model.get_output_embeddings()
    if model.base_model is model or head is None:
        return False
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            own = model._forward_without_weak_head(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            with gathered(head):  # after the forward passes, whose hooks take the weights apart again
                weight, bias = head_parameters(head) or (None, None)
                if weight is None or weight.shape[-1] != hidden.shape[-1]:
                    return False  # quantised, or more than a matrix
                rebuilt = F.linear(hidden.to(weight.device), weight.to(hidden.dtype), bias).float()
    finally:
        for module in training:
            module.training = True
    rebuilt, own = LogitTransform.from_config(model.config).forward(rebuilt), own.float().to(rebuilt.device)
    return bool((rebuilt - own).abs().max() <= TOLERANCE * own.abs().max().clamp(min=1e-6))
