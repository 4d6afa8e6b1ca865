"""SIGKILL while labelling, full disks, several processes: the final dataset is the same to the last byte."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import processes
import pytest

SCRIPT = Path(__file__).with_name("labelling_run.py")
PROMPTS = 24
LIMIT = 900  # seconds for one run, generous for a crowded machine
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
                   "--mixed_precision=no", "--dynamo_backend=no"],
}  # fmt: skip
# The kernel refuses a file beyond 20 kB, as a full disk would.
FULL_DISK = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2); del sys.argv[0]; "
FULL_DISK += "runpy.run_path(sys.argv[0], run_name='__main__')"


def start(folder: Path, world: int, prompts: int, first: tuple[str, ...] = ()) -> processes.Started:
    return processes.start([*first, SCRIPT, folder, prompts], world, CUDA_VISIBLE_DEVICES="")


def finish(folder: Path, world: int = 1, prompts: int = PROMPTS, first: tuple[str, ...] = ()) -> tuple[int, str]:
    done = start(folder, world, prompts, first).finish(LIMIT)
    return done.returncode, done.stdout + done.stderr


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "labels").glob("shard-*.jsonl"))


def kill_when(folder: Path, world: int, prompts: int, reached: Callable[[], bool]) -> bool:
    """SIGKILL all processes of a run; False if it ended before."""
    run, end = start(folder, world, prompts), time.monotonic() + LIMIT
    while run.running() and not reached() and time.monotonic() < end:
        time.sleep(0.002)
    if not run.running():
        return False
    run.kill()
    return True


def kill_after(folder: Path, world: int, prompts: int, more: int) -> bool:
    """Kill a run once it has written `more` bytes of labels."""
    goal = written(folder) + more
    return kill_when(folder, world, prompts, lambda: written(folder) >= goal)


def dataset_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "dataset").iterdir())} | {
        "card": (folder / "README.md").read_bytes()
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """What one process makes that nobody stops."""
    folder = tmp_path_factory.mktemp("unbroken")
    code, output = finish(folder)
    assert code == 0, output
    return folder


def break_and_continue(unbroken: Path, tmp_path: Path, kills: int, prompts: int) -> None:
    draw, whole = random.Random(0), written(unbroken)
    killed = 0
    for attempt in range(kills):
        killed += kill_after(tmp_path / "broken", 1 + attempt % 2, prompts, draw.randrange(1, max(2, whole // kills)))
    assert killed == kills, "the kills must fall into the run"
    half = tmp_path / "broken" / "dataset.new"
    assert kill_when(tmp_path / "broken", 1, prompts, half.exists), "and one into the writing of the dataset"
    assert not (tmp_path / "broken" / "dataset").exists()
    code, output = finish(tmp_path / "broken", 1, prompts)
    assert code == 0, output
    assert len(list((tmp_path / "broken" / "labels").glob("shard-*.jsonl"))) > 1
    assert dataset_bytes(unbroken) == dataset_bytes(tmp_path / "broken")


def test_killed_twice(unbroken, tmp_path):
    break_and_continue(unbroken, tmp_path, kills=2, prompts=PROMPTS)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    code, output = finish(tmp_path / "unbroken", 1, 10 * PROMPTS)
    assert code == 0, output
    break_and_continue(tmp_path / "unbroken", tmp_path, kills=20, prompts=10 * PROMPTS)


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", ["accelerate", pytest.param("torchrun", marks=pytest.mark.matrix)])
def test_two_processes_give_the_same(unbroken, tmp_path, launcher):
    environment = processes.plain_environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *LAUNCHERS[launcher], str(SCRIPT), str(tmp_path), str(PROMPTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    shards = list((tmp_path / "labels").glob("shard-*.jsonl"))
    assert len(shards) == 2 and not list((tmp_path / "labels").glob("progress*"))
    sizes = [shard.stat().st_size for shard in shards]
    assert max(sizes) < 1.3 * min(sizes), "each process labelled its share"
    assert dataset_bytes(unbroken) == dataset_bytes(tmp_path)


def test_full_disk_keeps_what_was_written(unbroken, tmp_path):
    """Then there is room again."""
    code, output = finish(tmp_path, first=("-c", FULL_DISK))
    assert code != 0 and "Everything labelled so far is kept" in output
    assert 0 < written(tmp_path) <= 20_000
    code, output = finish(tmp_path)
    assert code == 0 and "damaged" not in output, output
    assert dataset_bytes(unbroken) == dataset_bytes(tmp_path)
