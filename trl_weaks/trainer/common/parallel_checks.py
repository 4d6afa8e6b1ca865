"""Launches that would train something else than they say, and checkpoints that cannot be continued here."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
MARKS = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
_TENSOR_PARALLEL = (
    "Tensor parallelism splits the output layer, which a weak loss reads whole. Use ZeRO-3 or FSDP2 for a model "
    "too large for one GPU."
)
_left: set[str] = set()  # marks that accelerate made for a trainer of this process, not found at launch


class ParallelChecks:
    """Mixin for trainers: `train` refuses a ZeRO checkpoint that another number of processes wrote."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder and self.is_deepspeed_enabled:
            refuse_other_world(folder, self.accelerator.num_processes)
        return super().train(resume_from_checkpoint, *args, **kwargs)


def refuse_launch(args: TrainingArguments, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what cannot work, or would in silence do something else; call it before the model is loaded.

    Raises:
        ValueError: one process, or several that never meet, where several were asked for; FSDP1; sequence, context or
            tensor parallelism.
    """
    _refuse_lone_process(environment)
    _refuse_strangers(args, environment)
    _refuse_fsdp1(args, environment)
    for kind, name in (("sp", "Sequence"), ("cp", "Context")):
        if _parallel(args, kind, environment) > 1:
            raise ValueError(
                f"{name} parallelism cuts each text between devices, and a weak loss reads whole texts. Set "
                f"`{kind}_size=1`; for long texts use ZeRO-3 with `gradient_checkpointing=True`."
            )
    if _parallel(args, "tp", environment) > 1:
        raise ValueError(_TENSOR_PARALLEL)


def refuse_split_model(trainer: Any) -> None:
    """Raises ValueError for a model that was loaded, or that DeepSpeed would split, for tensor parallelism."""
    if trainer.get_tp_size() > 1:
        raise ValueError(_TENSOR_PARALLEL)


@contextmanager
def note_marks() -> Iterator[None]:
    """Remember what accelerate writes into the environment while a trainer is made: it never takes it back."""
    before = {name for name in MARKS if name in os.environ}
    yield
    _left.update(name for name in MARKS if name in os.environ and name not in before)


def forget_earlier_trainers() -> None:
    """Take back what earlier trainers of this process left, before new settings are made.

    accelerate gives a trainer without DeepSpeed settings the default ZeRO-2 where an earlier one had any, FSDP
    likewise; and while ZeRO-3 settings live, every model is loaded in pieces.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    for name in _left:
        os.environ.pop(name, None)
    _left.clear()
    unset_hf_deepspeed_config()


def refuse_other_strategy(trainer: Any) -> None:
    """Refuse a trainer that would train under another strategy than its settings or its launch name.

    Raises:
        ValueError: DeepSpeed or FSDP is off though asked for, or on though not.
    """
    args = trainer.args
    asked = args.deepspeed_plugin is not None
    if asked != trainer.is_deepspeed_enabled:
        raise ValueError(
            "DeepSpeed is configured, but accelerate has turned it off and would train plain DDP: unset "
            "ACCELERATE_USE_CPU in the environment (`use_cpu=True` in the training arguments is fine)."
            if asked
            else "DeepSpeed is on, but these settings do not ask for it: another trainer's do. Make the settings of a "
            "trainer just before the trainer, one after the other."
        )
    wanted = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if wanted and not trainer.is_fsdp_enabled and trainer.accelerator.num_processes > 1:
        raise ValueError(
            "FSDP is configured, but accelerate has turned it off, as it does without GPUs, and would train plain "
            "DDP. Launch with ds_configs/accelerate/multi_gpu.yaml, or on GPUs."
        )


def refuse_other_world(checkpoint: str | os.PathLike, processes: int) -> None:
    """Refuse a ZeRO checkpoint that another number of processes wrote: DeepSpeed cannot share it out anew.

    Raises:
        ValueError: names both numbers and the remedy.
    """
    saved = zero_processes(checkpoint)
    if saved is not None and saved != processes:
        raise ValueError(
            f"{checkpoint} was written by {saved} processes and this run has {processes}; DeepSpeed cannot resume "
            f"ZeRO on another number. Launch with --num_processes {saved}, or start a new run from its weights: "
            f"model={str(checkpoint)!r} (without a model.safetensors there, first run its zero_to_fp32.py), which "
            "begins with a fresh optimizer and schedule."
        )


def zero_processes(checkpoint: str | os.PathLike) -> int | None:
    """How many processes wrote a DeepSpeed checkpoint; None where there is none."""
    latest = Path(checkpoint) / "latest"
    if not latest.is_file():
        return None
    ranks = (
        re.search(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$", file.name)
        for file in (Path(checkpoint) / latest.read_text().strip()).glob("*_optim_states.pt")
    )
    found = {int(match[1]) for match in ranks if match}
    return len(found) or None


def _refuse_lone_process(environment: Mapping[str, str]) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process: it sets the master's address but no rank."""
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in environment
    if asked and not any(name in environment for name in ("WORLD_SIZE", "LOCAL_RANK", *MPI)):
        raise ValueError(
            "`accelerate launch --cpu` starts one process whatever --num_processes says. Use `accelerate launch "
            "--multi_gpu --num_processes 2 ...` with `use_cpu=True` in the training arguments, or torchrun; for one "
            "process unset MASTER_ADDR."
        )


def _refuse_strangers(args: TrainingArguments, environment: Mapping[str, str]) -> None:
    """`accelerate launch --multi_gpu` without GPUs: every process believes that it is the only one."""
    started = int(environment.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in environment else 1
    if args.world_size != started:
        raise ValueError(
            f"{started} processes were started, but this one counts {args.world_size}: they would train copies that "
            "never meet. Without GPUs set `use_cpu=True` in the training arguments."
        )


def _refuse_fsdp1(args: TrainingArguments, environment: Mapping[str, str]) -> None:
    version = None
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        version = int(environment.get("FSDP_VERSION", 1))
    if args.fsdp:
        version = int((args.fsdp_config or {}).get("version", 2))
    if version == 1:
        raise ValueError(
            "FSDP1 is deprecated and its checkpoints do not resume exactly. Set `fsdp_version: 2`, as in "
            "ds_configs/accelerate/fsdp2.yaml, or use ds_configs/accelerate/zero3.yaml."
        )


def _parallel(args: TrainingArguments, kind: str, environment: Mapping[str, str]) -> int:
    config = args.parallelism_config
    if config is not None:
        return getattr(config, f"{kind}_size")
    if environment.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() != "true":
        return 1
    return int(environment.get(f"PARALLELISM_CONFIG_{kind.upper()}_SIZE", 1))
