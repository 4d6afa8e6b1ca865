"""One bar over all processes, with the time left."""

import re
from types import SimpleNamespace

import pytest

from trl_weaks.labelling import progress as module
from trl_weaks.labelling.progress import Progress


@pytest.fixture
def two(monkeypatch):
    """This process is the first of two."""
    state = SimpleNamespace(process_index=0, num_processes=2, is_main_process=True, wait_for_everyone=lambda: None)
    monkeypatch.setattr(module, "processes", lambda: state)


def test_the_bar_counts_all_processes_and_tells_the_time_left(two, tmp_path, monkeypatch):
    other, now = tmp_path / "progress-1", [0.0]
    other.write_text("0 0")
    progress = Progress(tmp_path, 20, "labelling")
    progress.bar._time, progress.bar.start_t = lambda: now[0], 0.0
    other.write_text("3 0")
    now[0] = 10.0
    progress.advance(2)
    assert progress.bar.n == 5
    assert re.search(r"25%.*5/20 \[00:10<00:30", str(progress.bar)), "5 of 20 took 10 s: 30 s are left"
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        other.write_text("15 0" if len(waits) < 3 else "18 1")

    monkeypatch.setattr(module.time, "sleep", sleep)
    progress.finish()
    assert len(waits) == 3 and progress.bar.n == 20, "it waits until the other is done"
    assert [path.name for path in tmp_path.iterdir()] == ["progress-1"], "each removes its own file"
