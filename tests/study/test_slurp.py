"""SLURP from a folder in the pack's layout, and from files in SLURP's own format (rows written for this test)."""

import hashlib
import json

import pytest

from trl_weaks.study.data import slurp
from trl_weaks.study.data.prompts import build_prompt
from trl_weaks.study.data.rows import normalise, task_rows
from trl_weaks.study.data.slurp_download import OFFICIAL, Source, download

SIZES = {"half_a": 4, "half_b": 3, "validation": 2, "test": None}


def row(number, sentence, *slots):
    return {"id": f"r{number}", "sentence": sentence, "slots": [list(slot) for slot in slots]}


def write(path, rows):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    train = [row(i, f"wake me on day {i}", ("date", f"day {i}")) for i in range(8)]
    write(tmp_path / "train.jsonl", [*train, row(90, "Wake me on day 3!"), row(91, "what's up"), row(92, "what s up")])
    write(tmp_path / "devel.jsonl", [row(i, f"devel {i}") for i in range(3)] + [row(9, "whats up"), row(10, "hello")])
    write(tmp_path / "test.jsonl", [row(1, "hel lo"), row(2, "call bo and bo", ("person", "bo"), ("person", "bo"))])
    (tmp_path / "slot_types.txt").write_text("date\nperson\n")
    return tmp_path


def texts(examples):
    return {normalise(example.text) for example in examples}


def test_splits_are_disjoint_and_deterministic(folder):
    splits = slurp.load_splits(folder, **SIZES, seed=5)
    assert splits.sizes() == {"half_a": 4, "half_b": 3, "validation": 2, "test": 2}
    parts = [texts(part) for part in (splits.half_a, splits.half_b, splits.validation, splits.test)]
    assert len(set.union(*parts)) == 4 + 3 + 2 + 2
    assert splits == slurp.load_splits(folder, **SIZES, seed=5)
    other = slurp.load_splits(folder, **SIZES, seed=6)
    assert other.half_a != splits.half_a and other.test == splits.test
    assert [example.id for example in splits.test] == ["r1", "r2"]
    assert splits.test[1].slots == (("person", "bo"), ("person", "bo"))


def test_devel_and_test_texts_leave_the_pool(folder):
    with pytest.raises(ValueError, match="half_b: 5 examples asked for, 4 distinct ones there"):
        slurp.load_splits(folder, half_a=4, half_b=5, validation=2)  # "whats up" is in devel, one "day 3" is a repeat
    with pytest.raises(ValueError, match="validation: 5 examples asked for, 4"):  # "hello" is in test
        slurp.load_splits(folder, half_a=4, half_b=3, validation=5)
    with pytest.raises(ValueError, match="half_a: size 0"):
        slurp.load_splits(folder, half_a=0, half_b=3, validation=2)


def test_unlabelled_sentences_hold_no_devel_or_test_text(folder):
    assert slurp.load_unlabelled(folder) == [f"wake me on day {i}" for i in range(8)]
    (folder / "unlabelled.txt").write_text("good morning\n\ncall bo, and bo\ndevel 2\ngood morning\n")
    assert slurp.load_unlabelled(folder) == ["good morning"]


def test_task_rows(folder):
    rows = task_rows(slurp.load_splits(folder, **SIZES).test, build_prompt("short", ["date", "person"]))
    assert rows[1] == {"example_id": "r2", "prompt": " call bo and bo\n", "completion": '{"person": "bo & bo"}'}


@pytest.mark.parametrize(
    "line, message",
    [
        ("{oops", r"line 2: not JSON"),
        ("[]", r"line 2: an object is needed, not list"),
        ('{"id": 7, "sentence": "a", "slots": []}', r"line 2, field 'id': a string"),
        ('{"id": "x", "slots": []}', r"line 2, field 'sentence': a string with text is needed, not None"),
        ('{"id": "x", "sentence": "a", "slots": {}}', r"line 2, field 'slots': a list"),
        ('{"id": "x", "sentence": "a", "slots": [["date"]]}', r"'slots': \['date'\] is not \[type, filler\]"),
        ('{"id": "x", "sentence": "a", "slots": [["date", ""]]}', r"is not \[type, filler\] with text in both"),
        ('{"id": "x", "sentence": "a", "slots": [["dish", "a"]]}', r"type 'dish' is not in slot_types.txt"),
        ('{"id": "x", "sentence": "today", "slots": [["date", "day"]]}', r"filler 'day' is not a run of words"),
        ('{"id": "r0", "sentence": "a", "slots": []}', r"line 2: id 'r0' stands on line 1 already"),
    ],
)
def test_a_bad_row_is_named(folder, line, message):
    (folder / "train.jsonl").write_text(json.dumps(row(0, "fine")) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"train\.jsonl, {message}" if message.startswith("line") else message):
        slurp.load_splits(folder, **SIZES)


