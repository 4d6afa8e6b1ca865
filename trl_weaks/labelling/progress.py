"""One progress bar over all processes, through small files beside the shards; and waiting without a timeout."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from ..distributed import processes
from .store import LabelStoreError, refused

POLL = 0.5  # seconds between looks at what the others did


def bar(total: int | None, description: str, unit: str = "prompt") -> tqdm:
    """A progress bar on the first process, shown where the work takes more than a few seconds."""
    return tqdm(total=total, desc=description, unit=unit, delay=3, disable=not processes().is_main_process)


def alone(folder: Path, work: Callable[[], object]) -> None:
    """Let the first process do what may take longer than a collective waits; the others look for a file.

    Args:
        folder: on a disk that all processes see.

    Raises:
        LabelStoreError: in the other processes, where the first one failed; it raises its own error.
    """
    state, signal = processes(), folder / "progress-alone"
    if state.num_processes == 1:
        work()
        return
    if state.is_main_process:
        signal.unlink(missing_ok=True)
    state.wait_for_everyone()  # no file of an earlier run is left
    if state.is_main_process:
        try:
            work()
        except BaseException as error:
            with suppress(OSError):  # the launcher then ends the others
                written = signal.with_suffix(".part")  # an empty file, for a moment, would say that all went well
                written.write_text(f"{type(error).__name__}: {error}")
                written.replace(signal)
            raise
        try:
            signal.touch()
        except OSError as error:
            raise refused(folder, error) from error
    else:
        while not signal.exists():
            time.sleep(POLL)
        if signal.stat().st_size:
            raise LabelStoreError(f"the first process stopped. {signal.read_text()}")
    state.wait_for_everyone()
    if state.is_main_process:
        signal.unlink()


class Progress:
    """Prompts done by all processes, shown by the first with the time left.

    Args:
        folder: on a disk that all processes see.
        total: prompts (or other units) to do, over all processes.
    """

    def __init__(self, folder: Path, total: int, description: str, unit: str = "prompt"):
        self.state, self.folder, self.done = processes(), folder, 0
        self.bar = tqdm(total=total, desc=description, unit=unit, disable=not self.state.is_main_process)
        self._write(finished=False)
        self.state.wait_for_everyone()  # no file of an earlier run is left

    def advance(self, prompts: int) -> None:
        """Count prompts that this process has done."""
        self.done += prompts
        self._write(finished=False)
        if self.state.is_main_process:
            self._show()

    def finish(self) -> None:
        """Wait until every process has done its share; collective timeouts do not apply."""
        self._write(finished=True)
        while not all(finished for _, finished in self._read()):
            time.sleep(POLL)
            self._show()
        self._show()
        self.bar.close()
        self.state.wait_for_everyone()
        self._path(self.state.process_index).unlink()

    def _show(self) -> None:
        self.bar.n = sum(done for done, _ in self._read())
        self.bar.refresh()

    def _path(self, rank: int) -> Path:
        return self.folder / f"progress-{rank}"

    def _write(self, finished: bool) -> None:
        temporary = self.folder / f"progress-{self.state.process_index}.new"
        try:
            temporary.write_text(f"{self.done} {int(finished)}")
            temporary.replace(self._path(self.state.process_index))
        except OSError as error:
            raise refused(self.folder, error) from error

    def _read(self) -> list[tuple[int, bool]]:
        parts = [self._path(rank).read_text().split() for rank in range(self.state.num_processes)]
        return [(int(done), finished == "1") for done, finished in parts]
