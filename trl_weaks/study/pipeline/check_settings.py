"""Trainer settings of all stages, tried before the first of them: a typo must not cost the stages before it."""

import copy
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from trl import SFTConfig

from trl_weaks._compat import accelerate_state, restore_accelerate_state
from trl_weaks.commands.errors import did_you_mean
from trl_weaks.distributed import processes
from trl_weaks.losses.base import as_weak_loss, checked_values
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.methods import Method
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.study.pipeline.pretrain import pretraining_settings, weak_plan
from trl_weaks.study.pipeline.students.classes import ON_GOLD as CLASSES_ON_GOLD
from trl_weaks.study.pipeline.students.completions import KEEP_BEST, ON_GOLD, gold_settings
from trl_weaks.study.pipeline.students.training import trainer_settings
from trl_weaks.study.preference_methods import PreferenceMethod
from trl_weaks.study.tasks.base import ClassificationTask, Task
from trl_weaks.trainer.common.parallel_checks import forget_earlier_trainers
from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_supervision_config import WeakSupervisionConfig

ANY_CLASSES = 7  # of a loss that is tried where nobody knows the vocabulary yet
OWN = ("output_dir", "resume_from_checkpoint")  # what each stage decides itself


@dataclass(frozen=True)
class Kind:
    """How the trainer of a kind of task is set up.

    Args:
        trainer: class of its settings.
        peft: LoRA's name of the task.
        on_gold: what training on gold puts over the user's settings.
        weak: what supervisors get beside that.
        decided: what a method decides for the student.
        gold: the student's settings -> those of its ceiling.
    """

    trainer: type[TrainingArguments]
    peft: str
    on_gold: Mapping[str, Any]
    weak: Mapping[str, Any]
    decided: tuple[str, ...]
    gold: Callable[[Mapping[str, Any]], dict[str, Any]]


KINDS = {
    "completions": Kind(
        WeakSupervisionConfig, "CAUSAL_LM", ON_GOLD, KEEP_BEST, ("weak_loss", "soft_labels"), gold_settings
    ),
    "classes": Kind(WeakClassificationConfig, "SEQ_CLS", CLASSES_ON_GOLD, {}, ("weak_loss",), dict),
}


def check_settings(config: StudyConfig, task: Task, methods: Sequence[Method]) -> None:
    """
    Raises:
        ValueError: settings of a stage to run that its trainer would refuse; names them.
    """
    folder, stages, kind = Path(config.output_dir), set(config.stages), KINDS[task.kind]
    with trying():
        check_loggers("`report_to`", config.training(None)["report_to"])
        if "pretrain" in stages and task.has_unlabelled:
            if config.student_model.startswith(TINY):
                _check_pretraining("pretraining", config.pretraining or {}, task, folder)
            if config.weak_pretraining:
                _check_pretraining("weak_pretraining", weak_plan(config, task), task, folder)
        if "weak" in stages:
            own = dict(kind.on_gold) | dict(kind.weak)
            try_settings("`weak_training`", kind.trainer, config.weak_training or {}, folder, own, decided=own)
        if stages & {"student", "ceiling"}:
            _check_student(config, kind, methods, folder, task)
        if "preference" in stages:
            try_settings("`preference_training`", WeakPreferenceConfig, config.preference_training or {}, folder)


def _check_pretraining(name: str, plan: dict[str, Any], task: Task, folder: Path) -> None:
    settings = pretraining_settings(plan, task.pretrains_on_pairs)
    trainer, own = (WeakSupervisionConfig, ON_GOLD) if task.pretrains_on_pairs else (SFTConfig, {})
    try_settings(f"`{name}: training`", trainer, settings, folder, own, decided=own)


def _check_student(config: StudyConfig, kind: Kind, methods: Sequence[Method], folder: Path, task: Task) -> None:
    settings, name = config.student_training or {}, "`student_training`"
    try_settings(name, kind.trainer, settings, folder, decided=kind.decided)
    for method in methods:
        if isinstance(method, PreferenceMethod):
            given = method.over(getattr(config, "preference_training", None) or {})
            try_settings(f"method {method.name!r}", WeakPreferenceConfig, given, folder)
            continue
        try_method(method, task)
        pooling = {"pooling": method.aggregator} if method.aggregator and kind.peft == "SEQ_CLS" else {}
        try_settings(f"method {method.name!r}", kind.trainer, method.over(settings) | pooling, folder)
    try_settings(name, kind.trainer, kind.gold(settings), folder, kind.on_gold)
    _try_lora(config, kind.peft)


