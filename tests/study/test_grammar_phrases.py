"""The phrase notation against a plain enumeration."""

import random

import pytest

from trl_weaks.study.data.phrases import expand, parse


def texts(phrase, rules=None, draws=400):
    rng = random.Random(0)
    rules = {name: parse(text) for name, text in (rules or {}).items()}
    return {expand(parse(phrase), rules, lambda slot_type: slot_type.upper(), rng)[0] for _ in range(draws)}


@pytest.mark.parametrize(
    "phrase, expected",
    [
        ("a b", {"a b"}),
        ("a | b\n c", {"a", "b", "c"}),
        ("a (b|c|) d", {"a b d", "a c d", "a d"}),
        ("(a (b|c)|d)", {"a b", "a c", "d"}),
        ("<x><y> z", {"no1 z", "no2 z", "yes1 z", "yes2 z"}),
        ("say <w>", {"say no", "say yes twice"}),
    ],
)
def test_expansions(phrase, expected):
    assert texts(phrase, {"x": "no | yes", "y": "1\n2\n", "w": "no | yes twice\n"}) == expected


def test_slots_come_in_order_with_their_fillers():
    count = iter(range(10))
    text, slots = expand(parse("go {a} to {b} and {a}"), {}, lambda name: f"{name}{next(count)} x", random.Random(0))
    assert text == "go a0 x to b1 x and a2 x"
    assert slots == [("a", "a0 x"), ("b", "b1 x"), ("a", "a2 x")]


def test_choices_are_equally_likely():
    rng, phrase = random.Random(1), parse("a|b|c|d")
    draws = [expand(phrase, {}, str, rng)[0] for _ in range(4000)]
    assert all(abs(draws.count(letter) - 1000) < 150 for letter in "abcd")  # 5 standard deviations are 137


@pytest.mark.parametrize("phrase", ["(a", "a)", "<a", "a}", "a {b c} >", "((a)"])
def test_broken_phrases_are_refused(phrase):
    with pytest.raises(ValueError, match="phrase"):
        parse(phrase)
