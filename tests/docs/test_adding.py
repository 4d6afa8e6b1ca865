"""Seeds of another run beside those published: what is put together, what is refused, and what a kill leaves."""

import json
import shlex
import threading
from dataclasses import replace

import numpy as np
import pytest
from evidence_study import ROWS, SEEDS, Small, stamped, study
from filelock import FileLock


def test_a_killed_call_is_continued_by_the_same_call(kept, adding):
    """Scores were kept, results not yet published: the same call makes them, and another one is not in its way."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    scores.keep("mine", folder / "run", None)
    before = (folder / "mine.json").read_bytes()
    study(folder / "more", kind, (4,))
    study(folder / "third", kind, (9,))
    adding.add("mine", folder / "more", None)
    after = scores.path_of("mine").read_bytes(), (folder / "mine.json").read_bytes()
    (folder / "mine.json").write_bytes(before)
    assert "seeds [3, 4, 5]" in scores.wrong(scores.kept_of("mine"), results)[0]
    adding.add("mine", folder / "more", None)
    assert after == (scores.path_of("mine").read_bytes(), (folder / "mine.json").read_bytes())
    (folder / "mine.json").write_bytes(before)
    adding.add("mine", folder / "third", None)
    assert scores.read(folder / "mine.json")["seeds"] == scores.kept_of("mine").seeds == [3, 5, 9]


def test_results_of_which_not_all_scores_are_kept_take_no_more(kept, adding, make, monkeypatch):
    """And that is said before hours of work."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    scores.keep("mine", folder / "run", None)
    before = scores.path_of("mine").read_bytes()
    study(folder / "more", kind, (4,))
    adding.add("mine", folder / "more", None)
    scores.path_of("mine").write_bytes(before)
    study(folder / "third", kind, (9,))
    with pytest.raises(SystemExit, match="mine is published with other numbers"):
        adding.add("mine", folder / "third", None)
    with pytest.raises(SystemExit, match="mine is published with other numbers"):
        make.refuse_fewer_seeds("mine", ["--seeds", "9"])


