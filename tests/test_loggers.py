"""Where trainings log is the user's choice: nowhere unless asked, and with one setting everywhere in a study."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer, labels_from_completions
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.models.shipped import FOLDER
from trl_weaks.study.pipeline.check_settings import check_loggers
from trl_weaks.study.pipeline.students.training import trainer_settings

ROOT = Path(__file__).resolve().parents[1]


def trained(folder: Path, config: SlotFillingConfig) -> list[str]:
    """Where two updates logged, with the settings that a stage of this study would give."""
    answers = [{"example_id": "1", "supervisor": s, "completion": " jazz"} for s in ("ann", "bob")]
    labels = labels_from_completions([{"example_id": "1", "prompt": "play"}], answers)
    asked = config.training(
        {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "bf16": False}
    )
    args = WeakSupervisionConfig(**trainer_settings(asked, folder / "seed0" / "students" / "naive", seed=0))
    WeakSupervisionTrainer(model=str(FOLDER / "student"), args=args, train_dataset=labels).train()
    return args.report_to


def test_nothing_logs_unless_asked(tmp_path):
    assert trained(tmp_path, SlotFillingConfig()) == [] and not list(tmp_path.rglob("events.*"))


def test_tensorboard_gets_the_losses_of_every_update(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained(tmp_path, SlotFillingConfig(report_to="tensorboard"))
    (written,) = tmp_path.rglob("events.*")
    found = reader.EventAccumulator(str(written.parent)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in found.Scalars("train/weak/confidence")] == [1, 2]


def test_trackio_keeps_a_run_under_the_name_of_the_stage(tmp_path):
    """Offline: it writes a database in its folder, which it reads from the environment when it is imported."""
    code = f"""
from pathlib import Path
from test_loggers import SlotFillingConfig, trained
trained(Path({str(tmp_path)!r}), SlotFillingConfig(report_to="trackio"))
"""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=280)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("SELECT run_name, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _ in rows} == {"seed0/students/naive"}
    assert any("weak/confidence" in str(metrics) for _, metrics in rows)


def test_a_stages_own_choice_is_over_the_studys_and_several_places_have_commas():
    config = SlotFillingConfig(report_to="tensorboard, trackio")
    assert config.training(None) == {"report_to": ["tensorboard", "trackio"]}
    assert config.training({"report_to": "none"}) == {"report_to": "none"}


def test_a_logger_that_is_not_there_is_named_before_anything_runs(monkeypatch):
    with pytest.raises(ValueError, match="`report_to`: nobody logs to 'tensorbord'. Did you mean 'tensorboard'"):
        check_loggers("`report_to`", ["tensorbord"])
    monkeypatch.setattr(
        "trl_weaks.study.pipeline.check_settings.get_available_reporting_integrations", lambda: ["trackio"]
    )
    with pytest.raises(ValueError, match="wandb is not installed"):
        check_loggers("`report_to`", ["trackio", "wandb"])
