"""Models and tokenizers are lent: whatever happens while they work, they are given back as they were found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .padding import rope_modules

PLAIN = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}  # what our passes read


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No dropout, gradients or caller's autocast; afterwards every submodule has its own mode and buffers again.

    Positions that depend on the length ("dynamic" RoPE) write their frequencies into the model; left there, they would
    change what it says later, and would be tensors that no training can use.
    """
    configs = [model.config, model.config.get_text_config()] if hasattr(model, "config") else []
    asked = [(c, n, getattr(c, n)) for c in configs for n, plain in PLAIN.items() if getattr(c, n, plain) != plain]
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    ropes = [(module, dict(vars(module)), _copies(module)) for module in rope_modules(model)]
    model.eval()
    for config, name, _ in asked:
        setattr(config, name, PLAIN[name])
    try:
        with torch.inference_mode(), torch.autocast(_device_type(model), enabled=False):
            yield
    finally:
        for config, name, value in asked:
            setattr(config, name, value)
        for module, training in modes:
            module.training = training
        for module, kept in buffers:
            module._buffers.clear()
            module._buffers.update(kept)
        for module, attributes, values in ropes:
            vars(module).clear()
            vars(module).update(attributes)
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def untouched(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Every call of a fast tokenizer sets the padding and truncation of its backend; afterwards they are the found."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a slow one, which is refused elsewhere
        yield
        return
    padding, truncation = backend.padding, backend.truncation
    try:
        yield
    finally:
        if backend.padding != padding:
            backend.enable_padding(**padding) if padding else backend.no_padding()
        if backend.truncation != truncation:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()


def borrowed_tokenizer(method: Callable) -> Callable:
    """A method that leaves `self.tokenizer` as it was found."""

    @wraps(method)
    def careful(self: Any, *args: Any, **kwargs: Any) -> Any:
        with untouched(self.tokenizer):
            return method(self, *args, **kwargs)

    return careful


def _device_type(model: nn.Module) -> str:
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def _copies(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(buffer, buffer.clone()) for buffer in module._buffers.values() if buffer is not None]
