"""Columns that mean something to TRL, or to its collator, change nothing when they only travel with weak rows."""

import inspect
import re

import pytest
import trl.data_utils
import trl.trainer.sft_trainer as sft
from datasets import Dataset

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.completions.preparation import PREPARED

MESSAGES = [{"role": "user", "content": "other"}, {"role": "assistant", "content": "text"}]
COLUMNS = {
    "text": "another text",
    "messages": MESSAGES,
    "conversations": [{"from": "human", "value": "other"}],
    "chosen": MESSAGES,
    "rejected": "worse",
    "label": True,
    "labels": [1, 2, 3],
    "input_ids": [1, 2, 3],
    "attention_mask": [1, 1, 1],
    "completion_mask": [0, 1, 1],
    "assistant_masks": [1, 1, 1],
    "position_ids": [0, 1, 2],
    "seq_lengths": [3],
    "images": ["a.png"],
    "image": "a.png",
    "tools": "no JSON",
    "chat_template_kwargs": {"x": 1},
    "length": 3,
    "token_type_ids": [0],
    "mm_token_type_ids": [0],
    "source": "mine",
    "_row": 99,
    "_completion_text": "theirs",
}
SEEN = (*PREPARED, "input_ids", "labels")


def rows_of(tokenizer, student, arguments, dataset, **settings):
    trainer = WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.evaluate(dataset)
    loader = next(iter(trainer.get_train_dataloader()))
    return [[dict(row)[name] for name in SEEN] for row in trainer.train_dataset], sorted(loader)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_carried_column_changes_nothing(student, tokenizer, arguments, perfect, column, streamed):
    settings = {"max_steps": 1, "remove_unused_columns": False}
    carrying = perfect.add_column(column, [COLUMNS[column]] * len(perfect))
    found = []
    for rows in (perfect, carrying):
        rows = rows.to_iterable_dataset() if streamed else rows
        found.append(rows_of(tokenizer, student, arguments, rows, **settings))
    assert found[0] == found[1]
    ids, labels = found[1][0][1][-2:]
    assert ids[-1] == labels[-1] == tokenizer.eos_token_id


def test_all_names_that_trl_asks_rows_for_are_tried():
    """A TRL that reads another column of a row fails here."""
    source = inspect.getsource(sft.SFTTrainer._prepare_dataset) + inspect.getsource(
        sft.DataCollatorForLanguageModeling
    )
    source += inspect.getsource(trl.data_utils.is_conversational_from_value)
    source += inspect.getsource(trl.data_utils.maybe_convert_to_chatml)
    asked = set(re.findall(r"""example(?:\.get\(|\[)["'](\w+)["']""", source)) | set(
        re.findall(r'"(\w+)" in (?:example|column_names|dataset_sample|examples\[0\])', source)
    )
    assert {"prompt", "completion", "messages", "labels", "input_ids"} <= asked
    assert asked - set(COLUMNS) - {"prompt", "completion"} == set()


def test_a_column_of_the_users_own_stays_beside_its_row(student, tokenizer, arguments, perfect):
    named = perfect.add_column("source", [f"s{i}" for i in range(len(perfect))])
    trainer = WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments, shuffle_dataset=True),
        train_dataset=named,
        processing_class=tokenizer,
    )
    for row in trainer.train_dataset:
        assert row["source"] == f"s{row['example_id']}"


def test_ids_beside_weak_columns_are_made_anew(student, tokenizer, arguments, perfect):
    """Prompt tokens are not trained, and the end of sequence is there."""
    ids = [tokenizer(row["prompt"] + row["completion"])["input_ids"] for row in perfect]
    carrying = Dataset.from_list([row | {"input_ids": i, "labels": i} for row, i in zip(perfect, ids, strict=True)])
    found, _ = rows_of(tokenizer, student, arguments, carrying)
    for (*_, input_ids, labels), row, old in zip(found, perfect, ids, strict=True):
        start = len(tokenizer(row["prompt"])["input_ids"])
        assert input_ids == [*old, tokenizer.eos_token_id]
        assert labels == [-100] * start + input_ids[start:]
