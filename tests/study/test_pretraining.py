"""Pre-training rows: the answer is in the prompt, the disguise is on both sides, the seed determines all."""

import gzip
import itertools
import json
import re

import pytest

from trl_weaks.study.data import grammar, pretraining
from trl_weaks.study.data.targets import decode_slots, encode_slots

TURN = {"text": "Book The Gate's table at Rosa's, Leeds.", "slots": [["name", "Rosa's"], ["city", "Leeds"]]}


@pytest.fixture(scope="module")
def texts():
    return grammar.unlabelled(1500)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_filling_the_blanks_gives_the_sentence(texts, share):
    rows = list(pretraining.span_copy(texts, seed=1, random_share=share))
    assert len(rows) == sum(len(text.split()) > 1 for text in texts)
    kept = changed = 0
    counts = set()
    for text, row in zip((text for text in texts if len(text.split()) > 1), rows, strict=True):
        sentence, blanked, end = row["prompt"].split("\n")
        slots, parsed = decode_slots(row["completion"])
        assert parsed and end == "" and row["completion"] == encode_slots(slots)
        assert re.findall(r"_([a-z])_", blanked) == [letter for letter, _ in slots]
        counts.add(len(slots))
        filled = blanked
        for letter, span in slots:
            assert 1 <= len(span.split()) <= 4
            filled = filled.replace(f"_{letter}_", span)
        assert filled == sentence and blanked.split() != [f"_{letter}_" for letter, _ in slots]
        pairs = list(zip(text.split(), sentence.split(), strict=True))
        inside = sum(len(span.split()) for _, span in slots)
        changed += sum(a != b for a, b in pairs)
        kept += inside - sum(a != b for a, b in pairs)
    assert counts == {1, 2, 3}
    assert abs(changed / (changed + kept) - share) < 0.03


def test_span_copy_streams_and_repeats(texts):
    def forever():
        yield from itertools.cycle(texts)

    first = list(itertools.islice(pretraining.span_copy(forever(), seed=3), 2000))
    assert first == list(itertools.islice(pretraining.span_copy(forever(), seed=3), 2000))
    assert first[:50] != list(itertools.islice(pretraining.span_copy(forever(), seed=4), 50))
    assert first[0] != first[1500]  # a second pass over the same sentence asks for other spans
    assert list(pretraining.span_copy(["stop", "", "a _b_ c", "go on"])) != []
    assert len(list(pretraining.span_copy(["stop", "", "a _b_ c", "go on"]))) == 1


def test_dialogue_turns_become_task_rows():
    assert list(pretraining.dialogues([TURN], random_share=0.0)) == [
        {"prompt": "book the gate 's table at rosa 's leeds\n", "completion": '{"name": "rosa \'s", "city": "leeds"}'}
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
    assert 850 < len(empty) < 1150 and empty[0] == {"prompt": "yes\n", "completion": "{}"}


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_the_share_is_a_probability(share):
    for source in (
        pretraining.span_copy(["a b"], random_share=share),
        pretraining.dialogues([TURN], random_share=share),
    ):
        with pytest.raises(ValueError, match="is a probability"):
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
