"""A training killed by SIGKILL, wherever it is, goes on with the same command and ends with the same model."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from safetensors.torch import load_file

from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.data import pretraining
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.students import completions as training
from trl_weaks.study.pipeline.students.training import HISTORY, last_whole_checkpoint
from trl_weaks.study.stages import Stage

TEXTS = [f"play song {word} in the hall" for word in ("one", "two", "three", "four", "five", "six")]
SIZES = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 96}
SETTINGS = {"per_device_train_batch_size": 2, "num_train_epochs": 3, "learning_rate": 1e-2, "logging_steps": 1}


def stage(folder: Path) -> Stage:
    """Nine steps, a checkpoint every three; the epoch of lowest validation loss is kept."""

    def action(folder: Path) -> None:
        factory = ModelFactory(SlotFillingConfig(student_model="tiny:llama", tiny_models={"llama": SIZES}))
        loaded = factory.build("tiny:llama", 0, TEXTS)
        rows = list(pretraining.copying(TEXTS))
        training.train_on_gold(loaded, rows, SETTINGS, folder, 0, validation=rows[:2])

    return Stage("supervisor", folder, {}, action)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_while_saving(when: int) -> None:
    """The trainer's state, the last file of a checkpoint, is half written."""
    from transformers import TrainerState

    plain, calls = TrainerState.save_to_json, []

    def save(self, path):
        calls.append(path)
        plain(self, path)
        if len(calls) == when:
            text = Path(path).read_text(encoding="utf-8")
            Path(path).write_text(text[: len(text) // 2], encoding="utf-8")
            kill()

    TrainerState.save_to_json = save


def killed_before_the_state(when: int) -> None:
    """Weights and optimizer are in the checkpoint, the trainer's state is not."""
    from transformers import Trainer

    plain, calls = Trainer._save_rng_state, []

    def save(self, folder):
        calls.append(folder)
        kill() if len(calls) == when else plain(self, folder)

    Trainer._save_rng_state = save


def killed_in_a_step(when: int) -> None:
    from transformers import Trainer

    plain, calls = Trainer.training_step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        return kill() if len(calls) == when else plain(self, *args, **kwargs)

    Trainer.training_step = step


def killed_while_cleaning_up(when: int) -> None:
    """Training is over; of a checkpoint that is being removed only the weights are gone."""
    from trl_weaks.study.pipeline.students import training

    calls = []

    def remove(folder):
        calls.append(folder)
        (folder / "model.safetensors").unlink()
        if len(calls) == when:
            kill()

    training.shutil = SimpleNamespace(rmtree=remove)  # the trainer's own clearing up goes on as it is


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "supervisor"
    stage(folder).run()
    return folder


@pytest.mark.parametrize(
    ("where", "when", "left"),
    [
        (killed_before_the_state, 1, None),
        (killed_while_saving, 2, "checkpoint-3"),
        (killed_in_a_step, 8, "checkpoint-6"),
        (killed_while_cleaning_up, 1, None),
    ],
)
def test_the_same_command_ends_with_the_same_model(whole, tmp_path, where, when, left):
    program = f"""
from pathlib import Path
import test_killed_training as killed
killed.{where.__name__}({when})
killed.stage(Path({str(tmp_path)!r}) / "supervisor").run()
"""
    dead = processes.run(["-c", program])
    assert dead.returncode == -signal.SIGKILL, dead.stderr[-2000:]
    again = stage(tmp_path / "supervisor")
    assert not again.done() and list(again.folder.glob("checkpoint-*"))
    found = last_whole_checkpoint(again.folder)
    assert (found and Path(found).name) == left
    again.run()
    assert again.done() and not list(again.folder.glob("checkpoint-*"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (again.folder, whole))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    losses = [
        [step["loss"] for step in json.loads((folder / HISTORY).read_text(encoding="utf-8")) if "loss" in step]
        for folder in (again.folder, whole)
    ]
    assert len(losses[0]) == 9 and losses[0] == losses[1]
