"""The prompts, and the reason for their last character."""

import pytest
from tokenizers import pre_tokenizers

from trl_weaks.study.data.prompts import build_prompt

TYPES = ["date", "place_name"]


def test_paper_prompt_follows_the_slot_types():
    text = build_prompt("paper", TYPES)("wake {me} at five")
    assert text.startswith(
        'USER: Consider the following list of slot types provided to you:\n"date", "place_name"\nNow'
    )
    assert text.endswith('or only print {} if no slot.\n"wake {me} at five"\nASSISTANT:\n')
    assert 'i.e. {"slot type": "value"}? ONLY' in text
    assert "\\" not in text


def test_paper_prompt_lists_slurps_55_types_in_order(slurp_dir):
    types = (slurp_dir / "slot_types.txt").read_text().split()
    listed = build_prompt("paper", types)("x").split("\n")[1]
    assert listed.startswith('"event_name", "date", "person", "time", "news_topic", "relation", "list_name"')
    assert listed.endswith('"sport_type", "game_type"') and listed.count('", "') == 54


def test_short_prompt_is_the_utterance():
    assert build_prompt("short", TYPES)("wake me") == " wake me\n"


@pytest.mark.parametrize("style", ["paper", "short"])
@pytest.mark.parametrize("utterance", ["wake me", "say {", "is it 5:", 'call "bo"'])
def test_the_answer_starts_on_a_fresh_token(style, utterance):
    prompt = build_prompt(style, TYPES)(utterance)
    for completion in ("{}", '{"date": "friday"}'):
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(prompt + completion)
        assert len(prompt) in [start for _, (start, _) in pieces]
        colon = prompt.rstrip("\n") + ":"  # without the newline, the runs merge
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(colon + completion)
        assert len(colon) not in [start for _, (start, _) in pieces]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="choose 'paper' or 'short'"):
        build_prompt("long", TYPES)
    for types in ([], ["date", "date"], [""], ['da"te']):
        with pytest.raises(ValueError, match="slot types must be distinct"):
            build_prompt("paper", types)
