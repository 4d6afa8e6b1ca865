"""The order of stages and the time that is left, against a clock that runs them one event at a time."""

import itertools
import random
import re

import pytest

from trl_weaks.study import time_left
from trl_weaks.study.stages import Stage
from trl_weaks.study.time_left import StageBar, longest_chains, measured_speed, seconds_left
from trl_weaks.study.workers import run_stages


def stage(tmp_path, name, cost, after=(), seconds=None):
    made = Stage(name, tmp_path / name, {}, lambda folder: None, tuple(after), cost)
    if seconds is not None:
        made.folder.mkdir()
        made._write(complete=True, seconds=seconds)
    return made


def paths(stages, start):
    """All chains of stages from `start` on, by brute force over every selection of stages."""
    others = [s for s in stages if s is not start]
    for size in range(len(others) + 1):
        for rest in itertools.permutations(others, size):
            chain = (start, *rest)
            if all(one in two.after for one, two in itertools.pairwise(chain)):
                yield chain


def test_chains_are_the_costliest_of_all_chains(tmp_path):
    for seed in range(5):
        rng, stages = random.Random(seed), []
        for number in range(6):
            after = [s for s in stages if rng.random() < 0.4]
            stages.append(stage(tmp_path, str(number), rng.randint(1, 20), after))
        rng.shuffle(stages)
        chains = longest_chains(stages)
        for one in stages:
            assert chains[one.folder] == max(sum(s.cost for s in path) for path in paths(stages, one))


def clock(stages, workers, order):
    """Seconds until all stages are done, each begun as soon as a worker and those before it allow."""
    now, running, done, waiting = 0.0, [], set(), sorted(stages, key=order)
    while waiting or running:
        for one in [s for s in waiting if all(before in done for before in s.after)][: workers - len(running)]:
            waiting.remove(one)
            running.append((now + one.cost, one.name, one))
        running.sort()
        now, _, first = running.pop(0)
        done.add(first)
    return now


def test_the_longest_chain_begins_first(tmp_path):
    """The demo's shape: the last student of the list has the preference stage behind it."""
    students = [stage(tmp_path, f"student{i}", 40) for i in range(5)]
    students.append(stage(tmp_path, "last", 40))
    preferred = stage(tmp_path, "cdpo", 72, [students[-1]])
    stages = [*students, preferred, stage(tmp_path, "evaluate", 4, [preferred])]
    chains = longest_chains(stages)
    in_list_order = clock(stages, 2, stages.index)
    by_chains = clock(stages, 2, lambda s: -chains[s.folder])
    assert (in_list_order, by_chains) == (120 + 72 + 4, 160)


