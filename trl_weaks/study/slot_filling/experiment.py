"""The slot-filling experiment from its settings to its report."""

from pathlib import Path

from trl_weaks.study.pipeline.experiment import run_experiment
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.slot_filling.check_settings import check_settings
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.pipeline import SlotFillingRun
from trl_weaks.study.slot_filling.pretrain import pretrain_stage
from trl_weaks.study.slot_filling.reporting import write_report
from trl_weaks.study.slot_filling.sources import Source


def run(config: SlotFillingConfig, command: str) -> Path:
    """Run and report; arguments, result and errors as in [`run_experiment`]."""
    check_settings(config)
    factory = ModelFactory(config)
    return run_experiment(config, Source(config), factory, pretrain_stage, SlotFillingRun, write_report, command)
