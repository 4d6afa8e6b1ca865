"""What is set aside while TRL prepares the rows comes back to its own row, whatever TRL does to their order."""

import pytest
from datasets import Dataset
from shapes import shape
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer


def numbered(count: int = 7) -> Dataset:
    """Rows "Qi" of which every word has log-probability -(0.1 + i); each second example has two rows."""
    rows = []
    for i in range(count):
        for name, weight in (("ann", 0.25), ("bob", 0.75)) if i % 2 else (("ann", 1.0),):
            text = f"A{i} {name}"
            ends = [text.index(" "), len(text)]
            rows.append(
                {
                    "example_id": str(i),
                    "prompt": f"Q{i}\n",
                    "completion": text,
                    "weak_supervisors": [name],
                    "weak_weights": [weight],
                    "weak_offsets": [[[0, ends[0]], [ends[0], ends[1]]]],
                    "weak_logps": [[-(0.1 + i)] * 2],
                }
            )
    return Dataset.from_list(rows)


def build(tokenizer, arguments, train, eval_dataset=None, **settings):
    return WeakSupervisionTrainer(
        model=shape("llama", tokenizer),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=train,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )


def texts(row: dict, tokenizer):
    """The texts of a prepared row, which may be packed: number, units' log-probabilities, weights."""
    lengths, start = row.get("seq_lengths") or [len(row["input_ids"])], 0
    for length in lengths:
        part = slice(start, start + length)
        number = int(tokenizer.decode(row["input_ids"][part])[1])
        values = zip(row["weak_unit_ids"][part], row["weak_unit_logps"][part], strict=True)
        weights = row["weak_row_weights"][start : start + 1] if "seq_lengths" in row else [row["weak_row_weights"]]
        yield number, {round(logps[0], 6) for unit, logps in values if unit >= 0}, weights[0][0]
        start += length


@pytest.mark.parametrize("packed", [{}, {"packing": True, "max_length": 40}], ids=["rows", "packed"])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_row_keeps_its_own_confidences_and_weights(tokenizer, arguments, packed, streamed):
    rows = numbered().to_iterable_dataset() if streamed else numbered()
    trainer = build(tokenizer, arguments, rows, {"a": rows}, shuffle_dataset=True, max_steps=1, **packed)
    trainer.evaluate({"b": rows})
    for dataset in (trainer.train_dataset, trainer.eval_dataset["a"]):
        found = [text for row in dataset for text in texts(row, tokenizer)]
        assert len(found) == 10
        assert [number for number, *_ in found] != sorted(number for number, *_ in found), "nothing was shuffled"
        for number, logps, _ in found:
            assert logps == {round(-(0.1 + number), 6)}
        scale = next(weight for number, _, weight in found if number == 0)
        for number, _, weight in found:
            assert weight == pytest.approx(scale if number % 2 == 0 else weight)
        assert sorted({round(w / scale, 4) for n, _, w in found if n % 2}) == [0.25, 0.75]


@pytest.mark.parametrize(
    "packed", [{}, {"packing": True, "max_length": 64}, {"packing": True, "max_length": 64, "shuffle_dataset": False}]
)
def test_the_order_is_trls(perfect, gold, tokenizer, arguments, packed):
    given = arguments | {"shuffle_dataset": True} | packed
    ours = build(tokenizer, given, perfect, perfect).train_dataset
    theirs = SFTTrainer(
        model=shape("llama", tokenizer), args=SFTConfig(**given), train_dataset=gold, processing_class=tokenizer
    ).train_dataset
    assert ours["input_ids"][:] == theirs["input_ids"][:]
    assert ours["labels"][:] == theirs["labels"][:]


def test_rows_that_foreign_code_moves_drops_or_repeats_are_joined_by_key(tokenizer, arguments, monkeypatch):
    """The kind: whatever a later TRL does between taking rows and giving them back."""
    prepare = SFTTrainer._prepare_dataset

    def unruly(self, *args, **kwargs):
        return prepare(self, *args, **kwargs).select([9, 2, 2, 7, 0, 4])

    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", unruly)
    found = [t for row in build(tokenizer, arguments, numbered()).train_dataset for t in texts(row, tokenizer)]
    assert [number for number, *_ in found] == [6, 1, 1, 5, 0, 3]
    assert [logps for _, logps, _ in found] == [{round(-(0.1 + number), 6)} for number, *_ in found]


def test_a_second_trainer_finds_the_prepared_rows_in_the_cache(tokenizer, arguments, tmp_path):
    """Nothing that is new in every process may reach a fingerprint."""
    numbered().save_to_disk(str(tmp_path / "rows"))
    settings = {"shuffle_dataset": True, "max_length": 12}
    prints = []
    for _ in range(2):
        rows = Dataset.load_from_disk(str(tmp_path / "rows"))
        trainer = build(tokenizer, arguments, rows, **settings)
        prints.append((trainer.train_dataset._fingerprint, sorted(p.name for p in (tmp_path / "rows").iterdir())))
    assert prints[0] == prints[1]
