"""Bad input: every case is a clear error, before training starts, that names the row, the column and the remedy."""

import copy
import math

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.completions.validation import check_columns, check_rows


def test_good_rows_pass(weak_rows, perfect):
    check_rows(weak_rows)
    check_rows(perfect)
    number = {row["example_id"]: i for i, row in enumerate(weak_rows)}
    check_rows([row | {"example_id": number[row["example_id"]]} for row in weak_rows])  # whole numbers are ids too


@pytest.mark.parametrize("column", ["example_id", "weak_supervisors", "weak_weights", "weak_offsets", "weak_logps"])
def test_a_missing_column_is_named(weak_rows, column):
    with pytest.raises(ValueError, match=f"train dataset lacks the column '{column}'.*label_completions"):
        check_columns([name for name in weak_rows[0] if name != column], "train")


def set_to(column, value):
    return lambda row: row.__setitem__(column, value)


def set_first(column, value):
    return lambda row: row[column][0].__setitem__(0, value)


CASES = {
    "an id that is no id": (set_to("example_id", 7.0), "example_id", "Give every prompt an id"),
    "an empty id": (set_to("example_id", ""), "example_id", "Give every prompt an id"),
    "an empty prompt": (set_to("prompt", ""), "prompt", "Drop the row"),
    "an empty completion": (set_to("completion", ""), "completion", "Drop the row"),
    "a message without content": (
        set_to("completion", [{"role": "assistant", "content": ""}]),
        "completion",
        "Drop the row",
    ),
    "mixed text and messages": (set_to("prompt", [{"role": "user", "content": "hi"}]), "prompt", "one format"),
    "no supervisor": (set_to("weak_supervisors", []), "weak_supervisors", "Name the supervisors"),
    "too many weights": (set_to("weak_weights", [0.5, 0.5]), "weak_weights", "one entry per name"),
    "too few offsets": (set_to("weak_offsets", []), "weak_offsets", "one entry per name"),
    "too few log-probabilities": (set_to("weak_logps", []), "weak_logps", "one entry per name"),
    "a supervisor twice": (set_to("weak_supervisors", ["ann"]), "weak_supervisors", "unique per prompt"),
    "a negative weight": (set_to("weak_weights", [-0.5]), "weak_weights", "not negative"),
    "a weight that is NaN": (set_to("weak_weights", [math.nan]), "weak_weights", "finite"),
    "a confidence above 1": (set_first("weak_logps", 0.1), "weak_logps", "at most 0"),
    "a confidence that is NaN": (set_first("weak_logps", math.nan), "weak_logps", "Re-label"),
    "a probability of 0": (set_first("weak_logps", -math.inf), "weak_logps", "Re-label"),
    "a token without log-probability": (lambda row: row["weak_logps"][0].pop(), "weak_logps", "one per span"),
    "a span without end": (set_first("weak_offsets", [0]), "weak_offsets", "start, end"),
    "a null prompt": (set_to("prompt", None), "prompt", "Drop the row"),
    "a null completion": (set_to("completion", None), "completion", "Drop the row"),
    "a null message": (set_to("completion", [None]), "completion", "Drop the row"),
    "null supervisors": (set_to("weak_supervisors", None), "weak_supervisors", "Name the supervisors"),
    "a null supervisor": (set_to("weak_supervisors", [None]), "weak_supervisors", "Name the supervisors"),
    "null weights": (set_to("weak_weights", None), "weak_weights", "Label this example again"),
    "a null weight": (set_to("weak_weights", [None]), "weak_weights", "Label this example again"),
    "null offsets": (set_to("weak_offsets", None), "weak_offsets", "Label this example again"),
    "null spans": (set_to("weak_offsets", [None]), "weak_offsets", "Label this example again"),
    "a null span": (set_first("weak_offsets", None), "weak_offsets", "Label this example again"),
    "a null edge": (set_first("weak_offsets", [0, None]), "weak_offsets", "start, end"),
    "null log-probabilities": (set_to("weak_logps", None), "weak_logps", "Label this example again"),
    "log-probabilities of nobody": (set_to("weak_logps", [None]), "weak_logps", "Label this example again"),
    "a null log-probability": (set_first("weak_logps", None), "weak_logps", "Label this example again"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_row_is_named(weak_rows, case):
    spoil, column, remedy = CASES[case]
    rows = copy.deepcopy(weak_rows)
    spoil(rows[1])  # the row of bob on example 0
    with pytest.raises(ValueError, match=rf"Row 1 .*column '{column}'.*{remedy}"):
        check_rows(rows)


def test_duplicate_ids_are_named(weak_rows):
    rows = weak_rows + [copy.deepcopy(weak_rows[0])]
    with pytest.raises(ValueError, match=rf"Row {len(weak_rows)} .*repeats the completion of row 0"):
        check_rows(rows)


def test_weights_that_do_not_sum_to_1_are_named(weak_rows):
    weak_rows[0]["weak_weights"] = [0.4]
    with pytest.raises(ValueError, match="Example '0', column 'weak_weights': .* sum to 0.9, not 1"):
        check_rows(weak_rows)


def build(student, tokenizer, arguments, rows, eval_dataset=None, **settings):
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    return WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )


def test_a_row_longer_than_max_length_is_refused(student, tokenizer, arguments, weak_rows):
    with pytest.raises(ValueError, match="longer than 40 tokens, the first is row .* Raise `max_length`"):
        build(student, tokenizer, arguments, weak_rows, max_length=40, overlong="refuse")


def test_a_row_longer_than_the_students_context_is_refused(student, tokenizer, arguments, weak_rows):
    with pytest.raises(ValueError, match="longer than 30 tokens.*longer context"):
        build(lambda: student(max_position_embeddings=30), tokenizer, arguments, weak_rows, overlong="refuse")


def test_an_empty_dataset_is_refused(student, tokenizer, arguments, weak_rows):
    empty = Dataset.from_list(weak_rows).select([])
    with pytest.raises(ValueError, match="The train dataset is empty. Look at the filter"):
        build(student, tokenizer, arguments, empty)


@pytest.mark.parametrize("column", ["weak_weights", "weak_offsets", "weak_logps"])
def test_a_null_that_a_dataset_holds_is_named(student, tokenizer, arguments, weak_rows, column):
    weak_rows[1][column] = None
    with pytest.raises(ValueError, match=f"Row 1 .*column '{column}': holds a null"):
        build(student, tokenizer, arguments, weak_rows)


@pytest.mark.parametrize("name", ["eval", "gold"])
def test_an_empty_evaluation_dataset_is_refused(student, tokenizer, arguments, weak_rows, gold, name):
    empty = gold.select([])
    with pytest.raises(ValueError, match=f"The {name} dataset is empty"):
        build(student, tokenizer, arguments, weak_rows, eval_dataset=empty if name == "eval" else {name: empty})


def test_an_evaluation_set_may_be_called_train(student, tokenizer, arguments, weak_rows, gold):
    """Gold rows stay gold rows under that name."""
    trainer = build(student, tokenizer, arguments, weak_rows, eval_dataset={"train": gold, "gold": gold})
    scores = trainer.evaluate()
    assert scores["eval_train_loss"] == scores["eval_gold_loss"] > 0
    assert trainer.evaluate({"train": gold})["eval_train_loss"] == scores["eval_gold_loss"]
    with pytest.raises(ValueError, match="train dataset lacks the column 'weak_logps'"):
        build(student, tokenizer, arguments, Dataset.from_list(weak_rows).remove_columns("weak_logps"))


def test_all_weights_zero_is_refused(student, tokenizer, arguments, weak_rows):
    for row in weak_rows:
        row["weak_weights"] = [0.0 for _ in row["weak_weights"]]
    with pytest.raises(ValueError, match="sum to 0, not 1"):
        build(student, tokenizer, arguments, weak_rows)


def test_offsets_outside_the_completion_are_refused(student, tokenizer, arguments, weak_rows):
    weak_rows[0]["weak_offsets"][0][-2] = [100, 101]
    with pytest.raises(ValueError, match="Example '0', columns 'weak_offsets'.*Label this example again"):
        build(student, tokenizer, arguments, weak_rows)


def test_several_messages_as_a_completion_are_refused(student, tokenizer, arguments, weak_rows):
    for row in weak_rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
        row["completion"] = [{"role": "assistant", "content": row["completion"]}] * 2
    with pytest.raises(ValueError, match=r"Row 0 \(example '0'\), column 'completion': must be one message"):
        build(student, tokenizer, arguments, weak_rows)


class Slow(PreTrainedTokenizer):
    """A tokenizer without offsets."""

    vocab_size = 3
    model_input_names = ["input_ids", "attention_mask"]

    def get_vocab(self):
        return {"<pad>": 0, "<eos>": 1, "a": 2}

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.get_vocab().get(token, 2)

    def _convert_id_to_token(self, index):
        return "a"


def test_a_student_without_a_fast_tokenizer_is_refused(student, arguments, weak_rows):
    with pytest.raises(ValueError, match="fast tokenizer"):
        build(student, Slow(pad_token="<pad>", eos_token="<eos>"), arguments, weak_rows)


def test_rows_of_another_trainer_are_refused(student, tokenizer, arguments, weak_rows):
    first = build(student, tokenizer, arguments, weak_rows)
    for settings in ({}, {"packing": True, "max_length": 64}):
        with pytest.raises(ValueError, match="'weak_unit_ids': a trainer prepared its rows"):
            build(student, tokenizer, arguments, first.train_dataset, **settings)
    with pytest.raises(ValueError, match="The eval dataset .* Pass the labels as they were before"):
        build(student, tokenizer, arguments, weak_rows, eval_dataset=first.train_dataset)


@pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 64}], ids=["rows", "packed"])
def test_a_trainer_knows_its_own_rows_again(student, tokenizer, arguments, weak_rows, settings):
    raw = Dataset.from_list(weak_rows)
    trainer = build(student, tokenizer, arguments, raw, eval_dataset={"weak": raw}, **settings)
    expected = trainer.evaluate()["eval_weak_loss"]
    assert expected == trainer.evaluate({"weak": trainer.eval_dataset["weak"]})["eval_weak_loss"]
    assert expected == trainer.evaluate({"weak": raw})["eval_weak_loss"]
    some = trainer.train_dataset.shuffle(seed=1).select(range(3))
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] != trainer.evaluate(some)["eval_loss"] > 0
