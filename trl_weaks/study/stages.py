"""Stages of a long run: skipped when done for the same configuration, set aside when the configuration changed.

A stage is a folder with a stamp. Its key is a hash of everything its outcome depends on, the keys of the stages before
it included, so a change anywhere is seen everywhere downstream. Where the data give a stage nothing to work on, its
stamp keeps the reason, and what comes after it is not run either.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_weaks.study.files import write_atomically

STAMP = "stage.json"


def fingerprint(spec: Any) -> str:
    """Content hash of a JSON-serialisable value, 16 hexadecimal digits."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


@dataclass(eq=False)
class Stage:
    """One folder of a run.

    Args:
        name: what the progress bar and the report call it.
        folder: where its outcome goes; owned by this stage alone.
        spec: everything the outcome depends on (JSON-serialisable).
        action: does the work; called with the folder, which may hold a killed run's beginnings of the same key.
        after: stages whose outcomes it reads.
        may_refuse: whether the run goes on without it where it is [`NotComputable`]; see [`let_refuse`].
    """

    name: str
    folder: Path
    spec: Any
    action: Callable[[Path], None]
    after: tuple["Stage", ...] = ()
    may_refuse: bool = False
    key: str = field(init=False)

    def __post_init__(self):
        self.key = fingerprint({"spec": self.spec, "after": [stage.key for stage in self.after]})

    def stamp(self) -> dict[str, Any]:
        path = self.folder / STAMP
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def done(self) -> bool:
        stamp = self.stamp()
        return stamp.get("key") == self.key and bool(stamp.get("complete"))

    def refusal(self) -> str | None:
        """Why the data do not allow it, or a stage before it, as the stamp says; None where nothing refuses."""
        if not self.may_refuse or self.done():
            return None
        stamp = self.stamp()
        own = stamp.get("refused") if stamp.get("key") == self.key else None
        return own or next(filter(None, (before.refusal() for before in self.after)), None)

    def settled(self) -> bool:
        """Whether there is nothing left to run."""
        return self.done() or self.refusal() is not None

    def run(self) -> None:
        """Do the work, unless it is settled. Every process calls this; only the first touches stamps and folders.

        Raises:
            NotComputable: the data do not allow it, and it may not refuse, or several processes share the work: an
                error on some of them would leave the others waiting.
        """
        from trl_weaks.aggregation.base import NotComputable  # these two load much; tasks use this file's fingerprint
        from trl_weaks.distributed import processes

        state = processes()
        if self.settled():
            return
        state.wait_for_everyone()  # nobody may write the stamp while another still reads it
        if state.is_main_process:
            self._prepare()
        state.wait_for_everyone()
        started, refused = time.time(), ""
        try:
            self.action(self.folder)
        except NotComputable as error:
            if not self.may_refuse:
                raise
            if state.num_processes > 1:
                raise NotComputable(
                    f"{self.name}: {error} (One process would leave the row out and go on; several cannot. Leave the "
                    "row out of `methods`, or run this stage in one process.)"
                ) from error
            refused = str(error)
        state.wait_for_everyone()
        if state.is_main_process:
            seconds = time.time() - started + self.stamp().get("seconds", 0.0)
            self._write(complete=not refused, seconds=seconds, refused=refused)
        state.wait_for_everyone()

    def _prepare(self) -> None:
        found = self.stamp()
        if self.folder.exists() and any(self.folder.iterdir()) and found.get("key") != self.key:
            aside = self.folder.with_name(f"{self.folder.name}.{found.get('key', 'unknown')}")
            while aside.exists():
                aside = aside.with_name(aside.name + "_")
            self.folder.rename(aside)  # nothing that was paid for is deleted
            found = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(complete=False, seconds=found.get("seconds", 0.0))

    def _write(self, complete: bool, seconds: float, refused: str = "") -> None:
        stamp = {"name": self.name, "key": self.key, "complete": complete, "seconds": round(seconds, 2)}
        stamp |= {"refused": refused} if refused else {}
        text = json.dumps(stamp | {"spec": self.spec}, indent=1, default=str)
        write_atomically(self.folder / STAMP, text.encode())


def let_refuse(needed: Iterable[Stage], others: Iterable[Stage]) -> None:
    """Let the other stages, and those before them, refuse; but none that a needed one comes after."""
    kept, free = _upstream(needed), _upstream(others)
    for stage in free - kept:
        stage.may_refuse = True


def _upstream(stages: Iterable[Stage]) -> set[Stage]:
    found, waiting = set(), list(stages)
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found.add(stage)
            waiting += stage.after
    return found
