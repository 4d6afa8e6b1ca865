"""What every training of the study shares: settings, resuming, and what a stage leaves behind."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from trl_weaks.distributed import processes
from trl_weaks.trainer.common.parallel_checks import forget_earlier_trainers

HISTORY = "history.json"  # the trainer's log, kept beside the model


def trainer_settings(settings: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """Settings every trainer of the study shares; those of the preset win.

    Settings of an earlier stage (DeepSpeed, FSDP) do not reach this one. A checkpoint at each epoch's end lets a
    killed run resume; only the last one is kept.
    """
    forget_earlier_trainers()
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    defaults = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "run_name": "/".join(folder.parts[-3:]),  # of loggers: seed0/students/naive
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 50,
        "gradient_checkpointing": False,
    }
    if on_cpu:
        defaults |= {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    return defaults | settings


def train(trainer: SFTTrainer, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train, resuming from a killed run's checkpoint, and leave one loadable model with its card in `folder`."""
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    refuse_broken_weights(trainer, folder)
    trainer.save_model(str(folder))
    if processes().is_main_process:
        tokenizer.save_pretrained(str(folder))
        trainer.create_model_card(model_name=folder.name)
        (folder / HISTORY).write_text(json.dumps(trainer.state.log_history, indent=1), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    if processes().is_main_process:
        _drop_checkpoints(folder)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, and nothing here reads it
    trainer.accelerator.free_memory()
    gc.collect()


def refuse_broken_weights(trainer: SFTTrainer, folder: Path) -> None:
    """
    Raises:
        ValueError: weights that are no finite numbers: such a model answers something, and it would be scored. On
            every process where it is so on one.
    """
    pieces = (weight.to_local() if hasattr(weight, "to_local") else weight for weight in trainer.model.parameters())
    broken = not all(torch.isfinite(piece).all() for piece in pieces)  # of a sharded weight what lies here
    if trainer.accelerator.reduce(torch.tensor(float(broken), device=trainer.accelerator.device), "sum"):
        raise ValueError(
            f"{folder}: after training the model has weights that are no finite numbers. The loss or its gradient is "
            "not finite for some row, or the learning rate is too high."
        )


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run that may have been killed while it wrote one; what is not whole is removed.

    transformers writes a checkpoint in place, file by file, and its trainer state last. Every process calls this.
    """
    state = processes()
    state.wait_for_everyone()
    if state.is_main_process:
        for checkpoint in folder.glob("checkpoint-*"):
            if not _is_whole(checkpoint):
                shutil.rmtree(checkpoint)
    state.wait_for_everyone()
    return get_last_checkpoint(str(folder))


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def _drop_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)  # first: a kill must not leave one that looks whole
        shutil.rmtree(checkpoint)
