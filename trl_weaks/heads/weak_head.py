"""Patch a causal LM so that `model(..., labels=..., weak_head=request)` gives a weak loss instead of logits."""

import functools
import types

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .chunked import STATISTICS, ChunkedHeadLoss
from .projection import LogitTransform, gathered, head_parameters
from .request import WeakHeadOutput, WeakHeadRequest
from .tokens import flatten_tokens


def add_weak_head(model: nn.Module) -> None:
    """
    Teach the model's `forward` the argument `weak_head`, a `WeakHeadRequest`. Calling it twice changes nothing.

    With `weak_head=None` (or without it) the forward is what it was, generation included. With a request, the
    backbone runs once and the output layer in chunks of supervised tokens, inside `forward`, where ZeRO-3 and FSDP
    gather its weight once; a `WeakHeadOutput` comes back. Works beside TRL's own fused head, and on a PEFT model,
    whose base model is patched.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(model, "_has_weak_head", False):
        return
    # kept on the instance, not in a closure, so that a deep copy of the model runs its own forward
    model._forward_without_weak_head = model.forward
    model._has_weak_head = True

    @functools.wraps(type(model).forward)
    def forward(self, *args, weak_head: WeakHeadRequest | None = None, **kwargs):
        if weak_head is None:
            return self._forward_without_weak_head(*args, **kwargs)
        return _weak_forward(self, weak_head, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


@torch.compiler.disable
def _weak_forward(model: PreTrainedModel, request: WeakHeadRequest, *args, labels: Tensor, **kwargs) -> WeakHeadOutput:
    kwargs.pop("num_items_in_batch", None)
    kwargs["use_cache"] = False
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        kwargs.setdefault("output_router_logits", True)
    tokens, mask = flatten_tokens(request, labels)
    outputs = model.base_model(*args, **kwargs)
    hidden = outputs.last_hidden_state[:, :-1]
    head = model.get_output_embeddings()
    transform = LogitTransform.from_config(model.config)
    weight, bias = head_parameters(head)
    with gathered(weight, bias):
        loss, statistics = ChunkedHeadLoss.apply(
            hidden[mask.to(hidden.device)].to(weight.device), weight, bias, tokens, request, transform
        )
    return WeakHeadOutput(
        loss=loss, label_mask=mask, aux_loss=_aux_loss(model, outputs, kwargs), **_unflatten(statistics, mask)
    )


def _unflatten(statistics: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """`(T, 6)` -> named `(B, L - 1)` tensors, zero outside the mask."""
    named = {}
    for name, column in zip(STATISTICS, statistics.detach().float().unbind(-1), strict=True):
        full = torch.zeros(mask.shape, device=column.device).masked_scatter_(mask.to(column.device), column)
        named["per_token_loss" if name == "loss" else name] = full.bool() if name == "is_top1" else full
    return named


def _aux_loss(model: PreTrainedModel, outputs, kwargs: dict) -> Tensor | None:
    if not kwargs.get("output_router_logits"):
        return None
    # every mixture-of-experts family of transformers uses Mixtral's
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config.get_text_config()
    return load_balancing_loss_func(
        outputs.router_logits, model.num_experts, config.num_experts_per_tok, kwargs.get("attention_mask")
    )
