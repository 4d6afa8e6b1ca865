"""The embedded data keeps its promises: size, variety, ambiguity, disjointness, determinism."""

import hashlib
from collections import Counter, defaultdict

import pytest

from trl_weaks.study.data import grammar
from trl_weaks.study.data.rows import normalise


@pytest.fixture(scope="module")
def splits():
    return grammar.load_splits()


@pytest.fixture(scope="module")
def examples(splits):
    return splits.half_a + splits.half_b + splits.validation + splits.test


@pytest.fixture(scope="module")
def unlabelled():
    return grammar.unlabelled(20_000)


def open_values(examples):
    return {normalise(value) for e in examples for slot_type, value in e.slots if slot_type in grammar.open_types()}


def test_sizes_and_twenty_thousand_distinct_utterances(splits, unlabelled):
    assert splits.sizes() == {"half_a": 2000, "half_b": 2000, "validation": 300, "test": 1000}
    assert len({normalise(text) for text in unlabelled}) == 20_000


def test_no_text_stands_in_two_splits(splits, unlabelled):
    parts = [[normalise(e.text) for e in part] for part in vars(splits).values()]
    together = [key for part in parts for key in part]
    assert len(set(together)) == len(together)
    assert len({e.id for part in vars(splits).values() for e in part}) == len(together)
    for seed in range(3):  # whatever the seeds of either
        held_out = grammar.load_splits(1, 1, 300, 1000, seed=seed)
        assert not {normalise(e.text) for e in held_out.validation + held_out.test} & set(map(normalise, unlabelled))


def test_open_values_are_disjoint(splits):
    training = open_values(splits.half_a + splits.half_b)
    validation, test = open_values(splits.validation), open_values(splits.test)
    assert len(training) > 1500 and len(validation) > 100 and len(test) > 400
    assert not training & validation and not training & test and not validation & test
    closed = [value for e in splits.test for slot_type, value in e.slots if slot_type not in grammar.open_types()]
    seen = {value for e in splits.half_a for _, value in e.slots}
    assert sum(value in seen for value in closed) > 0.7 * len(closed)  # closed classes, for contrast, are shared


def test_unlabelled_text_holds_no_open_value_of_test_but_shared_words(splits, unlabelled):
    """Said by the generator: its own slots, drawn from the same stream, have no test value."""
    drawn = grammar._examples("training", 20_000, "0:unlabelled")
    assert [e.text for e in drawn] == unlabelled
    assert not open_values(drawn) & open_values(splits.test)


def test_fillers_are_words_of_the_utterance_in_order(examples):
    for example in examples:
        assert example.text == " ".join(example.text.lower().split())
        rest = f" {example.text} "
        for slot_type, filler in example.slots:
            assert slot_type in grammar.slot_types()
            before, found, after = rest.partition(f" {filler} ")
            assert found, (filler, example)
            rest = f" {after}"


def test_the_same_surface_carries_several_types(examples):
    types = defaultdict(set)
    for example in examples:
        for slot_type, filler in example.slots:
            types[filler].add(slot_type)
    assert sum(len(of) > 1 for of in types.values()) >= 150
    assert {"food_type", "color_type"} <= types["orange"]
    for word in ("april", "may", "june"):  # a month everywhere, a name where its hash puts it
        assert any("date" in of for filler, of in types.items() if word in filler.split())
    assert any("person" in of for filler, of in types.items() if set(filler.split()) & {"april", "may", "june"})
    titles = {"song_name", "movie_name", "book_name", "podcast_name", "game_name"}
    openings = defaultdict(set)  # "the silent river" and "the silent station": one pool for all titles
    for filler, of in types.items():
        openings[" ".join(filler.split()[:2])] |= of & titles
    assert sum(of == titles for of in openings.values()) >= 3


def test_distribution_is_sane(splits, examples):
    assert len(grammar.slot_types()) == len(set(grammar.slot_types())) == 31
    types = Counter(slot_type for e in examples for slot_type, _ in e.slots)
    total = sum(types.values())
    assert set(types) == set(grammar.slot_types())
    assert max(types.values()) < 0.15 * total and min(types.values()) > 0.004 * total
    lengths = Counter(len(e.slots) for e in examples)
    assert set(lengths) == {0, 1, 2, 3, 4}
    assert 0.08 < lengths[0] / len(examples) < 0.25
    assert all(lengths[n] > 0.1 * len(examples) for n in (1, 2, 3))
    repeats = sum(len({t for t, _ in e.slots}) < len(e.slots) for e in examples)
    assert repeats > 0.05 * len(examples)
    shares = [Counter(t for e in part for t, _ in e.slots) for part in (splits.half_a, splits.test)]
    for slot_type in types:  # training and test have one distribution of types
        a, b = (share[slot_type] / share.total() for share in shares)
        assert abs(a - b) < 0.04


def test_determinism():
    splits = grammar.load_splits(30, 20, 5, 10, seed=3)
    assert splits == grammar.load_splits(30, 20, 5, 10, seed=3)
    assert splits.half_a != grammar.load_splits(30, 20, 5, 10, seed=4).half_a
    assert grammar.unlabelled(10) == grammar.unlabelled(20)[:10]
    digest = hashlib.sha256(
        repr([splits, grammar.unlabelled(50)]).replace("Utterance(", "Example(").encode()
    ).hexdigest()
    assert digest[:16] == "7aa917864f5c12af", "the grammar gives other data: every number in a report changes with it"


def test_no_rule_is_unused_and_every_rule_exists():
    """Every rule is reached from some request, and none names a rule or slot that is not there."""
    requests, rules = grammar._requests(), grammar._rules()
    slots = requests["slots"]["open"] | requests["slots"]["closed"]
    reached, todo = set(), [piece for intent in grammar._intents() for piece in intent]
    while todo:
        piece = todo.pop()
        if isinstance(piece, list):
            todo.extend(piece)
        elif isinstance(piece, tuple):
            name = slots[piece[1]] if piece[0] == "{" else piece[1]
            if name not in reached:
                reached.add(name)
                todo.extend(rules[name])
    assert reached == set(rules)


def test_impossible_sizes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="half_b: size 0 is not a positive number"):
        grammar.load_splits(half_b=0)
    monkeypatch.setattr(grammar, "_intents", lambda: [grammar.parse("stop (now|here|it)")])
    monkeypatch.setattr(grammar, "_ATTEMPTS", 200)
    with pytest.raises(ValueError, match=r"9 training utterances asked for: .* yields about \d; ask for fewer"):
        grammar.unlabelled(9)
