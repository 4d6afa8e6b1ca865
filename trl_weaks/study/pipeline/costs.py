"""About how many seconds a stage of tiny models takes on one core, for the order of stages and the time left.

Fitted to the stages of one default run of the slot-filling experiment (two stages side by side on two cores of an
Intel Xeon, 2026-11-21); a student of the classification experiment, which has no vocabulary to predict, takes half of
it. For other models the numbers only say which stage takes longer than which.
"""

from collections.abc import Mapping
from typing import Any

from trl_weaks.study.pipeline.config import ExperimentConfig
from trl_weaks.study.pipeline.models import TINY

SETUP = 1.0  # any stage: models loaded, prepared and saved
LABELLED = 0.0037  # a prompt, a supervisor and a candidate: found, then read by all supervisors
PREFERRED = 0.0093  # a prompt and a candidate of the student: found, read by the supervisors, trained on
DECODED = 0.004  # a prompt and a beam
PRETRAINED = 0.68  # of a row of training: those of pre-training are shorter
CLASSIFIED = 0.0003  # a text and a classifier


def row_seconds(config: ExperimentConfig, model: str) -> float:
    """One row of training, forward and backward: a fixed part, and one that grows with the layers' weights."""
    sizes = (config.tiny_models or {}).get(model.removeprefix(TINY), {}) if model.startswith(TINY) else {}
    return 0.0014 + 5.5e-8 * sizes.get("layers", 3) * sizes.get("hidden_size", 96) ** 2


def rows_trained(settings: Mapping[str, Any], rows: float) -> float:
    """Rows that a training reads: its epochs, or the batches of its steps."""
    steps = settings.get("max_steps", -1)
    if steps > 0:
        batch = settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1)
        return steps * batch
    return rows * settings.get("num_train_epochs", 3)


def in_seconds(config: ExperimentConfig) -> bool:
    """Whether costs are seconds, about: all models are tiny."""
    return all(model.startswith(TINY) for model in (*config.weak_models, config.student_model))
