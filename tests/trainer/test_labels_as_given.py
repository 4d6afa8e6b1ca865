"""Labels by path, filtered, put together, and with a completion that one supervisor ended and another did not."""

import pytest
from datasets import Dataset, DatasetDict, List, Value, concatenate_datasets

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer, renormalise_weights


def train(rows, student, tokenizer, arguments, **more) -> list[dict]:
    trainer = WeakSupervisionTrainer(
        model=student(), args=WeakSupervisionConfig(**arguments | {"max_steps": 2}), train_dataset=rows,
        processing_class=tokenizer, **more,
    )  # fmt: skip
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_a_path_stands_for_the_labels_there(weak_rows, student, tokenizer, arguments, tmp_path):
    rows = Dataset.from_list(weak_rows)
    rows.save_to_disk(tmp_path / "labels" / "dataset")
    expected = train(rows, student, tokenizer, arguments)
    for given in (str(tmp_path / "labels"), tmp_path / "labels" / "dataset"):
        assert train(given, student, tokenizer, arguments, eval_dataset={"a": given}) == expected


def test_a_path_without_labels_is_told(student, tokenizer, arguments, tmp_path):
    with pytest.raises(ValueError, match="holds no labels: neither it nor its folder `dataset`"):
        train(str(tmp_path), student, tokenizer, arguments)
    rows = Dataset.from_dict({"a": [1]})
    DatasetDict({"test": rows, "train": rows}).save_to_disk(tmp_path / "dataset")
    with pytest.raises(
        ValueError, match=r"holds several splits, \['test', 'train'\]; give the folder of one, .*/test'"
    ):
        train(str(tmp_path), student, tokenizer, arguments)


def test_what_filtering_leaves_is_refused_until_its_weights_are_normalised(weak_rows, student, tokenizer, arguments):
    part = Dataset.from_list(weak_rows).filter(lambda row: row["weak_supervisors"] != ["bob"])
    with pytest.raises(ValueError, match="call `trl_weaks.renormalise_weights`"):
        train(part, student, tokenizer, arguments)
    whole = renormalise_weights(part)
    assert whole.column_names == part.column_names and len(train(whole, student, tokenizer, arguments)) == 2
    totals: dict[str, float] = {}
    for row in whole:
        totals[row["example_id"]] = totals.get(row["example_id"], 0) + sum(row["weak_weights"])
    assert totals == pytest.approx(dict.fromkeys(totals, 1.0))


def test_splitting_and_putting_together_changes_nothing(weak_rows):
    rows = Dataset.from_list(weak_rows)
    ids = sorted(set(rows["example_id"]))
    parts = [rows.filter(lambda row, keep=keep: row["example_id"] in keep) for keep in (ids[:3], ids[3:])]
    again = renormalise_weights(concatenate_datasets(parts))
    assert sorted(map(repr, again.to_list())) == sorted(map(repr, rows.to_list()))


def test_votes_are_normalised_within_their_row():
    rows = Dataset.from_dict({"weak_probs": [[[0.5, 0.5]] * 2] * 2, "weak_weights": [[1.0, 3.0], [0.0, 0.0]]})
    assert renormalise_weights(rows)["weak_weights"][:] == [[0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize("key", ["example_id", "weak_probs"])
def test_no_rows_have_no_weights_to_normalise(key):
    """What a filter left nothing of; the columns keep their types, so that it is concatenated with others."""
    value = {"example_id": "a", "weak_probs": [[0.5, 0.5]]}[key]
    rows = Dataset.from_dict({key: [value], "weak_weights": [[1.0]]})
    none = renormalise_weights(rows.filter(lambda row: False))
    assert len(none) == 0 and none.features == rows.features
    narrow = rows.cast_column("weak_weights", List(Value("float32")))
    assert renormalise_weights(narrow).features == narrow.features


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"example_id": ["a"]}, "have no column 'weak_weights'"),
        ({"example_id": ["a"], "weak_weights": [[-1.0]]}, r"row 0 \(example 'a'\): weights \[-1.0\]"),
        ({"example_id": ["a"], "weak_weights": [[]]}, "row 0"),
        ({"example_id": ["a"], "weak_weights": [[float("nan")]]}, "row 0"),
    ],
)
def test_weights_that_cannot_be_normalised(rows, message):
    with pytest.raises(ValueError, match=message):
        renormalise_weights(Dataset.from_dict(rows))


def test_one_text_with_an_end_and_without_are_two_rows(student, tokenizer, arguments):
    """Two supervisors say the same, one of them cut: both rows train, and the cut one teaches no end."""
    row = {"example_id": "1", "prompt": "play\n", "completion": "{}", "weak_logps": [[-0.1]], "weak_weights": [0.5]}
    cut = row | {"weak_supervisors": ["ann"], "weak_offsets": [[[0, 2]]], "weak_finished": False}
    whole = row | {"weak_supervisors": ["bob"], "weak_offsets": [[[0, 2], [2, 2]]], "weak_logps": [[-0.1, -0.2]]}
    assert len(train(Dataset.from_list([cut, whole | {"weak_finished": True}]), student, tokenizer, arguments)) == 2
    with pytest.raises(ValueError, match="repeats the completion of row 0"):
        train(Dataset.from_list([cut, whole | {"weak_finished": False}]), student, tokenizer, arguments)
