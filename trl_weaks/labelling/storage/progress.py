"""One progress bar over all processes, through small files beside the shards."""

import time
from pathlib import Path

from tqdm import tqdm

from ...distributed import POLL, processes
from ...files import refused


def bar(total: int | None, description: str, unit: str = "prompt") -> tqdm:
    """A progress bar on the first process, shown where the work takes more than a few seconds."""
    return tqdm(total=total, desc=description, unit=unit, delay=3, disable=not processes().is_main_process)


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