def test_missing_and_empty_files_are_named(folder):
    (folder / "devel.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"devel\.jsonl: not there"):
        slurp.load_splits(folder, **SIZES)
    (folder / "devel.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"devel\.jsonl: no rows"):
        slurp.load_splits(folder, **SIZES)
    (folder / "slot_types.txt").write_text("date\ndate\n")
    with pytest.raises(ValueError, match=r"slot_types\.txt: one distinct slot type"):
        slurp.load_splits(folder, **SIZES)


def official(number, words, *entities):
    tokens = [{"surface": word, "id": i, "lemma": "-", "pos": "NN"} for i, word in enumerate(words.split())]
    spans = [{"span": list(range(start, end)), "type": slot_type} for slot_type, start, end in entities]
    return {
        "slurp_id": number,
        "sentence": "unused",
        "intent": "x",
        "tokens": tokens,
        "entities": spans,
        "recordings": [],
    }


@pytest.fixture
def sources(tmp_path):
    rows = {
        "train": [official(1, "Ring Bo 's Mum at five PM", ("person", 1, 4), ("time", 5, 7)), official(2, "Stop")],
        "devel": [official(3, "who Is there")],
        "test": [official(4, "ring Al and Al", ("person", 1, 2), ("person", 3, 4))],
    }
    made = {}
    for split, entries in rows.items():
        path = tmp_path / f"official_{split}.jsonl"
        write(path, entries)
        content = path.read_bytes()
        made[split] = Source(path.as_uri(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
    return made


def test_slurps_own_format_is_converted(tmp_path, sources):
    folder = download(tmp_path / "cache", ["person", "time"], sources)
    splits = slurp.load_splits(folder, half_a=1, half_b=1, validation=1)
    found = {example.id: example for part in (splits.half_a, splits.half_b) for example in part}
    assert found["1"].text == "ring bo 's mum at five pm"
    assert found["1"].slots == (("person", "bo 's mum"), ("time", "five pm"))
    assert found["2"].slots == ()
    assert splits.test[0].slots == (("person", "al"), ("person", "al"))


def test_the_cache_is_used_and_wrong_content_is_refused(tmp_path, sources):
    folder = download(tmp_path / "cache", ["person", "time"], sources)
    gone = {split: Source(source.url + ".gone", source.blob) for split, source in sources.items()}
    assert download(folder, ["person", "time"], gone) == folder
    wrong = {"train": Source(sources["train"].url, OFFICIAL["train"].blob)}
    with pytest.raises(ValueError, match="git id .* expected c7568b"):
        download(tmp_path / "other", ["person"], wrong)
    with pytest.raises(OSError):
        download(tmp_path / "other", ["person"], gone)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_foreign_format_is_named(tmp_path, sources):
    path = tmp_path / "official_devel.jsonl"
    path.write_text('{"slurp_id": 1, "tokens": []}\n')
    content = path.read_bytes()
    sources["devel"] = Source(path.as_uri(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
    with pytest.raises(ValueError, match="SLURP devel, line 1: no 'entities'"):
        download(tmp_path / "cache", ["person"], sources)


def test_the_pack_loads_at_the_papers_sizes(slurp_dir):
    splits = slurp.load_splits(slurp_dir)
    assert splits.sizes() == {"half_a": 2000, "half_b": 2000, "validation": 500, "test": 2974}
    assert len(slurp.load_slot_types(slurp_dir)) == 55
    parts = [texts(part) for part in (splits.half_a, splits.half_b, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts)
    assert not texts(splits.test) & {normalise(text) for text in slurp.load_unlabelled(slurp_dir)}


def test_missing_files_say_what_belongs_in_them(tmp_path):
    from trl_weaks.study.data.pretraining import read_turns
    from trl_weaks.study.data.slurp import load_slot_types

    with pytest.raises(FileNotFoundError, match="slot_types.txt: not there; the types of SLURP's slots"):
        load_slot_types(tmp_path)
    with pytest.raises(FileNotFoundError, match="turns.jsonl.gz: not there; turns of dialogues"):
        next(read_turns(tmp_path))
