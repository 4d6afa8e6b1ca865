"""Splits of the classification tasks: balanced, disjoint, the same test for every seed."""

import json
from collections import Counter

import pytest

from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.data.grammar import intent_names, load_splits
from trl_weaks.study.tasks.classification import Classification, sciq_splits, yes_no

SIZES = {"num_gold": 30, "num_weak": 40, "num_validation": 11, "num_test": 25}


def parts(splits):
    return {"a": splits.half_a, "b": splits.half_b, "v": splits.validation, "t": splits.test}


@pytest.mark.parametrize("task", ["entertainment", "intent"])
def test_grammar_splits(task):
    source = Classification(ClassificationConfig(task=task, **SIZES))
    first, other = (parts(source.splits(seed)) for seed in (0, 1))
    assert [len(rows) for rows in first.values()] == [30, 40, 11, 25]
    assert first["t"] == other["t"]
    assert first["a"] != other["a"]
    texts = [{row.text for row in rows} for rows in first.values()]
    assert sum(map(len, texts)) == len(set.union(*texts))
    if task == "entertainment":
        assert [sum(row.target for row in rows) for rows in first.values()] == [15, 20, 5, 12]
    assert all(0 <= row.target < len(source.classes) for rows in first.values() for row in rows)


def test_grammar_examples_carry_the_intent_that_made_them():
    names = intent_names()
    examples = load_splits(300, 1, 1, 1).half_a
    assert {e.intent for e in examples} <= set(names) and len({e.intent for e in examples}) > 15
    for e in examples:
        types = {slot_type for slot_type, _ in e.slots}
        if e.intent == "weather":
            assert types & {"weather_descriptor", "place_name", "date", "timeofday", "time"}
        if "podcast_name" in types:
            assert e.intent == "podcast" or e.intent in ("orders", "own_things", "talk", "reminder", "lists", "volume")


def test_every_seed_has_the_test_rows_in_one_order():
    source = Classification(ClassificationConfig(**SIZES))
    assert source.splits(0).test == source.splits(3).test


def test_slurp_labels_are_those_of_the_rows(slurp_dir):
    source = Classification(ClassificationConfig(data_dir=str(slurp_dir), **SIZES))
    assert len(source.classes) == 18
    splits = source.splits(2)
    gold = {}
    for name in ("train", "devel", "test"):
        for line in (slurp_dir / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            gold[row["id"]] = (row["sentence"], row["scenario"])
    for rows in parts(splits).values():
        for row in rows:
            assert gold[row.id] == (row.text, source.classes[row.target])
    assert splits.test == source.splits(0).test


def test_slurp_rows_without_the_label_are_named(tmp_path):
    for name in ("train", "devel", "test"):
        row = {"id": name, "sentence": f"say {name}", "slots": [], "scenario": "" if name == "devel" else "general"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "slot_types.txt").write_text("date\n")
    with pytest.raises(ValueError, match=r"devel.jsonl, line 1: field 'scenario'"):
        _ = Classification(ClassificationConfig(data_dir=str(tmp_path))).classes
    for line, message in (("[1]", "line 1: field 'scenario'"), ("{", "line 1: not JSON")):
        (tmp_path / "train.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=f"train.jsonl, {message}"):
            _ = Classification(ClassificationConfig(data_dir=str(tmp_path))).classes


def question(i: int) -> dict:
    return {
        "question": f"q{i}",
        "correct_answer": f"right{i}",
        **{f"distractor{k}": f"wrong{k} {i}" for k in (1, 2, 3)},
    }


def test_sciq_is_balanced_yes_or_no():
    rows = {"train": [question(i) for i in range(50)], "validation": [question(i) for i in range(50, 60)],
            "test": [question(i) for i in range(60, 80)]}  # fmt: skip
    splits = sciq_splits(rows, 20, 25, 10, None, seed=1)
    assert [len(rows) for rows in parts(splits).values()] == [20, 25, 10, 20]
    for rows_ in parts(splits).values():
        assert sum(row.target for row in rows_) == len(rows_) // 2
        for row in rows_:
            number = row.text.split()[1].removeprefix("q")
            answer = row.text.split(" A: ")[1]
            assert answer == f"right{number}" if row.target else answer.startswith("wrong") and answer.endswith(number)
    asked = [{row.text.split()[1] for row in part} for part in parts(splits).values()]
    assert sum(map(len, asked)) == len(set.union(*asked))
    assert splits.test == sciq_splits(rows, 5, 5, 5, None, seed=7).test
    with pytest.raises(ValueError, match="half_b"):
        sciq_splits(rows, 40, 11, 5, None, seed=0)
    distractors = Counter(row.text.split(" A: ")[1][:6] for row in yes_no([question(i) for i in range(300)], "x", 0))
    assert distractors["right1"] and min(distractors[f"wrong{k}"] for k in (1, 2, 3)) > 30


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"stages": ["train"]}, "Unknown stages"),
        ({"dataset": "imdb"}, "`dataset` must be"),
        ({"dataset": "slurp"}, "--data_dir"),
        ({"task": "scenario"}, "`task` must be one of entertainment, intent"),
        ({"seeds": [1, 1]}, "`seeds` must be distinct"),
        ({"weak_models": ["a", "a"]}, "twice"),
        ({"weak_models": ["a"], "weak_weights": [1.0, 2.0]}, "2 values for 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassificationConfig(**settings)


def test_presets_are_found():
    assert all(ClassificationConfig.preset_path(name).is_file() for name in ("tiny", "slurp", "pretrained", "paper"))
    with pytest.raises(ValueError, match="Known: paper, pretrained, slurp, tiny"):
        ClassificationConfig.preset_path("huge")
