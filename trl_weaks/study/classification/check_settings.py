"""The settings of all stages of the classification experiment, tried before the first of them."""

from pathlib import Path

from trl import SFTConfig

from trl_weaks.study.classification import methods
from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.training import ON_GOLD
from trl_weaks.study.pipeline.check_settings import try_lora, try_settings, trying
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig


def check_settings(config: ClassificationConfig) -> None:
    """
    Raises:
        ValueError: settings of a stage to run that its trainer would refuse; names them.
    """
    folder, stages = Path(config.output_dir), set(config.stages)
    with trying():
        if "pretrain" in stages and config.student_model.startswith(TINY):
            settings = (config.pretraining or {}).get("training") or {}
            try_settings("pretraining: training", SFTConfig, settings, folder)
        if "weak" in stages:
            settings = config.weak_training or {}
            try_settings("weak_training", WeakClassificationConfig, settings, folder, ON_GOLD, decided=ON_GOLD)
        if stages & {"student", "ceiling"}:
            settings, name = config.student_training or {}, "student_training"
            try_settings(name, WeakClassificationConfig, settings, folder, decided=("weak_loss",))
            for method in methods.choose(config.methods, config.supervisor_names):
                try_settings(name, WeakClassificationConfig, settings, folder, dict(method.settings))
            try_settings(name, WeakClassificationConfig, settings, folder, ON_GOLD)
            try_lora(config, "SEQ_CLS")
