"""Slots to JSON and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_weaks.study.data.targets import decode_slots, encode_slots

WORD = st.one_of(st.text(min_size=1), st.sampled_from(["&", "&&", "&&&", "at&t", " & ", "a & b", '"', "\\", "}"]))
FILLER = st.lists(WORD, min_size=1, max_size=4).map(" ".join).filter(str.strip)
SLOTS = st.lists(st.tuples(st.sampled_from(["date", "place_name", "person", "é"]), FILLER), max_size=6)


def grouped(slots):
    """What a round trip must give: the slots of one type side by side, types by first occurrence, fillers stripped."""
    types = list(dict.fromkeys(slot_type for slot_type, _ in slots))
    return [(t, filler.strip()) for t in types for slot_type, filler in slots if slot_type == t]


@given(SLOTS)
def test_round_trip(slots):
    text = encode_slots(slots)
    assert decode_slots(text) == (grouped(slots), True)
    assert list(json.loads(text)) == list(dict.fromkeys(t for t, _ in slots))  # one key per type, in order
    assert decode_slots(f" \n{text} and more }}") == (grouped(slots), True)


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    slots, parsed = decode_slots(text)
    assert parsed or slots == []


def test_format():
    assert encode_slots([]) == "{}"
    assert encode_slots([("date", "friday"), ("person", "zoë"), ("date", "monday")]) == (
        '{"date": "friday & monday", "person": "zoë"}'
    )
    assert (
        encode_slots([("business_name", "at&t"), ("business_name", "b & q")]) == '{"business_name": "at&t & b && q"}'
    )


@pytest.mark.parametrize(
    "completion, slots",
    [
        ("{}", []),
        ('{"date": "friday"} </s> {"time": "five"}', [("date", "friday")]),
        ('{"date": " friday  &  monday "}', [("date", "friday"), ("date", "monday")]),
        ('{"date": "friday & & monday &"}', [("date", "friday"), ("date", "monday")]),
        ('{"date": ""}', []),
        ('{"date": "&"}', []),
        ('{"date": "a", "time": "b", "date": "c"}', [("date", "a"), ("time", "b"), ("date", "c")]),
        ('{"time": 5, "date": 5.50, "n": -1e3}', [("time", "5"), ("date", "5.50"), ("n", "-1e3")]),
        ('{"time": ["a & b", ["c", 7], null]}', [("time", "a"), ("time", "b"), ("time", "c"), ("time", "7")]),
        ('{"a": true, "b": null, "c": NaN, "d": {"e": "f"}, "g": [{"h": "i"}], "j": "k"}', [("j", "k")]),
        ('{"not a type": "x"}', [("not a type", "x")]),
        ('{"a": "\\ud800"}', [("a", "?")]),
        ('{"a": ' + "9" * 5000 + "}", [("a", "9" * 5000)]),
    ],
)
def test_reading_rules(completion, slots):
    assert decode_slots(completion) == (slots, True)


@pytest.mark.parametrize(
    "completion",
    ["", "date: friday", '{"date": "fri', "[]", '"{}"', "null", "{'a': 'b'}", 'Sure: {"a": "b"}', "[" * 99999],
)
def test_unparsable(completion):
    assert decode_slots(completion) == ([], False)


@pytest.mark.parametrize("slot", [("date", ""), ("date", " \t"), ("", "friday")])
def test_empty_slots_are_refused(slot):
    with pytest.raises(ValueError, match="drop empty slots"):
        encode_slots([("time", "five"), slot])


def test_slurp_round_trip(slurp_dir):
    for line in (slurp_dir / "test.jsonl").open(encoding="utf-8"):
        slots = [tuple(slot) for slot in json.loads(line)["slots"]]
        assert decode_slots(encode_slots(slots)) == (grouped(slots), True)
