import json
from types import SimpleNamespace

import pytest

from trl_weaks.aggregation import NotComputable
from trl_weaks.study.report.study import stage_seconds
from trl_weaks.study.stages import STAMP, Stage, fingerprint, let_refuse
from trl_weaks.study.workers import run_stages


def stage(tmp_path, calls, name="a", spec=1, after=(), fail=False):
    def action(folder):
        calls.append(name)
        (folder / "result.txt").write_text(f"{name} {spec}")
        if fail:
            raise RuntimeError("killed")

    return Stage(name, tmp_path / name, {"spec": spec}, action, after)


def test_fingerprints_see_content_not_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_done_stage_is_skipped(tmp_path):
    calls = []
    stage(tmp_path, calls).run()
    again = stage(tmp_path, calls)
    assert again.done()
    again.run()
    assert calls == ["a"]


def test_seconds_are_summed_over_seeds_but_not_over_what_they_share(tmp_path):
    shared, of_seeds = [], []
    for seed in ("seed-0", "seed-1"):
        shared.append(stage(tmp_path, [], "base"))
        of_seeds.append(Stage("student", tmp_path / seed, {}, lambda folder: None))
    for one, seconds in zip([shared[0], *of_seeds], (5.0, 1.0, 2.0), strict=True):
        one.run()
        stamp = one.folder / STAMP
        stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"seconds": seconds}))
    assert stage_seconds([shared[0], *shared, *of_seeds]) == {"base": 5.0, "student": 3.0}


def test_a_changed_configuration_runs_again_and_keeps_the_old_outcome(tmp_path):
    calls = []
    old = stage(tmp_path, calls)
    old.run()
    new = stage(tmp_path, calls, spec=2)
    assert not new.done()
    new.run()
    assert (tmp_path / "a" / "result.txt").read_text() == "a 2"
    assert (tmp_path / f"a.{old.key}" / "result.txt").read_text() == "a 1"


def test_a_change_is_seen_downstream(tmp_path):
    calls = []
    first = stage(tmp_path, calls)
    second = stage(tmp_path, calls, "b", after=(first,))
    run_stages([first, second])
    changed = stage(tmp_path, calls, spec=2)
    assert second.key != stage(tmp_path, calls, "b", after=(changed,)).key
    run_stages([changed, stage(tmp_path, calls, "b", after=(changed,))])
    assert calls == ["a", "b", "a", "b"]


def test_a_killed_stage_runs_again_in_the_folder_it_left(tmp_path):
    calls = []
    with pytest.raises(RuntimeError):
        stage(tmp_path, calls, fail=True).run()
    again = stage(tmp_path, calls)
    assert not again.done()
    assert (tmp_path / "a" / "result.txt").exists()  # beginnings are there to be resumed
    again.run()
    assert again.done() and calls == ["a", "a"]
    assert not list(tmp_path.glob("a.*"))


def test_a_broken_stamp_counts_as_not_done(tmp_path):
    calls = []
    first = stage(tmp_path, calls)
    first.run()
    (first.folder / STAMP).write_text("{")
    assert not first.done()
    stage(tmp_path, calls).run()
    assert json.loads((first.folder / STAMP).read_text())["complete"]


def refusing(tmp_path, calls, name="view", spec=1, after=()):
    def action(folder):
        calls.append(name)
        raise NotComputable(f"{name} has nothing to weigh")

    return Stage(name, tmp_path / name, {"spec": spec}, action, after)


def test_a_stage_that_may_refuse_is_not_tried_again_until_its_key_changes(tmp_path):
    calls = []

    def stages(spec=1):
        labels, other = stage(tmp_path, calls, "labels"), stage(tmp_path, calls, "other")
        view = refusing(tmp_path, calls, spec=spec, after=(labels,))
        student = stage(tmp_path, calls, "student", after=(view,))
        plain = stage(tmp_path, calls, "plain", after=(labels,))
        let_refuse([plain, other], [student])
        return [labels, view, student, plain, other]

    for _ in range(2):
        found = stages()
        run_stages(found)
        assert [one.may_refuse for one in found] == [False, True, True, False, False]
        assert calls == ["labels", "view", "plain", "other"]
        assert [one.refusal() for one in found] == [None, *["view has nothing to weigh"] * 2, None, None]
        assert [one.done() for one in found] == [True, False, False, True, True]
        assert all(one.settled() for one in found) and not (tmp_path / "student").exists()
    run_stages(stages(spec=2))
    assert calls.count("view") == 2
    needed = stages()
    for one in needed:
        one.may_refuse = False
    with pytest.raises(NotComputable, match="view has nothing to weigh"):
        run_stages(needed)


def test_several_processes_end_with_a_refusal(tmp_path, monkeypatch):
    """One that went on alone would leave the others waiting."""
    state = SimpleNamespace(num_processes=2, is_main_process=True, wait_for_everyone=lambda: None)
    monkeypatch.setattr("trl_weaks.distributed.processes", lambda: state)
    view = refusing(tmp_path, [])
    let_refuse([], [view])
    with pytest.raises(
        NotComputable, match="view: view has nothing.*One process would leave the row out.*several can"
    ):
        view.run()
    assert view.refusal() is None and not view.settled()


def test_a_bug_is_no_refusal(tmp_path):
    broken = stage(tmp_path, [], "broken", fail=True)
    let_refuse([], [broken])
    with pytest.raises(RuntimeError, match="killed"):
        run_stages([broken])
    assert broken.refusal() is None