def test_a_student_of_another_method_under_the_same_name_is_refused(kept, adding, make, monkeypatch):
    """No setting of the study says what a method is: its stage's stamp does."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    stamped(folder / "run", SEEDS)
    scores.keep("mine", folder / "run", None)
    study(folder / "more", kind, (4,))
    stamped(folder / "more", (4,), method={"gamma": 0.5})
    with pytest.raises(SystemExit, match="published mine: what makes students/student is another method"):
        adding.add("mine", folder / "more", None)
    stamped(folder / "more", (4,))
    adding.add("mine", folder / "more", None)
    study(folder / "all", kind, (3, 4, 5))
    stamped(folder / "all", (3, 4, 5), method={"gamma": 0.5})
    with pytest.raises(SystemExit, match="published mine: what makes students/student is another method"):
        make.published(folder / "all", "mine", None)
    stamped(folder / "all", (5,))
    with pytest.raises(ValueError, match="seed-5/students/student was made with other settings"):
        scores.of_study(folder / "all", None)


def test_all_seeds_with_other_settings_do_not_take_the_place_of_what_is_published(kept, make, monkeypatch):
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    before = (folder / "mine.json").read_bytes()
    study(folder / "all", kind, (3, 5, 7), beta=0.9)
    with pytest.raises(SystemExit, match="another study than the published mine: beta"):
        make.published(folder / "all", "mine", None)
    assert before == (folder / "mine.json").read_bytes()


def test_two_calls_that_publish_under_one_name_wait_for_each_other(kept, adding, make, monkeypatch):
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    scores.keep("mine", folder / "run", None)
    study(folder / "more", kind, (4,))
    other = FileLock(scores.FOLDER / "mine.lock")  # as of another process
    started, ended = threading.Event(), threading.Event()

    def publish():
        started.set()
        make.published(folder / "more", "mine", None)  # which adds, and asks for the lock again
        ended.set()

    with other:
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        started.wait(10)
        assert not ended.wait(1) and scores.read(folder / "mine.json")["seeds"] == results["seeds"]
    thread.join(60)
    assert ended.is_set() and 4 in scores.read(folder / "mine.json")["seeds"]


@pytest.mark.parametrize("data", ["slurp", "data", ".", "/somewhere/my slurp"])
def test_only_the_folder_of_the_data_is_taken_out_of_a_command(adding, data):
    given = ["--student_training", '{"learning_rate":2.0e-4}', "--data_dir"]
    said = shlex.join(["trl-weaks", "study", *given, data])
    expected = shlex.join(["trl-weaks", "study", *given, "path/to/slurp"])
    assert adding._command(said, "scenario") == adding._command(expected, "scenario") == expected
    assert adding._command("trl-weaks study", "scenario") == "trl-weaks study"


def test_what_a_curve_needs_beside_its_results_is_written_with_them(kept, adding, make, monkeypatch):
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    seen = lambda kept, results: {"of": [kept.seeds, results["seeds"]]}  # noqa: E731
    make.published(folder / "run", "mine", None, finish=seen)
    assert scores.read(folder / "mine.json")["of"] == [[3, 5], [3, 5]]
    study(folder / "more", kind, (4,))
    make.published(folder / "more", "mine", None, finish=seen)
    assert scores.read(folder / "mine.json")["of"] == [[3, 4, 5], [3, 4, 5]]


def test_what_has_no_bound_below_is_at_the_floor_in_a_file_too(kept):
    """A limit of minus infinity is null in a file; a merge reads it from there."""
    scores, folder, results = kept
    row = results["methods"]["student"]
    for low in (None, -np.inf):
        row["slot_f1_interval" if "slot_f1" in row else "accuracy_interval"][0] = low
        row[f"{results['measure']}_per_seed"] = [0.0, 0.0]
        assert "student" in scores.at_floor(results)


def test_seeds_of_two_runs_are_what_one_run_of_all_is(kept, adding, make, monkeypatch):
    """In whatever order; and the table names both runs."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    whole = study(folder / "whole", kind, (3, 4, 5, 6))
    scores.keep("mine", folder / "run", None)
    study(folder / "more", kind, (6, 4))
    adding.add("mine", folder / "more", None, "run more path/to/data")
    found = scores.read(folder / "mine.json")
    assert found["seeds"] == found["config"]["seeds"] == scores.kept_of("mine").seeds == [3, 4, 5, 6]
    assert {key: found[key] for key in ROWS} == {key: whole[key] for key in ROWS}
    assert found["stage_seconds"] == {"labels": 6.0} and "diagnostics" not in found
    assert found["at_floor"] == []
    said = make.source(found)
    assert said.startswith(
        "Made by `run (3, 5)`; seeds 3, 5; 60 examples; 2026-11-22; mine; torch 2; published at commit"
    )
    assert "; and by `run more path/to/data`; seeds 6, 4; 60 examples; 2026-11-22; mine;" in said
    study(folder / "third", kind, (1,))
    adding.add("mine", folder / "third", None)
    assert [part["seeds"] for part in scores.read(folder / "mine.json")["parts"]] == [[3, 5], [6, 4], [1]]


