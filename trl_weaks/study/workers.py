"""Runs stages: one after the other, or side by side, several tiny models at once, one on each core."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm.auto import tqdm

from trl_weaks.distributed import processes
from trl_weaks.study.stages import Stage

LOG = "log.txt"  # what a stage printed, in its folder
_LONGEST = 10_000  # characters of a message: more would fill the pipe, which nobody reads while the stage lives


def run_stages(stages: Iterable[Stage], workers: int = 1) -> None:
    """Run stages behind one progress bar, which counts them.

    Args:
        stages: in order; of several with one folder the first counts.
        workers: how many run at once at most, see [`possible_workers`]; 1 runs them here, one after the other.

    Raises:
        ValueError: what a stage raises, a stage needs one that nobody runs, or fewer than one worker.
    """
    workers = possible_workers(workers)
    distinct: dict[Path, Stage] = {}
    for stage in stages:
        distinct.setdefault(stage.folder, stage)
    todo = in_order([stage for stage in distinct.values() if not stage.settled()])
    refuse_missing(todo)
    whole = {"total": len(distinct), "initial": len(distinct) - len(todo)}  # a continued run begins where it stood
    with tqdm(**whole, unit="stage", disable=not processes().is_main_process) as bar:
        if workers > 1:
            run_side_by_side(todo, workers, bar)
            return
        for stage in todo:
            bar.set_description(stage.name)
            stage.run()
            bar.update()


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, each after those among them that it needs, else as they came."""
    by_folder, found = {stage.folder: stage for stage in stages}, {}

    def add(stage: Stage) -> None:
        for before in stage.after:
            if before.folder in by_folder and before.folder not in found:
                add(by_folder[before.folder])
        found.setdefault(stage.folder, stage)

    for stage in stages:
        add(stage)
    return list(found.values())


def refuse_missing(todo: Sequence[Stage]) -> None:
    """
    Raises:
        ValueError: a stage needs the outcome of one that is neither settled nor among those to run; names both.
    """
    coming = {(stage.folder, stage.key) for stage in todo}
    for stage in todo:
        for before in stage.after:
            if (before.folder, before.key) not in coming and not before.settled():
                raise ValueError(
                    f"{stage.name!r} needs the stage {before.name!r}, which is not among those to run, nor done for "
                    "these settings; add it to `stages`."
                )


def possible_workers(most: int) -> int:
    """How many stages can run side by side here, up to `most`: one where they would share a GPU, where several
    processes share each stage already, or where processes cannot be forked; else no more than there are cores.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"`workers` must be at least 1; got {most}.")
    if torch.cuda.is_available() or processes().num_processes > 1 or not hasattr(os, "sched_getaffinity"):
        return 1
    return min(most, len(os.sched_getaffinity(0)))


def chain_lengths(stages: Sequence[Stage]) -> dict[Path, int]:
    """Folder of each stage -> number of stages in the longest chain that begins with it."""
    found: dict[Path, int] = {}

    def length(stage: Stage) -> int:
        if stage.folder not in found:
            followers = [s for s in stages if any(before.folder == stage.folder for before in s.after)]
            found[stage.folder] = 1 + max(map(length, followers), default=0)
        return found[stage.folder]

    for stage in stages:
        length(stage)
    return found


def run_side_by_side(todo: Sequence[Stage], workers: int, bar: tqdm) -> None:
    """Run stages as soon as those before them are done, at most `workers` at once, each in a process of its own.

    Of the stages that could begin, the one with the longest chain of stages behind it does, so that no long chain is
    left for the end, when the other workers have nothing to do. This process only waits, so that a fork finds no
    thread of it at work. What a stage prints goes to `log.txt` in its folder.

    Raises:
        ValueError: what a stage raised for bad input, or a stage needs one that nobody runs.
        RuntimeError: a stage broke otherwise, or was killed; the others that ran beside it were finished first.
    """
    context, chains = get_context("fork"), chain_lengths(todo)
    waiting = sorted(todo, key=lambda stage: -chains[stage.folder])
    running: dict[Stage, tuple[BaseProcess, Connection]] = {}
    failure: Exception | None = None
    while running or (waiting and failure is None):
        ready = [s for s in waiting if all(before.done() for before in s.after)] if failure is None else []
        for stage in ready[: workers - len(running)]:
            waiting.remove(stage)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(stage, os.getpid(), workers, sender), daemon=True)
            process.start()
            sender.close()
            running[stage] = (process, receiver)
        if not running:
            refuse_missing(waiting)
            raise RuntimeError(f"{waiting[0].name!r} depends on a stage whose output is missing.")
        bar.set_description(" | ".join(stage.name for stage in running))
        ended = wait([process.sentinel for process, _ in running.values()])
        for stage, (process, receiver) in list(running.items()):
            if process.sentinel in ended:
                process.join()  # it is alive a moment longer than its sentinel
                del running[stage]
                bar.update()
                failure = failure or _failure(stage, process, receiver)
        refused = [stage for stage in waiting if stage.refusal()]  # by one that just ended, or by one before it
        waiting = [stage for stage in waiting if stage not in refused]
        bar.update(len(refused))
    if failure is not None:
        raise failure


def _failure(stage: Stage, process: BaseProcess, receiver: Connection) -> Exception | None:
    process.join()
    if process.exitcode == 0:
        return None
    begun = _begun_log(stage)  # left there by a stage that was killed, or failed before it had a folder
    where = f"See {begun if begun.exists() else stage.folder / LOG}; the same command continues."
    try:
        bad_input, text = receiver.recv()
    except EOFError:
        return RuntimeError(f"Stage {stage.name!r} was killed (exit code {process.exitcode}). {where}")
    return ValueError(text) if bad_input else RuntimeError(f"Stage {stage.name!r} failed: {text}. {where}")


def _work(stage: Stage, parent: int, workers: int, sender: Connection) -> None:
    """In the child: run the stage with its share of the cores, and tell the parent what went wrong."""
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    stage.folder.parent.mkdir(parents=True, exist_ok=True)
    log = _begun_log(stage)
    with open(log, "a", encoding="utf-8", buffering=1) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        try:
            stage.run()
        except BaseException as error:
            traceback.print_exc()
            bad_input = isinstance(error, ValueError | OSError)
            text = str(error) if bad_input else repr(error)
            sender.send((bad_input, text[:_LONGEST]))
            sys.exit(1)
        finally:
            if stage.folder.is_dir():
                log.replace(stage.folder / LOG)


def _begun_log(stage: Stage) -> Path:
    """Where a stage prints while it runs: beside its folder, which it may still set aside."""
    return stage.folder.parent / f".{stage.folder.name}.{LOG}"


def _exit_with_parent(parent: int) -> None:
    """Exit with the parent, so that an orphan never runs beside its restart."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
