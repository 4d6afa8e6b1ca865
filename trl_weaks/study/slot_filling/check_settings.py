"""The settings of all stages of the slot-filling experiment, tried before the first of them."""

from pathlib import Path
from typing import Any

from trl_weaks.study.pipeline.check_settings import try_lora, try_settings, trying
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.study.slot_filling import methods
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.pretrain import pretraining_settings, weak_plan
from trl_weaks.study.slot_filling.training import GOLD, KEEP_BEST, gold_settings, method_settings
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_supervision_config import WeakSupervisionConfig


def check_settings(config: SlotFillingConfig) -> None:
    """
    Raises:
        ValueError: settings of a stage to run that its trainer would refuse; names them.
    """
    folder, stages = Path(config.output_dir), set(config.stages)
    with trying():
        if "pretrain" in stages and config.student_model.startswith(TINY):
            _check_pretraining("pretraining", config.pretraining or {}, folder)
        if "pretrain" in stages and config.weak_pretraining:
            _check_pretraining("weak_pretraining", weak_plan(config), folder)
        if "weak" in stages:
            own = method_settings(GOLD) | KEEP_BEST
            try_settings("weak_training", WeakSupervisionConfig, config.weak_training or {}, folder, own, decided=own)
        if stages & {"student", "ceiling"}:
            _check_student(config, folder)
        if "preference" in stages:
            try_settings("preference_training", WeakPreferenceConfig, config.preference_training or {}, folder)


def _check_pretraining(name: str, plan: dict[str, Any], folder: Path) -> None:
    own = method_settings(GOLD)
    try_settings(f"{name}: training", WeakSupervisionConfig, pretraining_settings(plan), folder, own, decided=own)


def _check_student(config: SlotFillingConfig, folder: Path) -> None:
    settings, name = config.student_training or {}, "student_training"
    decided = ("weak_loss", "soft_labels")
    try_settings(name, WeakSupervisionConfig, settings, folder, decided=decided)
    for method in methods.choose(config.methods, config.supervisor_names):
        try_settings(name, WeakSupervisionConfig, settings, folder, method_settings(method))
    try_settings(name, WeakSupervisionConfig, gold_settings(settings), folder, method_settings(GOLD))
    try_lora(config, "CAUSAL_LM")
