"""What is refused: launches that would train something else, and checkpoints of another number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest

from trl_weaks.trainer.common.parallel_checks import (
    ParallelChecks,
    forget_earlier_trainers,
    note_marks,
    refuse_launch,
    refuse_other_strategy,
    refuse_other_world,
    refuse_split_model,
    zero_processes,
)

ROOT = Path(__file__).resolve().parents[2]
CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def settings(**changes):
    defaults = {"fsdp": False, "fsdp_config": None, "parallelism_config": None, "world_size": 1}
    return SimpleNamespace(**defaults | changes)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_USE_CPU": "True"},  # accelerate launch --cpu --num_processes 1
        {"MASTER_ADDR": "node1", "ACCELERATE_USE_CPU": "False"},  # a cluster's job script, one GPU
        CPU | {"WORLD_SIZE": "2", "LOCAL_RANK": "0"},  # torchrun
        CPU | {"PMI_SIZE": "2"},  # mpirun
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
        {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_SP_SIZE": "1"},
    ],
)
def test_sound_launches_pass(environment):
    refuse_launch(settings(world_size=int(environment.get("WORLD_SIZE", 1))), environment)


def test_a_model_split_over_devices_is_refused():
    refuse_split_model(SimpleNamespace(get_tp_size=lambda: 1))
    with pytest.raises(ValueError, match="Tensor parallelism splits the output layer"):
        refuse_split_model(SimpleNamespace(get_tp_size=lambda: 2))


@pytest.mark.parametrize(
    ("args", "environment", "message"),
    [
        ({}, CPU, "starts one process .* --multi_gpu"),
        ({}, {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "2 processes were started, but this one counts 1.*use_cpu=True"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({}, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP1 is deprecated"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, {}, "FSDP1 is deprecated"),
        (
            {"parallelism_config": SimpleNamespace(sp_size=2, cp_size=1, tp_size=1)},
            {},
            "Sequence parallelism .*sp_size=1",
        ),
        (
            {"parallelism_config": SimpleNamespace(sp_size=1, cp_size=2, tp_size=1)},
            {},
            "Context parallelism .*cp_size=1",
        ),
        ({"parallelism_config": SimpleNamespace(sp_size=1, cp_size=1, tp_size=2)}, {}, "Tensor parallelism .*ZeRO-3"),
        (
            {},
            {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_SP_SIZE": "4"},
            "Sequence parallelism",
        ),
    ],
)
def test_unsound_launches_are_refused(args, environment, message):
    with pytest.raises(ValueError, match=message):
        refuse_launch(settings(**args), environment)


REFUSED = """
import tempfile
import trl_weaks
from datasets import Dataset

for kind in ("Supervision", "Classification", "Preference"):
    config, trainer = (getattr(trl_weaks, f"Weak{kind}{part}") for part in ("Config", "Trainer"))
    args = config(tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to="none")
    try:
        trainer(model="no/such-model", args=args, train_dataset=Dataset.from_list([{"text": "a"}]))
    except ValueError as error:
        print(kind, error)
"""


def test_every_trainer_refuses_before_it_loads_a_model():
    """In a process of its own, as accelerate starts it: others' tests leave their launches in the environment."""
    done = processes.run(["-c", REFUSED], **CPU)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "starts one process" in line] == [
        "Supervision",
        "Classification",
        "Preference",
    ], done.stdout


@pytest.mark.distributed
def test_accelerates_cpu_launcher_is_recognised(tmp_path):
    """The real launcher, as it is installed: one process, and the mark by which it is known."""
    script = tmp_path / "show.py"
    script.write_text("import json, os\nprint('ENV' + json.dumps(dict(os.environ)), flush=True)\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    seen = {}
    for count in ("1", "2"):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", count]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(script)]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        lines = [line[3:] for line in out.splitlines() if line.startswith("ENV")]
        assert len(lines) == 1, "accelerate now starts them all: the refusal can go"
        seen[count] = json.loads(lines[0])
    refuse_launch(settings(), seen["1"])
    with pytest.raises(ValueError, match="starts one process"):
        refuse_launch(settings(), seen["2"])


def trainer_of(deepspeed=False, fsdp=False, processes=2, **args):
    """A trainer with these strategies on; `args` are what its settings ask for."""
    return SimpleNamespace(
        args=settings(**{"deepspeed_plugin": None} | args),
        is_deepspeed_enabled=deepspeed,
        is_fsdp_enabled=fsdp,
        accelerator=SimpleNamespace(num_processes=processes),
    )


def test_a_strategy_that_was_not_asked_for_or_is_off_is_refused(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    for sound in (
        trainer_of(),
        trainer_of(deepspeed=True, deepspeed_plugin="plugin"),
        trainer_of(fsdp=True),
    ):
        refuse_other_strategy(sound)
    with pytest.raises(ValueError, match="unset ACCELERATE_USE_CPU"):
        refuse_other_strategy(trainer_of(deepspeed_plugin="plugin"))
    with pytest.raises(ValueError, match="DeepSpeed is on, but these settings do not ask"):
        refuse_other_strategy(trainer_of(deepspeed=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refuse_other_strategy(trainer_of(fsdp=True))
    refuse_other_strategy(trainer_of(processes=1))
    with pytest.raises(ValueError, match="FSDP is configured, but accelerate has turned it off"):
        refuse_other_strategy(trainer_of())


def test_marks_of_earlier_trainers_are_taken_back_and_those_of_the_launch_kept(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    with note_marks():
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as accelerate does for a trainer's own settings
    forget_earlier_trainers()
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ and os.environ["ACCELERATE_USE_FSDP"] == "true"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # by the launcher
    with note_marks():
        pass
    forget_earlier_trainers()
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def zero_checkpoint(folder: Path, ranks: int, prefix: str = "bf16_") -> Path:
    step = folder / "global_step4"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step4")
    for rank in range(ranks):
        (step / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        (step / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
    return folder


@pytest.mark.parametrize("prefix", ["", "bf16_"])
def test_processes_of_a_checkpoint(tmp_path, prefix):
    assert zero_processes(tmp_path) is None
    assert zero_processes(zero_checkpoint(tmp_path / "a", 12, prefix)) == 12
    refuse_other_world(tmp_path / "a", 12)
    refuse_other_world(tmp_path, 3)  # no DeepSpeed checkpoint: nothing to refuse
    with pytest.raises(ValueError, match="written by 12 processes and this run has 3.*--num_processes 12"):
        refuse_other_world(tmp_path / "a", 3)


@pytest.mark.parametrize("resume", [True, "path"])
def test_train_refuses_before_it_loads(tmp_path, resume):
    class Base:
        def train(self, resume_from_checkpoint=None):
            return "trained"

    class Trainer(ParallelChecks, Base):
        def __init__(self, deepspeed, processes):
            self.args, self.is_deepspeed_enabled = SimpleNamespace(output_dir=str(tmp_path)), deepspeed
            self.accelerator = SimpleNamespace(num_processes=processes)

    folder = zero_checkpoint(tmp_path / "checkpoint-4", 2)
    given = True if resume is True else str(folder)
    assert Trainer(True, 2).train(given) == Trainer(False, 1).train(given) == Trainer(True, 1).train() == "trained"
    with pytest.raises(ValueError, match="written by 2 processes"):
        Trainer(True, 1).train(given)
