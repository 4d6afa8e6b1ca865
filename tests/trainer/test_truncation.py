"""Rows that are too long: refused, dropped, or cut so that what is left keeps its own part of the confidence."""

import logging
import math

import pytest
from datasets import Dataset
from shapes import shape
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

LIMIT = 24


def build(tokenizer, arguments, rows, **settings):
    return WeakSupervisionTrainer(
        model=shape("llama", tokenizer),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=rows if isinstance(rows, Dataset) else Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def units(row):
    """Unit -> (tokens, log-probability of the whole unit) of a prepared row."""
    found: dict[int, list] = {}
    for unit, logps in zip(row["weak_unit_ids"], row["weak_unit_logps"], strict=True):
        if unit >= 0:
            found.setdefault(unit, []).append(logps[0])
    assert all(len(set(values)) == 1 for values in found.values())
    return {unit: (len(values), values[0]) for unit, values in found.items()}


@pytest.mark.parametrize("unit", ["word", "span"])
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("split", ["confidence", "uniform", "eq8"])
@pytest.mark.parametrize("limit", [15, 20, 25])
def test_a_cut_word_keeps_the_share_of_its_remaining_tokens(tokenizer, arguments, weak_rows, unit, mode, split, limit):
    if unit == "span":  # supervisors whose tokens are longer than the student's
        for row in weak_rows:
            length = len(row["completion"])
            spans = [[i, min(i + 7, length)] for i in range(0, length, 7)] + [[length, length]]
            row["weak_offsets"] = [spans] * len(row["weak_supervisors"])
            row["weak_logps"] = [[-0.3 - 0.01 * i for i in range(len(spans))]] * len(row["weak_supervisors"])
    given = arguments | {"confidence_unit": unit, "confidence_split": split, "truncation_mode": mode}
    whole = {(r["example_id"], r["weak_supervisors"][0]): r for r in build(tokenizer, given, weak_rows).train_dataset}
    cut = build(tokenizer, given, weak_rows, max_length=limit).train_dataset
    partial = 0
    for row in cut:
        full = whole[row["example_id"], row["weak_supervisors"][0]]
        part = slice(limit) if mode == "keep_start" else slice(max(0, len(full["input_ids"]) - limit), None)
        assert row["input_ids"] == full["input_ids"][part] and row["labels"] == full["labels"][part]
        before, after = units(full), units(row)
        for name, (tokens, logp) in after.items():
            all_tokens, all_logp = before[name]
            if split == "eq8":
                expected = all_logp + math.log(tokens / all_tokens)
            else:
                expected = sum(all_logp / all_tokens for _ in range(tokens))  # equal shares, one by one
            assert logp == pytest.approx(expected, abs=1e-9)
            partial += tokens < all_tokens
        learned = {i for i, label in enumerate(row["labels"]) if label != -100} - {0}
        assert learned == {i for i, name in enumerate(row["weak_unit_ids"]) if name >= 0}
    assert partial, "no word was cut: the test says nothing"


def test_the_rows_left_are_trls(tokenizer, arguments, perfect, gold):
    """The same ids and labels, and rows without a token to learn are gone; packed too."""
    for more in ({}, {"packing": True}, {"packing": True, "packing_strategy": "bfd_split"}):
        given = arguments | {"max_length": LIMIT} | more
        ours = build(tokenizer, given, perfect).train_dataset
        theirs = SFTTrainer(
            model=shape("llama", tokenizer), args=SFTConfig(**given), train_dataset=gold, processing_class=tokenizer
        ).train_dataset
        assert ours["input_ids"][:] == theirs["input_ids"][:]
        assert ours["labels"][:] == theirs["labels"][:]


def test_cut_perfect_rows_train_as_trls(tokenizer, arguments, perfect, gold, trajectory):
    given = arguments | {"max_length": LIMIT, "token_trees": False, "weak_loss": "naive", "gamma_max": 0.0}
    plain = {k: v for k, v in given.items() if k not in ("token_trees", "weak_loss", "gamma_max")}
    theirs = SFTTrainer(
        model=shape("llama", tokenizer), args=SFTConfig(**plain), train_dataset=gold, processing_class=tokenizer
    )
    for ours, other in zip(trajectory(build(tokenizer, given, perfect)), trajectory(theirs), strict=True):
        assert ours == pytest.approx(other, rel=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox"])
@pytest.mark.parametrize("batch", [3, 5])
def test_training_and_evaluation_divide_by_the_tokens_that_are_predicted(tokenizer, arguments, weak_rows, name, batch):
    """Rows cut at their beginning start with a label that nothing predicts, and transformers counts it for GPT-2."""
    given = {"max_length": 8, "truncation_mode": "keep_end", "confidence_split": "uniform", "weak_loss": "naive"}
    given |= {"gamma_max": 0.0, "learning_rate": 0.0, "max_steps": 1, "gradient_accumulation_steps": 100}
    given |= {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 100}
    rows = Dataset.from_list(weak_rows)
    trainer = WeakSupervisionTrainer(
        shape(name, tokenizer), WeakSupervisionConfig(**arguments | given),
        train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert any(labels[0] != -100 for labels in trainer.train_dataset["labels"])
    assert trainer.state.log_history[0]["loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("overlong, said", [("truncate", "cut (keep_start)"), ("drop", "dropped")])
def test_what_happened_is_counted_in_the_log(tokenizer, arguments, weak_rows, overlong, said, caplog):
    long = [
        row for row in weak_rows if len(tokenizer(row["prompt"] + row["completion"] + "<eos>")["input_ids"]) > LIMIT
    ]
    assert 0 < len(long) < len(weak_rows)
    with caplog.at_level(logging.WARNING, logger="trl_weaks"):
        trainer = build(tokenizer, arguments, weak_rows, max_length=LIMIT, overlong=overlong)
    (message,) = [r.message for r in caplog.records if "longer than" in r.message]
    assert f"{len(long)} of {len(weak_rows)} rows of the train dataset" in message and said in message
    assert f"(example {long[0]['example_id']!r})" in message
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    assert max(lengths) <= LIMIT
    if overlong == "drop":
        assert len(lengths) == len(weak_rows) - len(long)
    tokens = [sum(u >= 0 for u in row["weak_unit_ids"]) for row in trainer.train_dataset]
    weighted = [n * sum(row["weak_row_weights"]) for n, row in zip(tokens, trainer.train_dataset, strict=True)]
    assert sum(weighted) == pytest.approx(sum(tokens))  # the mean weight of what is left is 1


def test_nothing_left_is_an_error(tokenizer, arguments, weak_rows):
    for settings in ({"max_length": 2}, {"max_length": 5, "overlong": "drop"}):
        with pytest.raises(ValueError, match="No row of the train dataset fits"):
            build(tokenizer, arguments, weak_rows, **settings)


def test_the_students_context_is_a_limit_too(tokenizer, arguments, weak_rows, student):
    trainer = WeakSupervisionTrainer(
        model=student(max_position_embeddings=20),
        args=WeakSupervisionConfig(**arguments),
        train_dataset=Dataset.from_list(weak_rows),
        processing_class=tokenizer,
    )
    assert max(len(ids) for ids in trainer.train_dataset["input_ids"]) == 20


def test_pieces_lose_no_token(tokenizer, arguments, weak_rows):
    """`bfd_split`: further pieces start with the next token, and a word in two pieces shares its confidence."""
    settings = {"packing": True, "packing_strategy": "bfd_split", "max_length": LIMIT, "confidence_split": "uniform"}
    rows = build(tokenizer, arguments, weak_rows, **settings).train_dataset
    whole = build(tokenizer, arguments, weak_rows, packing=True, max_length=128).train_dataset
    assert sorted(i for row in rows for i in row["input_ids"]) == sorted(i for r in whole for i in r["input_ids"])
