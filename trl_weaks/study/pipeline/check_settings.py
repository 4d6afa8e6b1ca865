"""Trainer settings of all stages, tried before the first of them: a typo must not cost the stages before it."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState
from peft import LoraConfig
from transformers import TrainingArguments

from trl_weaks.distributed import processes
from trl_weaks.study.pipeline.config import ExperimentConfig
from trl_weaks.study.pipeline.training import trainer_settings
from trl_weaks.trainer.parallel_checks import forget_earlier_trainers

OWN = ("output_dir", "resume_from_checkpoint")  # what each stage decides itself


@contextmanager
def trying() -> Iterator[None]:
    """Settings made inside leave no trace: making them writes the environment and accelerate's state, and what the
    last of them asked for (DeepSpeed, FSDP, a precision, a device) would reach the first stage's trainer."""
    processes()
    state, environment = dict(PartialState._shared_state), dict(os.environ)
    try:
        yield
    finally:
        forget_earlier_trainers()
        os.environ.clear()
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._shared_state.update(state)


def try_settings(
    name: str,
    config_class: type[TrainingArguments],
    settings: Mapping[str, Any],
    folder: Path,
    own: Mapping[str, Any] | None = None,
    decided: Collection[str] = (),
) -> None:
    """Make a trainer's settings as a stage would, inside [`trying`].

    Args:
        name: what the user calls these settings.
        config_class: the trainer's.
        settings: the user's.
        folder: a stage's output folder; nothing is written.
        own: settings that the stage puts over the user's.
        decided: settings that the user must not give, since the stage would not heed them.

    Raises:
        ValueError: an unknown setting (with the nearest known one), one that the stage decides itself, text where a
            number is needed, or what the settings' own class refuses.
    """
    known = {field.name: field.default for field in fields(config_class) if field.init}
    for key, value in settings.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" It takes the settings of {config_class.__name__}."
            raise ValueError(f"`{name}` has an unknown setting {key!r}.{hint}")
        if key in (*OWN, *decided):
            raise ValueError(f"`{name}`: {key!r} is decided by the stage or the method; remove it.")
        if isinstance(value, str) and type(known[key]) in (int, float):
            raise ValueError(f"`{name}`: {key!r} is the text {value!r}; a number is needed (YAML reads 1e-3 as text).")
    tried = {key: value for key, value in settings.items() if key != "tf32"}  # it would be switched on at once
    try:
        config_class(**trainer_settings({**tried, **(own or {})}, folder, seed=0))
    except Exception as error:
        raise ValueError(f"`{name}`: {error}") from error


def try_lora(config: ExperimentConfig, task: str) -> None:
    """
    Raises:
        ValueError: `lora` holds what `LoraConfig` refuses.
    """
    if not config.use_peft:
        return
    try:
        LoraConfig(task_type=task, **(config.lora or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`lora`: {error}") from error
