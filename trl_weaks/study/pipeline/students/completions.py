"""The three ways a model is trained on text: on gold rows, on weak labels, on pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig

from trl_weaks.columns import PROMPT
from trl_weaks.distributed import processes
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.study.files import json_bytes, write_atomically
from trl_weaks.study.methods import Method
from trl_weaks.study.pipeline.models import Loaded
from trl_weaks.study.pipeline.students.gold import GoldTrainer
from trl_weaks.study.pipeline.students.training import train, trainer_settings
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor
from trl_weaks.trainer.preference.run import preference_trainer, trainer_on_pairs
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_supervision_config import WeakSupervisionConfig
from trl_weaks.trainer.weak_supervision_trainer import WeakSupervisionTrainer

PAIRS = "pairs.json"  # what the preference stage counted
OF_WEAK_LOSSES = {"gamma_max", "gamma_warmup", "kl_coef", "kl_anneal", "evidence", "evidence_offset"}
OF_WEAK_LOSSES |= {"confidence_unit", "confidence_split", "loss_kwargs"}
ON_GOLD = {"weak_loss": "naive", "loss_kwargs": None, "soft_labels": False, "gamma_max": 0.0}
KEEP_BEST = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}


def gold_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The student's settings for gold rows: without those of a weak loss, which must not train the ceiling again."""
    return {name: value for name, value in settings.items() if name not in OF_WEAK_LOSSES}


def train_on_gold(
    loaded: Loaded,
    rows: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    validation: Sequence[dict[str, Any]] = (),
    lora: LoraConfig | None = None,
) -> None:
    """Fine-tuning on prompt-completion rows; with validation rows, the epoch of lowest loss is kept."""
    settings = settings | (KEEP_BEST if validation else {}) | ON_GOLD
    kind = GoldTrainer if isinstance(rows[0][PROMPT], str) else WeakSupervisionTrainer  # TRL reads messages
    held_out = Dataset.from_list(list(validation)) if validation else None
    _train(kind, loaded, Dataset.from_list(list(rows)), settings, folder, seed, lora, eval_dataset=held_out)


def train_on_weak(
    loaded: Loaded,
    labels: Dataset,
    method: Method,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None = None,
) -> None:
    """Weak-to-strong training of the student with one method."""
    own = {} if method.custom_loss is None else {"loss": method.custom_loss}
    _train(WeakSupervisionTrainer, loaded, labels, method.over(settings), folder, seed, lora, **own)


def _train(
    kind: type[WeakSupervisionTrainer],
    loaded: Loaded,
    rows: Dataset,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None,
    **own: Any,
) -> None:
    model, tokenizer = loaded
    args = WeakSupervisionConfig(**trainer_settings(settings, folder, seed))
    trainer = kind(model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora, **own)
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


def train_on_pairs(
    student: WeakSupervisor,
    pairs: Dataset,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None = None,
) -> None:
    """The student, trained on, on pairs that are there already."""
    args = WeakPreferenceConfig(**trainer_settings(settings, folder, seed))
    train(trainer_on_pairs(student, pairs, args, lora), folder, student.tokenizer)
