"""Patch a causal LM so that `model(..., labels=..., weak_head=request)` gives a weak loss instead of logits."""

import functools
import types
import warnings

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .chunked import STATISTICS, ChunkedHeadLoss, ChunkedLogitsLoss
from .probe import is_whole, logits_can_be_rebuilt
from .projection import LogitTransform, gathered, head_parameters
from .request import WeakHeadOutput, WeakHeadRequest
from .tokens import flatten_tokens

_FULL_LOGITS = "its output layer cannot be taken apart; the full logits are used, which costs memory"


def add_weak_head(model: nn.Module) -> None:
    """
    Teach the model's `forward` the argument `weak_head`, a `WeakHeadRequest`. Calling it twice changes nothing.

    With `weak_head=None` (or without it) the forward is what it was, generation included. With a request, the
    backbone runs once and the output layer in chunks of supervised tokens, inside `forward`, where ZeRO-3 and FSDP
    gather its weight once; a `WeakHeadOutput` comes back. Works beside TRL's own fused head, and on a PEFT model,
    whose base model is patched. Where the output layer cannot be taken apart, the full logits are used, with one
    warning.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    # a pickled model comes back with its class's own forward
    own = getattr(model.forward, "__func__", None) is type(model).forward
    if hasattr(model, "_forward_without_weak_head") and not own:
        return
    # kept on the instance, not in a closure, so that a deep copy of the model runs its own forward
    model._forward_without_weak_head = model.forward
    model._weak_head_warned = False
    # None where the weights lie in pieces: asked in the first forward of the engine, which puts them together
    model._weak_head_reachable = logits_can_be_rebuilt(model) if is_whole(model) else None

    @functools.wraps(type(model).forward)
    def forward(self, *args, weak_head: WeakHeadRequest | None = None, **kwargs):
        if weak_head is None:
            return self._forward_without_weak_head(*args, **kwargs)
        return _weak_forward(self, weak_head, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def _weak_forward(model: PreTrainedModel, request: WeakHeadRequest, *args, labels: Tensor, **kwargs) -> WeakHeadOutput:
    if kwargs.get("inputs_embeds") is not None:  # as PEFT's prompt learning calls its model
        labels = request.without_prompt(labels)
    request.check(labels)
    kwargs.pop("num_items_in_batch", None)
    kwargs["use_cache"] = False
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        kwargs.setdefault("output_router_logits", True)
    if model._weak_head_reachable is None:
        model._weak_head_reachable = logits_can_be_rebuilt(model)
    if model._weak_head_reachable:
        outputs = model.base_model(*args, **kwargs)
        output = _from_hidden(model, outputs.last_hidden_state, labels, request)
        if output is not None:
            output.aux_loss = _aux_loss(model, outputs, kwargs)
            return output
        model._weak_head_reachable = False
    if not model._weak_head_warned:
        model._weak_head_warned = True
        warnings.warn(f"{type(model).__name__}: {_FULL_LOGITS}", stacklevel=2)
    outputs = model._forward_without_weak_head(*args, **kwargs)
    output = _from_logits(outputs.logits, labels, request)
    output.aux_loss = getattr(outputs, "aux_loss", None)
    return output


@torch.compiler.disable
def _from_hidden(
    model: PreTrainedModel, hidden: Tensor, labels: Tensor, request: WeakHeadRequest
) -> WeakHeadOutput | None:
    head = model.get_output_embeddings()
    with gathered(head):
        parameters = head_parameters(head)
        if parameters is None or parameters[0].shape[-1] != hidden.shape[-1]:
            return None
        weight, bias = parameters
        tokens, mask = flatten_tokens(request, labels.to(weight.device))
        hidden = _supervised(hidden.to(weight.device), mask, request)
        transform = LogitTransform.from_config(model.config)
        loss, statistics = ChunkedHeadLoss.apply(hidden, weight, bias, tokens, request, transform)
    return _output(loss, statistics, mask)


@torch.compiler.disable
def _from_logits(logits: Tensor, labels: Tensor, request: WeakHeadRequest) -> WeakHeadOutput:
    tokens, mask = flatten_tokens(request, labels.to(logits.device))
    loss, statistics = ChunkedLogitsLoss.apply(_supervised(logits, mask, request), tokens, request)
    return _output(loss, statistics, mask)


def _supervised(states: Tensor, mask: Tensor, request: WeakHeadRequest) -> Tensor:
    """The `(T, H)` states from which the supervised tokens are predicted; prompt learning puts others before them."""
    if request.nodes is None:
        return states[:, -mask.shape[1] - 1 :][:, :-1][mask]
    return states.flatten(0, 1)[request.nodes.to(states.device)[:, :-1][mask]]


def _output(loss: Tensor, statistics: Tensor, mask: Tensor) -> WeakHeadOutput:
    """`(T, 6)` statistics -> named `(B, L - 1)` tensors, zero outside the mask."""
    named = {}
    for name, column in zip(STATISTICS, statistics.detach().float().unbind(-1), strict=True):
        full = torch.zeros(mask.shape, device=column.device).masked_scatter_(mask, column)
        named["per_token_loss" if name == "loss" else name] = full.bool() if name == "is_top1" else full
    return WeakHeadOutput(loss=loss.clone(), label_mask=mask, weak_loss=loss, **named)  # PEFT adds in place


def _aux_loss(model: PreTrainedModel, outputs, kwargs: dict) -> Tensor | None:
    if not kwargs.get("output_router_logits"):
        return None
    # every mixture-of-experts family of transformers uses Mixtral's
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", None) or config.num_local_experts
    return load_balancing_loss_func(
        outputs.router_logits, experts, config.num_experts_per_tok, kwargs.get("attention_mask")
    )