@pytest.mark.parametrize(
    ("seeds", "beta", "text", "changed", "said"),
    [
        ((5, 6), 0.1, "text", {}, r"mine has seeds \[5\] already"),
        ((6,), 0.2, "text", {}, "is another study than the published mine: beta"),
        ((6,), 0.1, "text", {"gamma": 1}, "is another study than the published mine: gamma"),
        ((6,), 0.1, "text", {"methods": {"student": {"supervisors": ["one"]}}}, "mine: other rows"),
        ((6,), 0.1, "text", {"methods": {"student": {"label": "another"}}}, "mine: other rows"),
        ((106,), 0.1, "text", {}, "was made of other data than mine"),
        ((6,), 0.1, "another", {}, "was made of other data than mine"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(kept, adding, seeds, beta, text, changed, said):
    scores, folder, results = kept
    path = scores.keep("mine", folder / "run", None)
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    made = study(folder / "more", kind, seeds, beta, text)
    for row, values in changed.get("methods", {}).items():
        made["methods"][row] |= values
    made["config"] |= {"gamma": 1} if "gamma" in changed else {}
    if text != "text":  # the same settings, another folder of data under the same name
        made["config"]["text"] = "text"
        scores.task_of = lambda name, config: Small(kind, said=text)
    (folder / "more" / "results.json").write_text(json.dumps(made))
    before = path.read_bytes(), (folder / "mine.json").read_bytes()
    with pytest.raises(SystemExit, match=said):
        adding.add("mine", folder / "more", None)
    assert before == (path.read_bytes(), (folder / "mine.json").read_bytes())


def test_new_seeds_may_be_run_alone_where_the_scores_are_kept(kept, make, monkeypatch):
    scores, folder, _ = kept
    monkeypatch.setattr(make, "RESULTS", folder)
    with pytest.raises(SystemExit, match=r"has seeds \[3, 5\], which --seeds leaves out"):
        make.refuse_fewer_seeds("mine", ["--seeds", "7"])
    scores.keep("mine", folder / "run", None)
    make.refuse_fewer_seeds("mine", ["--seeds", "7"])
    with pytest.raises(SystemExit, match=r"has seeds \[5\], which --seeds leaves out"):
        make.refuse_fewer_seeds("mine", ["--seeds", "3", "7"])
    kind = "classes" if scores.read(folder / "mine.json")["measure"] == "accuracy" else "completions"
    study(folder / "more", kind, (7,))
    make.published(folder / "more", "mine", None)
    assert scores.read(folder / "mine.json")["seeds"] == [3, 5, 7]
    study(folder / "all", kind, (3, 5, 7, 8))
    make.published(folder / "all", "mine", None)
    assert scores.read(folder / "mine.json")["seeds"] == scores.kept_of("mine").seeds == [3, 5, 7, 8]


def test_results_of_other_data_do_not_take_the_place_of_what_is_published(kept, adding, make, monkeypatch):
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    monkeypatch.setattr(make, "RESULTS", folder)
    scores.keep("mine", folder / "run", None)
    old, new = scores.kept_of("mine"), scores.of_study(folder / "run", None)
    there = scores.read(folder / "run" / "results.json")
    adding.check_same("mine", results, there, old, new)
    others = [{"tests": "other"}, {"data": ["other", *new.data[1:]]}, {"task": f"{kind} of another"}]
    for changed in others:
        with pytest.raises(SystemExit, match="was made of other data than mine"):
            adding.check_same("mine", results, there, old, replace(new, **changed))


def test_stages_that_were_set_aside_are_no_part_of_a_study(kept):
    """As a study leaves them: replaced by another, or killed."""
    scores, folder, _ = kept
    stamped(folder / "run", SEEDS)
    expected = scores.of_study(folder / "run", None).stages
    for place in ("student.0123456789abcdef", "student.0123456789abcdef_", "killed"):
        stamp = folder / "run" / f"seed-{SEEDS[0]}" / "students" / place / "stage.json"
        stamp.parent.mkdir(parents=True)
        stamp.write_text(json.dumps({"spec": {"data": "other"}, "complete": place != "killed"}))
    assert expected and scores.of_study(folder / "run", None).stages == expected


def test_a_kill_is_found_where_seeds_are_published_in_another_order(kept, adding):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    whole = scores.kept_of("mine")
    turned = results | {"seeds": list(SEEDS[::-1])}
    (folder / "mine.json").write_text(json.dumps(turned))
    extra = {row: np.concatenate([table, table[:1]]) for row, table in whole.samples.items()}
    killed = replace(whole, seeds=[*whole.seeds, 99], data=[*whole.data, "d"], samples=extra)
    scores.write("mine", killed)
    found = adding.as_published("mine")
    assert found.seeds == list(SEEDS[::-1]) and found.data == whole.data[::-1]
    assert all(np.array_equal(found.samples[row], whole.samples[row][::-1]) for row in whole.samples)