@contextmanager
def trying() -> Iterator[None]:
    """Settings made inside leave no trace: making them writes the environment and accelerate's state, and what the
    last of them asked for (DeepSpeed, FSDP, a precision, a device) would reach the first stage's trainer."""
    processes()
    state, environment = accelerate_state(), dict(os.environ)
    try:
        yield
    finally:
        forget_earlier_trainers()
        os.environ.clear()
        os.environ.update(environment)
        restore_accelerate_state(state)


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
        name: what the user calls these settings, as messages begin.
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
            hint = did_you_mean(key, known) or f" It takes the settings of {config_class.__name__}."
            raise ValueError(f"{name} has an unknown setting {key!r}.{hint}")
        if key in (*OWN, *decided):
            raise ValueError(f"{name}: {key!r} is decided by the stage or the method; remove it.")
        if isinstance(value, str) and type(known[key]) in (int, float):
            raise ValueError(f"{name}: {key!r} is the text {value!r}; a number is needed (YAML reads 1e-3 as text).")
    tried = {key: value for key, value in settings.items() if key != "tf32"}  # it would be switched on at once
    try:
        made = config_class(**trainer_settings({**tried, **(own or {})}, folder, seed=0))
    except Exception as error:
        raise ValueError(f"{name}: {error}") from error
    check_loggers(f"{name}: 'report_to'", made.report_to)


def check_loggers(name: str, places: Sequence[str]) -> None:
    """
    Raises:
        ValueError: nobody logs there, or the package that would is not installed; a trainer says so only once it is
            made, which is after the stages before it.
    """
    known = {"none", "all", *INTEGRATION_TO_CALLBACK}
    for place in places:
        if place not in known:
            raise ValueError(
                f"{name}: nobody logs to {place!r}.{did_you_mean(place, known)} Known: {', '.join(sorted(known))}."
            )
        if place not in ("none", "all", *get_available_reporting_integrations()):
            raise ValueError(f"{name}: {place} is not installed; install the package first, or choose another.")


def try_method(method: Method, task: Task) -> None:
    """The functions of a method, as it will call them.

    Raises:
        ValueError: a transform that does not take what it will be given, or a loss that gives no finite number for
            every row of a small trial; names the method.
    """
    if method.transform is not None:
        given = ("labels", "trained") if method.after else ("labels",)
        _check_takes(method.transform, given, f"method {method.name!r}: `transform`")
    if method.custom_loss is not None:
        classes = len(task.classes) if isinstance(task, ClassificationTask) else None
        _try_loss(method.custom_loss, classes, f"method {method.name!r}: `loss`")


def _check_takes(function: Callable[..., Any], given: tuple[str, ...], where: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of C
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        raise ValueError(f"{where} is called with ({', '.join(given)}): {error}.") from error


def _try_loss(function: Callable[..., Any], classes: int | None, where: str) -> None:
    try:
        loss = as_weak_loss(copy.deepcopy(function))  # it may count its calls
    except TypeError:  # what it holds cannot be copied
        return
    given = ("logits", "votes", "progress", "weights") if loss.needs_votes else ("logits", "targets", "progress")
    _check_takes(loss, given, where)
    rows, k = 4, classes or ANY_CLASSES
    logits = torch.sin(torch.arange(float(rows * k))).reshape(rows, k).requires_grad_()
    targets = torch.cos(torch.arange(float(rows * k))).reshape(rows, k).softmax(-1)
    votes = (torch.stack([targets] * 2, 1), 0.5, torch.full((rows, 2), 0.5))
    try:
        values = loss(logits, *votes) if loss.needs_votes else loss(logits, targets, 0.5)
    except Exception as error:
        if classes is None and not isinstance(error, TypeError):  # it may be for one vocabulary
            return
        raise ValueError(f"{where} raised {error!r} for logits {tuple(logits.shape)}.") from error
    values = checked_values(loss, values, logits)
    if not torch.isfinite(values).all():
        raise ValueError(f"{where} gives {values.tolist()} for ordinary logits; it must give finite numbers.")


def _try_lora(config: StudyConfig, task: str) -> None:
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
