"""Training of supervisors, students and the ceiling, all by `WeakClassificationTrainer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig

from trl_weaks.study.pipeline.models import Loaded
from trl_weaks.study.pipeline.students.training import train, trainer_settings
from trl_weaks.trainer.classification.sets import as_places, gold_votes
from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

ON_GOLD = {"weak_loss": "naive", "loss_kwargs": None, "gamma_max": 0.0, "threshold": "argmax"}


def train_on_votes(
    loaded: Loaded,
    votes: Dataset,
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    lora: LoraConfig | None = None,
    loss: Callable[..., Any] | None = None,
) -> None:
    """Train on weak votes; the model, its card and its history go to `folder`."""
    model, tokenizer = loaded
    own = {} if loss is None else {"loss": loss}
    trainer = WeakClassificationTrainer(
        model,
        WeakClassificationConfig(**trainer_settings(settings, folder, seed)),
        votes,
        processing_class=tokenizer,
        peft_config=lora,
        **own,
    )
    train(trainer, folder, tokenizer)


def train_on_gold(
    loaded: Loaded,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    folder: Path,
    seed: int,
    num_classes: int,
    lora: LoraConfig | None = None,
) -> None:
    """Plain cross-entropy on gold labels."""
    votes = gold_votes(as_places(Dataset.from_list(rows), num_classes), num_classes)
    train_on_votes(loaded, votes, {**settings, **ON_GOLD}, folder, seed, lora)