@pytest.fixture
def began(monkeypatch):
    """Names of stages in the order in which they were begun; two of them at a time, each in a process."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    names = []
    monkeypatch.setattr(StageBar, "show", lambda self, waiting, running: names.extend(s.name for s in running))
    return names


def test_run_stages_begins_with_the_longest_chain(tmp_path, began):
    a, b, c = (stage(tmp_path, name, 10) for name in "abc")
    stages = [a, b, c, stage(tmp_path, "after c", 5, [c]), stage(tmp_path, "after b", 5, [b])]
    run_stages(stages, workers=2)
    assert list(dict.fromkeys(began))[:2] == ["b", "c"] and set(began) == {s.name for s in stages}


def test_costs_are_believed_until_something_is_measured(tmp_path):
    a, b = stage(tmp_path, "a", 30), stage(tmp_path, "b", 50)
    assert measured_speed([], {a: 0.0}, in_seconds=True) == 1.0
    assert measured_speed([], {a: 9.0}, in_seconds=False) is None
    assert seconds_left([b], {a: 10.0}, 1.0, workers=2) == (50.0, 70.0)
    assert seconds_left([b], {a: 10.0}, 1.0, workers=1) == (70.0, 70.0)


def test_a_chain_takes_its_time_however_many_workers_there_are(tmp_path):
    a = stage(tmp_path, "a", 30)
    b = stage(tmp_path, "b", 50, [a])
    c = stage(tmp_path, "c", 8, [b])
    assert seconds_left([b, c], {a: 10.0}, 2.0, workers=4) == (50.0 + 100.0 + 16.0, 166.0)
    assert seconds_left([b, c], {a: 90.0}, 2.0, workers=4) == (116.0, 116.0)  # overdue: it ends any moment


def test_what_was_measured_corrects_the_costs(tmp_path):
    slow = stage(tmp_path, "slow", 100, seconds=300)
    assert measured_speed([slow], {}, in_seconds=False) == 3.0
    assert measured_speed([slow], {}, in_seconds=True) == pytest.approx((300 + 20) / (100 + 20))
    running = stage(tmp_path, "running", 40)
    assert measured_speed([slow], {running: 10.0}, in_seconds=False) == 3.0
    assert measured_speed([slow], {running: 400.0}, in_seconds=False) == 700 / 140  # it takes that long at least


def test_an_estimate_is_as_good_as_its_costs(tmp_path):
    """Costs half the truth, everywhere: once a tenth is done, the time left is right within a fifth."""
    done = stage(tmp_path, "done", 50, seconds=100)
    waiting = [stage(tmp_path, str(i), 45) for i in range(10)]
    left, _ = seconds_left(waiting, {}, measured_speed([done], {}, in_seconds=False), workers=2)
    assert left == 450.0
    left, _ = seconds_left(waiting, {}, measured_speed([done], {}, in_seconds=True), workers=2)
    assert 0.8 * 450 < left < 450


@pytest.fixture
def seconds(monkeypatch):
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    return now


def lines(capsys):
    return [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]


def test_the_bar_says_what_runs_and_what_is_left(tmp_path, capsys, seconds):
    a, b = stage(tmp_path, "a", 30), stage(tmp_path, "b", 50)
    with StageBar([a, b], [], workers=1, in_seconds=True) as bar:
        bar.show([b], {a: 1000.0})
        seconds[0] += 15
        bar.show([b], {a: 1000.0})  # nothing changed, and no terminal: not written
        seconds[0] += 15
        stage(tmp_path, "a", 30, seconds=30)
        bar.show([], {b: 1030.0})
        seconds[0] += 40
        bar.show([], {b: 1030.0})
        bar.show([], {})
    found = lines(capsys)
    assert found[0].startswith("starting:   0%|") and "?" not in "".join(found) and ": :" not in "".join(found)
    assert re.match(r"\[1/2\] a:   0%.* elapsed, about 01:20 left", found[1])
    assert re.match(r"\[2/2\] b:  38%.*about 00:50 left", found[2])
    assert re.match(r"\[2/2\] b:  88%.*about 00:10 left", found[3])
    assert re.match(r"\[2/2\] done: 100%.*about 00:00 left", found[4])


def test_a_terminal_is_written_to_once_a_second_and_a_file_twice_a_minute(tmp_path, capsys, seconds, monkeypatch):
    for terminal, most in ((True, 63), (False, 5)):
        monkeypatch.setattr(time_left.sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        a = stage(tmp_path, "a", 30)
        start = seconds[0]
        with StageBar([a], [], workers=1, in_seconds=True) as bar:
            for _ in range(5 * 60):  # as often as the run looks after its stages
                bar.show([], {a: start})
                seconds[0] += 0.2
        assert most - 3 <= len(lines(capsys)) <= most


def test_nothing_is_claimed_where_costs_are_no_seconds(tmp_path, capsys, seconds):
    a, b = stage(tmp_path, "a", 3), stage(tmp_path, "b", 5)
    with StageBar([a, b], [], workers=1, in_seconds=False) as bar:
        bar.show([b], {a: 1000.0})
        stage(tmp_path, "a", 3, seconds=6)
        bar.show([], {b: 1000.0})
    first, second = lines(capsys)[1:3]
    assert first.rstrip().endswith("time left not known yet") and second.rstrip().endswith("about 00:10 left")
