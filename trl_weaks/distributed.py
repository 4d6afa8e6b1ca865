"""Which of how many processes this is, and models that every process holds whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from torch import nn

DEEPSPEED, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"


def processes() -> PartialState:
    """accelerate's state, made without DeepSpeed where nothing trains yet.

    Several processes on a machine without accelerator find each other over the CPU: left alone, accelerate starts no
    backend there, and each process believes that it is the only one. Under a DeepSpeed launch accelerate would load
    DeepSpeed for the process group alone; a trainer made later still finds that it is to use it.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with _unset(DEEPSPEED):
        return PartialState(cpu=True) if several and not torch.accelerator.is_available() else PartialState()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Models loaded inside are whole on every process, whatever the launch or an earlier trainer asked for.

    Otherwise `from_pretrained` hands out pieces under ZeRO-3, and under FSDP with `cpu_ram_efficient_loading` makes
    what a checkpoint lacks on the first process alone: right for a student that is about to be trained, wrong for a
    supervisor.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    kept = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        with _unset(FSDP):
            yield
    finally:
        if kept is not None:
            deepspeed.set_hf_deepspeed_config(kept)


def refuse_pieces(model: nn.Module, name: str) -> None:
    """Raises ValueError where a parameter is not whole: each process generates on its own, without the others."""
    for parameter in model.parameters():
        sharded = hasattr(parameter, "full_tensor") or (hasattr(parameter, "ds_numel") and not parameter.numel())
        if sharded or parameter.is_meta:
            raise ValueError(
                f"{name!r} holds its weights in pieces or not at all (ZeRO-3, FSDP, or the meta device), and "
                "processes label independently of each other. Load it inside `trl_weaks.distributed."
                "whole_weights()`; for a student in training use `with trainer.whole_model() as model:`."
            )


@contextmanager
def _unset(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
