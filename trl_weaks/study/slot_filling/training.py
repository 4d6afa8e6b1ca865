"""The three ways a model is trained in the study: on gold rows, on weak labels, and on raw text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from trl_weaks.labelling.ensemble import WeakEnsemble
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.labelling.processes import processes
from trl_weaks.labelling.supervisor import WeakSupervisor
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.pipeline.models import Loaded
from trl_weaks.study.pipeline.training import train, trainer_settings
from trl_weaks.study.slot_filling.methods import Method
from trl_weaks.trainer.preference_run import preference_trainer
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_supervision_config import WeakSupervisionConfig
from trl_weaks.trainer.weak_supervision_trainer import WeakSupervisionTrainer

PAIRS = "pairs.json"  # what the preference stage counted


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
    if processes().is_main_process:
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
