"""Python in processes of their own, forked from one that has imported the libraries once.

A start then takes milliseconds instead of the seconds of importing torch and transformers. What a process changes, its
environment included, ends with it; it can be killed like any other. Several processes find each other as those of
`torchrun` do, through a store that the test holds. The launchers themselves are tried in
`labelling/test_killed_runs.py`, `trainer/test_parallel_checks.py` and `distributed/test_launches.py`.
"""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = [
    "torch.distributed",
    "peft",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.opt.modeling_opt",
    "trl_weaks.cli",
    "trl_weaks.trainer.weak_classification_trainer",
    "trl_weaks.trainer.weak_preference_trainer",
    "trl_weaks.trainer.weak_supervision_trainer",
    "trl_weaks.labelling.label_completions",
]
STUCK = 270  # seconds, within the 300 of `run`
SLICE = 5.0  # seconds: a machine that stood still in between counts as one
LAUNCHES = ("ACCELERATE_", "FSDP_", "MASTER_", "TORCHELASTIC_", "PYTEST_")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def plain_environment() -> dict[str, str]:
    """Without what others' tests, or launches in this process, left behind."""
    return {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHES) and k not in RANKS}


def _work(arguments: list[str], environment: dict[str, str], cwd: str, outputs: tuple[str, str]) -> None:
    """`python ARGUMENTS`: a script, `-m` and a module, or `-c` and code."""
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    faulthandler.dump_traceback_later(STUCK, file=2)  # where it hangs, for whoever reads the error
    gc.freeze()  # no collection looks at what was imported, nor copies its pages
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    how, *rest = arguments
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


class Started:
    """The processes of one run, one for each rank; their outputs are in `folder`."""

    def __init__(self, arguments: list, processes: int, cwd: Path, environment: dict[str, str]):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.arguments, self._folder = [str(a) for a in arguments], tempfile.TemporaryDirectory()
        self.outputs = tuple(str(Path(self._folder.name) / name) for name in ("stdout", "stderr"))
        common = plain_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | environment
        self.processes = []
        for rank in range(processes):
            own = common | (self._rank(rank, processes) if processes > 1 else {})
            given = (self.arguments, own, str(cwd), self.outputs)
            self.processes.append(context.Process(target=_work, args=given))
        for process in self.processes:
            process.start()

    def _rank(self, rank: int, processes: int) -> dict[str, str]:
        """What torchrun puts into the environment; its agent holds the store as this object does."""
        if rank == 0:
            from torch.distributed import TCPStore

            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
        }  # fmt: skip

    def running(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def kill(self) -> None:
        """SIGKILL to every process, as for one that was found too greedy."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def finish(self, timeout: float) -> subprocess.CompletedProcess:
        """Wait for the end; the first failure ends the others, and its status is that of the run."""
        seconds = timeout
        while self.running() and not self._failure():
            left = [process.sentinel for process in self.processes if process.exitcode is None]
            began = time.monotonic()
            ended = wait(left, timeout=min(SLICE, seconds))
            seconds -= min(time.monotonic() - began, SLICE)
            if seconds <= 0 and not ended:
                found = "; ".join(map(self._told, range(len(self.processes))))
                self.kill()
                out, err = self._read()
                raise subprocess.TimeoutExpired(
                    f"{self.arguments}, of which {found}; the stderr ends {err[-3000:]}", timeout, out, err
                )
        code = self._failure()
        self.kill()
        return subprocess.CompletedProcess(self.arguments, code, *self._read())

    def _told(self, rank: int) -> str:
        """Whether a process waits, works, or has ended: what a hang is, and of whom."""
        process = self.processes[rank]
        if process.exitcode is not None:
            return f"rank {rank} ended with {process.exitcode}"
        with contextlib.suppress(psutil.NoSuchProcess):
            seen = psutil.Process(process.pid)
            return f"rank {rank} is {seen.status()} after {seen.cpu_times().user:.1f} s of work"
        return f"rank {rank} is just ending"

    def _failure(self) -> int:
        return next((process.exitcode for process in self.processes if process.exitcode), 0)

    def _read(self) -> list[str]:
        files = [Path(path) for path in self.outputs]
        return [file.read_text(encoding="utf-8", errors="replace") if file.exists() else "" for file in files]


def start(arguments: list, processes: int = 1, cwd: Path = ROOT, **environment: str) -> Started:
    """`python ARGUMENTS` in so many processes, with these variables in the environment too."""
    return Started(arguments, processes, cwd, environment)


def run(
    arguments: list, processes: int = 1, cwd: Path = ROOT, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """The same, waited for; like `subprocess.run` with its output captured as text."""
    return start(arguments, processes, cwd, **environment).finish(timeout)
