"""The classification experiment from its settings to its report."""

from pathlib import Path

from trl_weaks.study.classification.check_settings import check_settings
from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.models import ClassifierFactory
from trl_weaks.study.classification.pipeline import ClassificationRun
from trl_weaks.study.classification.pretrain import pretrain_stage
from trl_weaks.study.classification.reporting import write_report
from trl_weaks.study.classification.sources import ClassSource
from trl_weaks.study.pipeline.experiment import run_experiment


def run(config: ClassificationConfig, command: str) -> Path:
    """Run and report; arguments, result and errors as in [`run_experiment`]."""
    if not config.weak_models:
        raise ValueError("`weak_models` is empty. Choose a preset, or name the supervisors.")
    check_settings(config)
    source = ClassSource(config)
    factory = ClassifierFactory(config, len(source.classes))
    return run_experiment(config, source, factory, pretrain_stage, ClassificationRun, write_report, command)
