"""Pre-training rows: the answer is in the prompt, the disguise is on both sides, the seed determines all."""

import gzip
import itertools
import json

import pytest

from trl_weaks.study.data import grammar, pretraining
from trl_weaks.study.data.targets import decode_slots

TURN = {"text": "Book The Gate's table at Rosa's, Leeds.", "slots": [["name", "Rosa's"], ["city", "Leeds"]]}


@pytest.fixture(scope="module")
def texts():
    return grammar.unlabelled(1500)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_answer_stands_in_its_prompt(texts, share):
    rows = list(pretraining.copying(texts, seed=1, random_share=share))
    kept = [text for text in texts if len(text.split()) > 2]
    assert len(rows) == len(kept)
    changed = total = longs = 0
    for text, row in zip(kept, rows, strict=True):
        sentence, end = row["prompt"].split("\n")
        assert sentence[0] == " " and end == ""
        answer = json.loads(row["completion"])
        assert 1 <= len(answer) <= 3
        for key, value in answer.items():
            assert value[0] == " " and f"{key}{value} " in f"{sentence} "
        if "" in answer:
            longs += 1
            assert sentence.endswith(answer[""])
        words = sentence.split()
        changed += sum(a != b for a, b in zip(text.split(), words, strict=True))
        total += len(words)
    assert abs(changed / total - share) < 0.03
    assert abs(longs / len(rows) - 0.5) < 0.05


def test_copying_leaves_clean_sentences_and_is_determined_by_the_seed(texts):
    rows = list(pretraining.copying(texts, seed=3, random_share=1.0, clean_share=0.4))
    known = {f" {text}\n" for text in texts}
    assert abs(sum(row["prompt"] in known for row in rows) / len(rows) - 0.4) < 0.05
    assert rows == list(pretraining.copying(texts, seed=3, random_share=1.0, clean_share=0.4))
    assert rows[:50] != list(pretraining.copying(texts, seed=4, random_share=1.0, clean_share=0.4))[:50]
    assert list(pretraining.copying(["stop", "", "go on"])) == []


def test_reading_goes_on_behind_the_first_word(texts):
    rows = list(pretraining.reading(texts))
    kept = [text for text in texts if " " in text.strip()]
    assert [row["prompt"] + row["completion"] for row in rows] == [f" {text}" for text in kept]
    assert all(row["completion"][0] == " " and row["prompt"].count(" ") == 1 for row in rows)
    assert list(pretraining.reading(["stop", ""])) == []


def test_jumble_is_words_of_the_texts_and_determined_by_the_seed(texts):
    found = pretraining.jumble(texts, 500, seed=1)
    words = {word for text in texts for word in text.split()}
    assert len(found) == 500 and found == pretraining.jumble(texts, 500, seed=1) != pretraining.jumble(
        texts, 500, seed=2
    )
    assert {word for text in found for word in text.split()} <= words
    assert {len(text.split()) for text in found} == {3, 4, 5, 6}


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_batches_by_length_keep_every_row_and_waste_little_padding(texts, size):
    rows = list(pretraining.reading(texts))[:size]
    ordered = pretraining.by_length(rows, 8, seed=2)

    def key(row):
        return row["prompt"], row["completion"]

    assert sorted(map(key, ordered)) == sorted(map(key, rows))
    if size == 1000:
        lengths = [[len(row["completion"]) for row in ordered[i : i + 8]] for i in range(0, 1000, 8)]
        assert sum(8 * max(batch) for batch in lengths) < 1.25 * sum(map(sum, lengths))
        assert ordered != pretraining.by_length(rows, 8, seed=3)


def test_dialogue_turns_become_task_rows():
    assert list(pretraining.dialogues([TURN], random_share=0.0)) == [
        {
            "prompt": " book the gate 's table at rosa 's leeds\n",
            "completion": '{"name": " rosa \'s", "city": " leeds"}',
        }
    ]


def test_dialogue_fillers_are_disguised_on_both_sides():
    turns = [
        {"text": "From york to leeds, then york", "slots": [["from", "york"], ["to", "leeds"], ["to", "york"]]}
    ] * 50
    for row in pretraining.dialogues(turns, random_share=1.0):
        words = row["prompt"].split()
        assert decode_slots(row["completion"]) == ([("from", words[1]), ("to", words[3]), ("to", words[5])], True)
        assert not {"york", "leeds"} & set(words) and words[::2] == ["from", "to", "then"]


def test_turns_that_cannot_be_copied_are_left_out():
    overlapping = {"text": "new york city", "slots": [["a", "new york"], ["b", "york city"]]}
    part_of_a_word = {"text": "for $800", "slots": [["a", "800"]]}
    marks_only = {"text": "so ...", "slots": [["a", "..."]]}
    assert list(pretraining.dialogues([overlapping, part_of_a_word, marks_only])) == []
    empty = list(pretraining.dialogues([{"text": "Yes!", "slots": []}] * 4000))
    assert 850 < len(empty) < 1150 and empty[0] == {"prompt": " yes\n", "completion": "{}"}


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_the_share_is_a_probability(share):
    for source in (
        pretraining.copying(["a b c"], random_share=share),
        pretraining.copying(["a b c"], clean_share=share),
        pretraining.copying(["a b c"], long_share=share),
        pretraining.dialogues([TURN], random_share=share),
    ):
        with pytest.raises(ValueError, match="not a probability"):
            next(source)


@pytest.mark.parametrize("line", ["{", "{}", '{"text": 3, "slots": []}', '{"text": "a", "slots": [["b"]]}'])
def test_a_bad_turn_is_named(tmp_path, line):
    with gzip.open(tmp_path / "turns.jsonl.gz", "wt") as file:
        file.write(json.dumps(TURN) + "\n" + line + "\n")
    turns = pretraining.read_turns(tmp_path)
    assert next(turns) == TURN
    with pytest.raises(ValueError, match=r"turns\.jsonl\.gz, line 2"):
        next(turns)


def test_the_dialogue_pack(dialogues_dir):
    turns = list(itertools.islice(pretraining.read_turns(dialogues_dir), 5000))
    rows = list(pretraining.dialogues(turns, seed=2))
    assert len(rows) > 2500 and rows == list(pretraining.dialogues(turns, seed=2))
    assert 0.05 < sum(row["completion"] == "{}" for row in rows) / len(rows) < 0.4
    for row in rows:
        for _, filler in decode_slots(row["completion"])[0]:
            assert f" {filler} " in f" {row['prompt'].strip()} "
