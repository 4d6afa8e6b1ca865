"""Streams of weak rows train as the datasets they come from do, and a bad row is refused where it stands."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset, IterableDatasetDict
from shapes import shape

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer


def build(tokenizer, arguments, train, eval_dataset=None, **settings):
    return WeakSupervisionTrainer(
        model=shape("llama", tokenizer),
        args=WeakSupervisionConfig(**arguments | {"max_steps": 4, "save_strategy": "no"} | settings),
        train_dataset=train,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )


def run(trainer, checkpoint=None):
    trainer.train(resume_from_checkpoint=checkpoint)
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


SETTINGS = [
    {},
    {"packing": True, "max_length": 64},
    {"padding_free": True, "max_length": None},
    {"max_length": 30},
    {"max_length": 30, "overlong": "drop"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["rows", "packing", "padding-free", "truncate", "drop"])
def test_a_stream_trains_as_its_dataset(tokenizer, arguments, weak_rows, settings):
    """In the order of the dataset: a stream is not shuffled. One batch for evaluation: of a set without a length
    transformers weighs the last batch like a full one."""
    rows = Dataset.from_list(weak_rows)
    given = arguments | {"train_sampling_strategy": "sequential", "per_device_eval_batch_size": 16} | settings
    whole = build(tokenizer, given, rows, {"a": rows})
    stream = build(
        tokenizer, given, rows.to_iterable_dataset(), IterableDatasetDict({"a": rows.to_iterable_dataset()})
    )
    assert len(list(stream.train_dataset)) == len(whole.train_dataset)
    assert run(stream) == pytest.approx(run(whole), rel=1e-6)
    for value, other in zip(whole.model.parameters(), stream.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6)
    expected = whole.evaluate()
    for found in (stream.evaluate(), stream.evaluate({"a": rows.to_iterable_dataset()})):
        for name in ("eval_a_loss", "eval_a_weak/agreement", "eval_a_weak/confidence"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert stream.evaluate(stream.eval_dataset["a"])["eval_loss"] == pytest.approx(expected["eval_a_loss"], rel=1e-5)


def test_a_generator_is_a_stream_and_its_card_says_so(tokenizer, arguments, weak_rows):
    trainer = build(tokenizer, arguments, IterableDataset.from_generator(lambda: iter(copy.deepcopy(weak_rows))))
    assert len(run(trainer)) == 4
    trainer.create_model_card(model_name="tiny")
    card = Path(arguments["output_dir"], "README.md").read_text(encoding="utf-8")
    assert "| weak supervisors | `ann`, `bob` |" in card and "| a stream |" in card


def test_a_resumed_stream_ends_bit_identical(tokenizer, arguments, weak_rows):
    rows = Dataset.from_list(weak_rows)
    given = arguments | {"per_device_train_batch_size": 2}
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = build(tokenizer, given, rows.to_iterable_dataset(), **saving)
    run(whole)
    again = build(tokenizer, given, rows.to_iterable_dataset(), **saving)
    run(again, f"{arguments['output_dir']}/checkpoint-2")
    assert again.state.global_step == 4 and again._total_train_tokens == whole._total_train_tokens
    for value, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(value, other)


BAD = {
    "a confidence above 1": (lambda row: row["weak_logps"][0].__setitem__(0, 0.5), "weak_logps", "at most 0"),
    "weights of a whole ensemble": (lambda row: row.update(weak_weights=[1.5]), "weak_weights", "Normalise"),
    "no completion": (lambda row: row.update(completion=""), "completion", "Drop the row"),
    "a supervisor twice": (
        lambda row: row.update({c: row[c] * 2 for c in row if c.startswith("weak_")}),
        "weak_supervisors",
        "one completion",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("number", [1, 2000])
def test_a_row_that_breaks_the_contract_is_refused_where_it_stands(tokenizer, arguments, weak_rows, case, number):
    """Early ones before training, for the first thousand rows give the weights' scale; later ones when they come."""
    spoil, column, remedy = BAD[case]

    def rows():
        for i in range(number + 1):
            row = copy.deepcopy(weak_rows[0]) | {"example_id": f"e{i}", "weak_weights": [1.0]}
            if i == number:
                spoil(row)
            yield row

    with pytest.raises(ValueError, match=rf"Row {number} \(example 'e{number}'\), column '{column}'.*{remedy}"):
        stream = build(tokenizer, arguments, IterableDataset.from_generator(rows)).train_dataset
        assert number >= 1000
        seen = 0
        for _ in stream:
            seen += 1
    assert number < 1000 or seen == number


def test_a_stream_without_a_column_is_named(tokenizer, arguments, weak_rows):
    rows = Dataset.from_list(weak_rows).remove_columns("weak_offsets").to_iterable_dataset()
    with pytest.raises(ValueError, match="train dataset lacks the column 'weak_offsets'"):
        build(tokenizer, arguments, rows)


def test_a_long_row_of_a_stream_is_refused_on_request(tokenizer, arguments, weak_rows):
    rows = Dataset.from_list(weak_rows).to_iterable_dataset()
    with pytest.raises(ValueError, match="A row of the train stream is longer than 30 tokens, the first is row 0"):
        list(build(tokenizer, arguments, rows, max_length=30, overlong="refuse").train_dataset)
