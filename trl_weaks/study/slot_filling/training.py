"""The three ways a model is trained in the study: on gold rows, on weak labels, and on raw text."""

import gc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from trl_weaks.labelling.ensemble import WeakEnsemble
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.labelling.supervisor import WeakSupervisor
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.slot_filling.methods import Method
from trl_weaks.trainer.preference_run import preference_trainer
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_supervision_config import WeakSupervisionConfig
from trl_weaks.trainer.weak_supervision_trainer import WeakSupervisionTrainer

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
HISTORY = "history.json"  # the trainer's log, kept beside the model
PAIRS = "pairs.json"  # what the preference stage counted


def trainer_settings(settings: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    """Settings every trainer of the study shares; those of the preset win.

    A checkpoint at each epoch's end lets a killed run resume; only the last one is kept.
    """
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    defaults = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
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
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    trainer.save_model(str(folder))
    if PartialState().is_main_process:
        tokenizer.save_pretrained(str(folder))
        trainer.create_model_card(model_name=folder.name)
        (folder / HISTORY).write_text(json.dumps(trainer.state.log_history, indent=1), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    if PartialState().is_main_process:
        _drop_checkpoints(folder)
    trainer.accelerator.free_memory()
    gc.collect()


def _drop_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def train_on_gold(
    loaded: Loaded,
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    validation: Sequence[dict[str, Any]] = (),
    lora: LoraConfig | None = None,
) -> None:
    """Plain TRL fine-tuning on prompt-completion rows; with validation rows, the epoch of lowest loss is kept."""
    model, tokenizer = loaded
    arguments = trainer_settings(settings, folder, seed)
    if validation:
        arguments |= {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(rows)),
        eval_dataset=Dataset.from_list(list(validation)) if validation else None,
        processing_class=tokenizer,
        peft_config=lora,
    )
    train(trainer, folder, tokenizer)


def train_on_preferences(
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    prompts: Dataset,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None = None,
    **candidates: Any,
) -> None:
    """Conservative DPO on the student's own candidates, ranked by the ensemble; what was counted goes beside it."""
    args = WeakPreferenceConfig(**trainer_settings(settings, folder, seed))
    trainer, pairs = preference_trainer(student, ensemble, prompts, args, lora, **candidates)
    if PartialState().is_main_process:
        write_atomically(folder / PAIRS, json_bytes(preference_report(pairs)))
    train(trainer, folder, student.tokenizer)


def train_on_weak(
    loaded: Loaded,
    labels: Dataset,
    method: Method,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None = None,
) -> None:
    """Weak-to-strong training of the student with one of the paper's methods."""
    model, tokenizer = loaded
    arguments = trainer_settings(settings, folder, seed)
    arguments |= {"weak_loss": method.weak_loss, "soft_labels": method.soft_labels}
    if not method.auxiliary:
        arguments["gamma_max"] = 0.0
    trainer = WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments),
        train_dataset=labels,
        processing_class=tokenizer,
        peft_config=lora,
    )
    train(trainer, folder, tokenizer)
