"""Stages side by side end as they do one after the other, and what goes wrong is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from trl_weaks.aggregation import NotComputable
from trl_weaks.study.stages import Stage, let_refuse
from trl_weaks.study.workers import LOG, chain_lengths, possible_workers, run_stages


def stage(tmp_path, name, action=None, after=()):
    def work(folder):
        print("at work on", name)
        (folder / "found.json").write_text(json.dumps((action or (lambda: None))()))

    return Stage(name, tmp_path / name, {}, work, after)


def test_independent_stages_overlap_and_dependent_ones_wait(tmp_path):
    """Each of two waits until it sees the other at work; the third finds both done."""

    def meet(mine, other):
        (tmp_path / mine).touch()
        _appears(tmp_path / other)

    a = stage(tmp_path, "a", lambda: meet("a at work", "b at work"))
    b = stage(tmp_path, "b", lambda: meet("b at work", "a at work"))
    c = stage(tmp_path, "c", lambda: a.done() and b.done(), after=(a, b))
    run_stages([a, c, b, stage(tmp_path, "a")], workers=2)
    assert all(one.done() for one in (a, b, c))
    assert json.loads((c.folder / "found.json").read_text()) is True
    assert (a.folder / LOG).read_text() == "at work on a\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_continued_run_counts_what_is_done_already(tmp_path, capsys, workers):
    done = stage(tmp_path, "done")
    run_stages([done])
    assert "| 0/1 [" in capsys.readouterr().err
    run_stages([done, stage(tmp_path, "left", after=(done,))], workers)
    shown = capsys.readouterr().err
    assert "| 1/2 [" in shown and "| 2/2 [" in shown and "| 0/" not in shown


def test_the_longest_chain_begins_first(tmp_path):
    short, first = stage(tmp_path, "short"), stage(tmp_path, "first")
    second = stage(tmp_path, "second", after=(first,))
    third = stage(tmp_path, "third", after=(second, short))
    chains = chain_lengths([short, first, second, third])
    assert [chains[s.folder] for s in (short, first, second, third)] == [2, 3, 2, 1]


def test_bad_input_is_told_by_its_own_words_and_the_neighbour_is_finished(tmp_path):
    """The neighbour begins before the other fails and ends after it is missed, on a machine of any speed."""
    failing, at_work = tmp_path / "failing.pid", tmp_path / "good at work"

    def bad():
        _appears(at_work)
        failing.with_suffix(".begun").write_text(str(os.getpid()))
        failing.with_suffix(".begun").rename(failing)
        raise ValueError("row 3: no prompt")

    def outlive():
        at_work.touch()
        _appears(failing)
        while _is_a_process(int(failing.read_text())):  # until the run has asked for its exit code
            time.sleep(0.01)

    good, last = stage(tmp_path, "good", outlive), stage(tmp_path, "last")
    with pytest.raises(ValueError, match="row 3: no prompt"):
        run_stages([stage(tmp_path, "bad", bad), good, last], workers=2)
    assert good.done() and not last.done()


def _appears(path):
    while not path.exists():
        time.sleep(0.01)


def _is_a_process(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: 1 / 0, "'broken' failed: ZeroDivisionError.*log.txt"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "'broken' was killed"),
    ],
)
def test_a_broken_stage_is_named_with_its_log(tmp_path, action, message):
    with pytest.raises(RuntimeError, match=message) as failure:
        run_stages([stage(tmp_path, "broken", action)], workers=2)
    log = str(failure.value).partition("See ")[2].partition(";")[0]
    assert "at work on broken" in Path(log).read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_that_nobody_runs_is_missed_before_any_work(tmp_path, workers):
    other, b = stage(tmp_path, "other"), stage(tmp_path, "b", after=(stage(tmp_path, "a"),))
    with pytest.raises(ValueError, match="'b' needs the stage 'a', which is not among those to run"):
        run_stages([other, b], workers)
    assert not other.done()
    stage(tmp_path, "a").run()
    run_stages([other, b], workers)
    assert b.done()


def test_side_by_side_what_comes_after_a_refusal_is_left_out_and_the_rest_goes_on(tmp_path):
    def refuse():
        raise NotComputable("nothing to weigh")

    first = stage(tmp_path, "first")
    view = stage(tmp_path, "view", refuse, after=(first,))
    student = stage(tmp_path, "student", after=(view,))
    answers = stage(tmp_path, "answers", after=(student,))
    plain = stage(tmp_path, "plain", after=(first,))
    let_refuse([plain], [answers])
    run_stages([first, view, student, answers, plain], workers=2)
    assert plain.done() and not (student.done() or answers.done() or student.folder.exists())
    assert answers.refusal() == "nothing to weigh" and "at work on view" in (view.folder / LOG).read_text()
    lone = stage(tmp_path, "lone", refuse)
    let_refuse([], [lone])
    run_stages([lone], workers=2)
    assert lone.refusal() == "nothing to weigh"
    with pytest.raises(ValueError, match="nothing to weigh"):
        run_stages([stage(tmp_path, "needed", refuse)], workers=2)


def test_stages_end_with_a_killed_run(tmp_path):
    program = f"""
import os
import time
from pathlib import Path
from trl_weaks.study.stages import Stage
from trl_weaks.study.workers import run_stages
def work(folder):
    for _ in range(600):
        (folder / "beat").write_text(str(time.time()))
        time.sleep(0.05)
os.sched_getaffinity = lambda _: {{0, 1}}
run_stages([Stage("a", Path({str(tmp_path)!r}) / "a", {{}}, work)], workers=2)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (tmp_path / "a" / "beat").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    time.sleep(2)
    last = (tmp_path / "a" / "beat").read_text()
    time.sleep(0.5)
    assert (tmp_path / "a" / "beat").read_text() == last


def test_stages_share_cores_but_no_gpu_and_no_process_group(monkeypatch):
    with pytest.raises(ValueError, match="at least 1"):
        possible_workers(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert [possible_workers(n) for n in (1, 2, 8)] == [1, 2, 3]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert possible_workers(8) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("trl_weaks.study.workers.processes", lambda: SimpleNamespace(num_processes=2))
    assert possible_workers(8) == 1
