"""What a run still has to do, and about how long it takes: for the order of its stages, and for the one who waits."""

import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from trl_weaks.distributed import processes
from trl_weaks.study.stages import Stage

STANDARD = 20.0  # seconds at the costs' own speed, averaged with what was measured: a short stage is no proof
EVERY = 1.0  # seconds between two updates on a terminal
EVERY_IN_A_FILE = 30.0


def longest_chains(stages: Collection[Stage]) -> dict[Path, float]:
    """Folder of each stage -> its cost and that of the costliest chain of stages that wait for it."""
    found: dict[Path, float] = {}

    def length(stage: Stage) -> float:
        if stage.folder not in found:
            followers = [s for s in stages if any(before.folder == stage.folder for before in s.after)]
            found[stage.folder] = stage.cost + max(map(length, followers), default=0.0)
        return found[stage.folder]

    for stage in stages:
        length(stage)
    return found


def measured_speed(finished: Iterable[Stage], running: Mapping[Stage, float], in_seconds: bool) -> float | None:
    """Seconds that a unit of cost takes here, from the stages that are done and those that run already for longer.

    Args:
        finished: stages that are done; how long they took stands in their stamps.
        running: stage -> seconds since it began.
        in_seconds: whether costs are seconds, though of another machine.

    Returns:
        `None` where nothing is known yet.
    """
    done = [(stage.cost, stage.stamp().get("seconds", 0.0)) for stage in finished]
    cost, seconds = (sum(column) for column in zip((0.0, 0.0), *done, strict=True))
    if in_seconds:
        cost, seconds = cost + STANDARD, seconds + STANDARD
    if not cost:
        return None
    begun_cost, begun = cost + sum(stage.cost for stage in running), seconds + sum(running.values())
    return max(seconds / cost, begun / begun_cost)


def seconds_left(
    waiting: Sequence[Stage], running: Mapping[Stage, float], speed: float, workers: int
) -> tuple[float, float]:
    """What is left, about: never less than its longest chain of stages, which wait for each other.

    Args:
        waiting: stages not begun.
        running: stage -> seconds since it began.
        speed: seconds that a unit of cost takes, see [`measured_speed`].
        workers: stages that run at once.

    Returns:
        Seconds on the clock, and seconds of work of all workers together.
    """
    rest = {stage: max(speed * stage.cost - since, 0.0) for stage, since in running.items()}
    rest |= {stage: speed * stage.cost for stage in waiting}
    chains = longest_chains(list(rest))
    chain = max((rest[s] + speed * (chains[s.folder] - s.cost) for s in rest), default=0.0)
    work = sum(rest.values())
    return max(work / workers, chain), work


class StageBar:
    """One progress bar for all stages of a run.

    Args:
        todo: the stages to run.
        done: stages of the same run that are done already: they tell how fast this machine is.
        workers: stages that run at once.
        in_seconds: whether costs are seconds of a core; else no time is told before the first stage is done.
    """

    def __init__(self, todo: Sequence[Stage], done: Iterable[Stage], workers: int, in_seconds: bool):
        self._todo, self._done, self._workers, self._in_seconds = list(todo), list(done), workers, in_seconds
        self._every = EVERY if sys.stderr.isatty() else EVERY_IN_A_FILE
        self._text, self._written = "starting", time.monotonic()
        self._bar = tqdm(
            total=sum(stage.cost for stage in todo),
            desc=self._text,
            bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {elapsed} elapsed{postfix}",
            disable=not processes().is_main_process,
        )

    def __enter__(self) -> "StageBar":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def show(self, waiting: Sequence[Stage], running: Mapping[Stage, float]) -> None:
        """Tell what runs and what is left; written at once where other stages run than before, else now and then.

        Args:
            waiting: stages not begun.
            running: stage -> when it began, `time.monotonic()`.
        """
        now, total = time.monotonic(), len(self._todo)
        text = f"[{total - len(waiting)}/{total}] {' | '.join(stage.name for stage in running) or 'done'}"
        if text == self._text and now - self._written < self._every:
            return
        self._text, self._written = text, now
        since = {stage: now - began for stage, began in running.items()}
        finished = [stage for stage in self._todo if stage not in running and stage not in waiting]
        speed = measured_speed([*self._done, *finished], since, self._in_seconds)
        if speed is None:
            share, told = sum(stage.cost for stage in (*waiting, *running)), "time left not known yet"
        else:
            left, work = seconds_left(waiting, since, speed, self._workers)
            share, told = work / speed, f"about {tqdm.format_interval(left)} left"
        self._bar.n = max(self._bar.n, self._bar.total - share)
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.set_description_str(text)
