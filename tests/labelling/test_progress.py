"""One bar over all processes, with the time left."""

import re
from types import SimpleNamespace

import pytest

from trl_weaks import distributed
from trl_weaks.distributed import on_main_process
from trl_weaks.labelling.storage import progress as module
from trl_weaks.labelling.storage.progress import Progress
from trl_weaks.labelling.storage.store import LabelStoreError


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


@pytest.fixture
def process(monkeypatch):
    """`process(rank)` makes this process that one of two; what it waits for, and does, is noted in order."""
    events = []

    def make(rank):
        state = SimpleNamespace(
            num_processes=2, is_main_process=rank == 0, wait_for_everyone=lambda: events.append("collective")
        )
        monkeypatch.setattr(distributed, "processes", lambda: state)
        return events

    return make


def test_the_first_process_works_alone_outside_of_any_collective(process, tmp_path):
    events, signal = process(0), tmp_path / "progress-alone"
    signal.write_text("of a run that was killed")

    def work():
        assert not signal.exists(), "before the others look, the old file is gone"
        events.append("work")

    on_main_process(tmp_path, work)
    assert events == ["collective", "work", "collective"] and not list(tmp_path.iterdir())


def test_the_others_look_for_a_file_however_long_it_takes(process, tmp_path, monkeypatch):
    events, signal = process(1), tmp_path / "progress-alone"
    monkeypatch.setattr(
        distributed.time, "sleep", lambda _: events.append("look") or (len(events) == 4 and signal.touch())
    )
    on_main_process(tmp_path, lambda: pytest.fail("this is the other's work"))
    assert events == ["collective", "look", "look", "look", "collective"]


def test_what_stops_the_first_process_stops_the_others(process, tmp_path):
    def work():
        raise ValueError("every completion is empty")

    process(0)
    with pytest.raises(ValueError, match="every completion is empty"):
        on_main_process(tmp_path, work)
    process(1)
    with pytest.raises(LabelStoreError, match="the first process stopped. ValueError: every completion is empty"):
        on_main_process(tmp_path, work)
