"""SIGKILL while labelling, full disks, several processes: the final dataset is the same to the last byte."""

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("labelling_run.py")
PROMPTS = 24
LIMIT = 900  # seconds for one run, generous for a crowded machine
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no"]
LAUNCH = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]}


def command(folder: Path, processes: int, prompts: int) -> list[str]:
    return [sys.executable, *LAUNCH[processes], str(SCRIPT), str(folder), str(prompts)]


def start(folder: Path, processes: int, prompts: int, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command(folder, processes, prompts),
        **{"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options,
    )


def finish(folder: Path, processes: int = 1, prompts: int = PROMPTS, **options) -> tuple[int, str]:
    run = start(folder, processes, prompts, **options)
    output, _ = run.communicate(timeout=LIMIT)
    return run.returncode, output


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "labels").glob("shard-*.jsonl"))


def kill_when(folder: Path, processes: int, prompts: int, reached: Callable[[], bool]) -> bool:
    """SIGKILL the launcher and all its workers (which have sessions of their own); False if the run ended before."""
    run, end = start(folder, processes, prompts, stdout=subprocess.DEVNULL), time.monotonic() + LIMIT
    while run.poll() is None and not reached() and time.monotonic() < end:
        time.sleep(0.002)
    if run.poll() is not None:
        return False
    launcher = psutil.Process(run.pid)
    family = [launcher, *launcher.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=LIMIT)
    return True


def kill_after(folder: Path, processes: int, prompts: int, more: int) -> bool:
    """Kill a run once it has written `more` bytes of labels."""
    goal = written(folder) + more
    return kill_when(folder, processes, prompts, lambda: written(folder) >= goal)


def dataset_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "dataset").iterdir())} | {
        "card": (folder / "README.md").read_bytes()
    }


def break_and_continue(tmp_path: Path, kills: int, prompts: int) -> None:
    code, output = finish(tmp_path / "unbroken", 1, prompts)
    assert code == 0, output
    draw, whole = random.Random(0), written(tmp_path / "unbroken")
    killed = 0
    for attempt in range(kills):
        processes = 1 + attempt % 2
        killed += kill_after(tmp_path / "broken", processes, prompts, draw.randrange(1, max(2, whole // kills)))
    assert killed == kills, "the kills must fall into the run"
    half = tmp_path / "broken" / "dataset.new"
    assert kill_when(tmp_path / "broken", 1, prompts, half.exists), "and one into the writing of the dataset"
    assert not (tmp_path / "broken" / "dataset").exists()
    code, output = finish(tmp_path / "broken", 1, prompts)
    assert code == 0, output
    assert len(list((tmp_path / "broken" / "labels").glob("shard-*.jsonl"))) > 1
    assert dataset_bytes(tmp_path / "unbroken") == dataset_bytes(tmp_path / "broken")


def test_killed_twice(tmp_path):
    break_and_continue(tmp_path, kills=2, prompts=PROMPTS)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    break_and_continue(tmp_path, kills=20, prompts=10 * PROMPTS)


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_give_the_same(tmp_path, monkeypatch, launcher):
    if launcher == "accelerate":
        monkeypatch.setitem(LAUNCH, 2, ACCELERATE)
    for processes in (1, 2):
        code, output = finish(tmp_path / str(processes), processes)
        assert code == 0, output
    shards = list((tmp_path / "2" / "labels").glob("shard-*.jsonl"))
    assert len(shards) == 2 and not list((tmp_path / "2" / "labels").glob("progress*"))
    sizes = [shard.stat().st_size for shard in shards]
    assert max(sizes) < 1.3 * min(sizes), "each process labelled its share"
    assert dataset_bytes(tmp_path / "1") == dataset_bytes(tmp_path / "2")


def test_full_disk_keeps_what_was_written(tmp_path):
    """The kernel refuses a file beyond 20 kB, as a full disk would; then there is room again."""
    code, output = finish(
        tmp_path / "run", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)
    )
    assert code != 0 and "Everything labelled so far is kept" in output
    assert 0 < written(tmp_path / "run") <= 20_000
    code, output = finish(tmp_path / "run")
    assert code == 0 and "damaged" not in output, output
    code, output = finish(tmp_path / "unbroken")
    assert dataset_bytes(tmp_path / "unbroken") == dataset_bytes(tmp_path / "run")
