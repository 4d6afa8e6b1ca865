"""Which of how many processes this is, work for the first alone, and models that every process holds whole."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from ._compat import without_deepspeed_config
from .files import LabelStoreError, refused

POLL = 0.5  # seconds between looks at what the others did
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


def on_main_process(folder: Path, work: Callable[[], object]) -> None:
    """Run `work` on the first process alone, for longer than a collective waits; the others look for a file.

    Args:
        folder: on a disk that all processes see.

    Raises:
        LabelStoreError: in the other processes, where the first one failed; it raises its own error.
    """
    state, signal = processes(), folder / "progress-alone"
    if state.num_processes == 1:
        work()
        return
    if state.is_main_process:
        signal.unlink(missing_ok=True)
    state.wait_for_everyone()  # no file of an earlier run is left
    if state.is_main_process:
        try:
            work()
        except BaseException as error:
            with suppress(OSError):  # the launcher then ends the others
                written = signal.with_suffix(".part")  # an empty file, for a moment, would say that all went well
                written.write_text(f"{type(error).__name__}: {error}")
                written.replace(signal)
            raise
        try:
            signal.touch()
        except OSError as error:
            raise refused(folder, error) from error
    else:
        while not signal.exists():
            time.sleep(POLL)
        if signal.stat().st_size:
            raise LabelStoreError(f"the first process stopped. {signal.read_text()}")
    state.wait_for_everyone()
    if state.is_main_process:
        signal.unlink()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Models loaded inside are whole on every process, whatever the launch or an earlier trainer asked for.

    Otherwise `from_pretrained` hands out pieces under ZeRO-3, and under FSDP with `cpu_ram_efficient_loading` makes
    what a checkpoint lacks on the first process alone: right for a student that is about to be trained, wrong for a
    supervisor.
    """
    with without_deepspeed_config(), _unset(FSDP):
        yield


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
