"""Where no supervisor said that the answer ends, no end is taught, neither as a label nor as part of a word."""

import pytest
from datasets import Dataset

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

MARKED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prepared(rows, student, tokenizer, arguments, streamed, **settings):
    dataset = Dataset.from_list(rows)
    trainer = WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments | {"max_steps": 1} | settings),
        train_dataset=dataset.to_iterable_dataset() if streamed else dataset,
        processing_class=tokenizer,
    )
    return list(trainer.train_dataset)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("unit", ["word", "span"])
@pytest.mark.parametrize("read_end", [False, True], ids=["no end in the columns", "an end in the columns"])
def test_no_end_is_taught_where_none_was_said(student, tokenizer, arguments, perfect, streamed, chat, unit, read_end):
    rows = [dict(row) for row in perfect]
    for number, row in enumerate(rows):
        row["weak_finished"] = bool(number % 2)
        row["weak_logps"] = [[-0.1 * (i + 1) for i in range(len(row["weak_logps"][0]))]]
        if not row["weak_finished"] and not read_end:
            row["weak_logps"], row["weak_offsets"] = [row["weak_logps"][0][:-1]], [row["weak_offsets"][0][:-1]]
        if chat:
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    before, tokenizer.chat_template = tokenizer.chat_template, MARKED
    try:
        found = prepared(rows, student, tokenizer, arguments, streamed, confidence_unit=unit)
    finally:
        tokenizer.chat_template = before
    for row, made in zip(rows, found, strict=True):
        text = row["completion"][0]["content"] if chat else row["completion"]
        learned = [label for label in made["labels"] if label != -100]
        ending = "<eos>\n" if chat else "<eos>"
        assert tokenizer.decode(learned) == text + (ending if row["weak_finished"] else "")
        assert tokenizer.decode(made["input_ids"]).endswith(text + ending)  # it is there, and not learned
        units = [unit >= 0 for unit in made["weak_unit_ids"]]
        assert units == [label != -100 for label in made["labels"]]
        sums = {u: p[0] for u, p in zip(made["weak_unit_ids"], made["weak_unit_logps"], strict=True) if u >= 0}
        said = row["weak_logps"][0] if row["weak_finished"] else row["weak_logps"][0][: len(text)]
        assert sum(sums.values()) == pytest.approx(sum(said))


@pytest.mark.parametrize("finished", [False, True])
def test_an_end_token_written_into_the_text_is_an_end(student, tokenizer, arguments, perfect, finished):
    """TRL appends none to such a text, and an answer that was cut teaches none either."""
    row = dict(perfect[0])
    text = row["completion"] + "<eos>"
    row |= {"completion": text, "weak_finished": finished, "weak_logps": [[-0.5, -0.25]]}
    row["weak_offsets"] = [[[0, len(text) - 5], [len(text) - 5, len(text)]]]
    (made,) = prepared([row], student, tokenizer, arguments, False, confidence_unit="span")
    learned = [label for label in made["labels"] if label != -100]
    assert tokenizer.decode(learned) == (text if finished else text.removesuffix("<eos>"))


def test_all_finished_is_as_without_the_column(student, tokenizer, arguments, weak_rows):
    marked = [row | {"weak_finished": True} for row in weak_rows]
    for ours, plain in zip(
        prepared(marked, student, tokenizer, arguments, False),
        prepared(weak_rows, student, tokenizer, arguments, False),
        strict=True,
    ):
        for name in plain:
            assert ours[name] == plain[name]


@pytest.mark.parametrize("value", [None, "no"])
def test_a_row_that_does_not_say_is_named(student, tokenizer, arguments, weak_rows, value):
    rows = [row | {"weak_finished": value if value else (None if i == 3 else True)} for i, row in enumerate(weak_rows)]
    with pytest.raises(ValueError, match="Row . .*column 'weak_finished'.*neither True nor False"):
        prepared(rows, student, tokenizer, arguments, False)
