"""Stages of a long run: skipped when done for the same configuration, set aside when the configuration changed.

A stage is a folder with a stamp. Its key is a hash of everything its outcome depends on, the keys of the stages before
it included, so a change anywhere is seen everywhere downstream.
"""

import hashlib
import json
import time
from collections.abc import Callable
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
    """

    name: str
    folder: Path
    spec: Any
    action: Callable[[Path], None]
    after: tuple["Stage", ...] = ()
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

    def run(self) -> None:
        """Do the work, unless it is done. Every process calls this; only the first touches stamps and folders."""
        from trl_weaks.distributed import processes  # loads accelerate; tasks use this file for its fingerprint

        state = processes()
        if self.done():
            return
        state.wait_for_everyone()  # nobody may write the stamp while another still reads it
        if state.is_main_process:
            self._prepare()
        state.wait_for_everyone()
        started = time.time()
        self.action(self.folder)
        state.wait_for_everyone()
        if state.is_main_process:
            seconds = time.time() - started + self.stamp().get("seconds", 0.0)
            self._write(complete=True, seconds=seconds)
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

    def _write(self, complete: bool, seconds: float) -> None:
        stamp = {"name": self.name, "key": self.key, "complete": complete, "seconds": round(seconds, 2)}
        text = json.dumps(stamp | {"spec": self.spec}, indent=1, default=str)
        write_atomically(self.folder / STAMP, text.encode())
