"""SLU-F1 against the numbers that SLURP's official script prints, and against a second implementation."""

import itertools
import random
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_weaks.metrics.distances import char_distance, levenshtein, word_distance, words
from trl_weaks.metrics.slu_f1 import COUNT_COLUMNS, slu_f1, slu_f1_counts, slu_f1_from_counts

# (gold, predicted, slu_f1, other scores): printed by the official script, micro unless the key says macro
SENTENCES = {
    "order": ("date:today|time:five pm", "time:five pm|date:today", 1.0, {}),
    "truncated": (
        "event_name:dance class|date:friday",
        "event_name:dance|date:friday",
        0.7927927927927929,
        {"word_f1": 0.8, "char_f1": 0.7857142857142857, "span_f1": 0.5, "macro": 0.8283582089552239},
    ),
    "over-long": (
        "place_name:milan",
        "place_name:the city of milan",
        0.35051546391752575,
        {"word_f1": 0.25, "char_f1": 0.5862068965517241},
    ),
    "wrong type": ("time:five pm|person:ann", "date:five pm|flavour:mint", 0.0, {"macro": 0.0}),
    "repeated, in a good order": (
        "date:monday|date:monday morning",
        "date:tuesday morning|date:monday morning",
        0.6311044327573253,
        {},
    ),
    "repeated, in a bad order": (
        "date:monday|date:monday morning",
        "date:monday morning|date:tuesday morning",
        0.5882352941176471,
        {},
    ),
    "repeated, one only": ("date:monday|date:monday morning", "date:monday morning", 0.6666666666666666, {}),
    "both empty": ("", "", 0.0, {"macro": 0.0}),
    "no prediction": ("date:today", "", 0.0, {}),
    "no gold": ("", "date:today", 0.0, {}),
    "empty filler": ("date:today", "date:", 0.5, {}),
    "double space": ("place_name:new york", "place_name:new  york", 0.9473684210526315, {"word_f1": 1.0}),
    "said twice": ("date:today", "date:today|date:today", 0.6666666666666666, {}),
}


def parse(text):
    return [tuple(slot.split(":")) for slot in text.split("|") if slot]


@pytest.mark.parametrize("name", SENTENCES)
def test_official_numbers_of_single_sentences(name):
    gold, predicted, expected, others = SENTENCES[name]
    result = slu_f1([parse(predicted)], [parse(gold)])
    assert result["slu_f1"] == pytest.approx(expected, abs=1e-9)
    for key, value in others.items():
        if key == "macro":
            macro = slu_f1([parse(predicted)], [parse(gold)], average="macro")
            assert macro["slu_f1"] == pytest.approx(value, abs=1e-9)
        else:
            assert result[key] == pytest.approx(value, abs=1e-9)


def test_official_numbers_of_a_corpus():
    gold = [parse("person:john 's|personal_info:email"), [], parse("place_name:milan|date:today")]
    predicted = [parse("person:john's|personal_info:Email"), parse("date:today"), parse("place_name:milan")]
    micro, macro = slu_f1(predicted, gold), slu_f1(predicted, gold, average="macro")
    assert micro["slu_f1"] == pytest.approx(0.5801104972375691, abs=1e-9)
    assert micro["word_f1"] == pytest.approx(0.5, abs=1e-9)
    assert micro["char_f1"] == pytest.approx(0.6907894736842104, abs=1e-9)
    assert micro["span_f1"] == pytest.approx(0.25, abs=1e-9)
    assert macro["slu_f1"] == pytest.approx(0.5653409090909091, abs=1e-9)
    assert sorted(micro["per_type"]) == ["date", "person", "personal_info", "place_name"]
    assert micro["per_type"]["date"]["word_fp"] == 1 and micro["per_type"]["date"]["word_fn"] == 1
    totals = {name: sum(scores[name] for scores in micro["per_type"].values()) for name in COUNT_COLUMNS}
    assert (
        totals["word_tp"] == 3 and totals["word_fp"] == pytest.approx(3.0) and totals["word_fn"] == pytest.approx(3.0)
    )
    assert totals["char_fp"] == pytest.approx(1.342857142857143) == totals["char_fn"]


@cache
def edits(first, second):
    """Levenshtein from its recursive definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        edits(first[1:], second) + 1,
        edits(first, second[1:]) + 1,
        edits(first[1:], second[1:]) + (first[0] != second[0]),
    )


def oracle(predictions, references, average):
    """The definition a second time: one corpus-wide table keyed by (distance, type, kind), loops and P/R/F."""

    def split(text):
        return tuple(w for w in re.sub(r"\s{2,}", " ", text).strip().split(" ") if w)

    distances = {
        "word": lambda g, h: edits(split(g), split(h)) / len(split(g)),
        "char": lambda g, h: edits(g, h) / max(len(g), len(h)),
    }
    table, types = {}, set()
    for name, predicted_gold in itertools.product(distances, zip(predictions, references, strict=True)):
        predicted, gold = map(list, predicted_gold)
        used = [False] * len(gold)
        types |= {t for t, _ in predicted + gold}
        for slot_type, filler in predicted:
            best = None
            for i, (t, g) in enumerate(gold):
                if t == slot_type and not used[i] and (best is None or distances[name](g, filler) < best[1]):
                    best = i, distances[name](g, filler)
            if best is None:
                additions = {"fp": 1}
            else:
                used[best[0]] = True
                additions = {"tp": 1, "fp": best[1], "fn": best[1]}
            for kind, value in additions.items():
                table[name, slot_type, kind] = table.get((name, slot_type, kind), 0) + value
        for i, (t, _) in enumerate(gold):
            if not used[i]:
                table[name, t, "fn"] = table.get((name, t, "fn"), 0) + 1

    def f1(chosen):
        tp, fp, fn = (
            sum(table.get((n, t, kind), 0) for n in distances for t in chosen) for kind in ("tp", "fp", "fn")
        )
        p, r = (tp / (tp + fp) if tp + fp else 0), (tp / (tp + fn) if tp + fn else 0)
        return 2 * p * r / (p + r) if p + r else 0

    if average == "micro":
        return f1(types)
    return sum(f1([t]) for t in types) / len(types) if types else 0


def corpus(seed, sentences=40):
    rng = random.Random(seed)
    vocabulary = ["monday", "morning", "new york", "john 's", "five pm", "a", "the  b"]

    def filler():
        return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(1, 2)))

    def slots():
        return [(rng.choice(["date", "time", "person"]), filler()) for _ in range(rng.randint(0, 4))]

    return [slots() for _ in range(sentences)], [slots() for _ in range(sentences)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_equals_a_second_implementation(seed, average):
    predictions, references = corpus(seed)
    assert slu_f1(predictions, references, average)["slu_f1"] == pytest.approx(
        oracle(predictions, references, average), abs=1e-12
    )


def test_micro_slu_is_the_harmonic_mean_of_word_and_char():
    scores = slu_f1(*corpus(7))
    assert scores["slu_f1"] == pytest.approx(2 / (1 / scores["word_f1"] + 1 / scores["char_f1"]), abs=1e-12)


def test_perfect_and_shuffled_sentences():
    _, references = corpus(3)
    assert slu_f1(references, references)["slu_f1"] == 1.0
    predictions, references = corpus(4)
    order = random.Random(0).sample(range(len(references)), len(references))
    shuffled = slu_f1([predictions[i] for i in order], [references[i] for i in order])
    assert shuffled["slu_f1"] == pytest.approx(slu_f1(predictions, references)["slu_f1"], abs=1e-12)


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6))
@settings(max_examples=200, deadline=None)
def test_levenshtein_is_its_recursive_definition(first, second):
    assert levenshtein(first, second) == edits(first, second) == levenshtein(second, first)


def test_distances_at_their_edges():
    assert words("\ta  b\n\nc ") == ["a", "b", "c"]
    assert words("a\tb") == ["a\tb"]  # one white-space character that is not a space does not split
    assert word_distance("milan", "the city of milan") == 3.0
    assert char_distance("", "") == 1.0
    with pytest.raises(ValueError, match="no word"):
        word_distance(" ", "a")


def test_counts_add_up_and_bootstrap_exactly():
    predictions, references = corpus(5)
    counts = slu_f1_counts(predictions, references)
    assert counts.shape == (40, 9)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=6)
    for score in ("slu_f1", "word_f1", "char_f1", "span_f1"):
        resampled = slu_f1_from_counts(weights @ counts, score)
        for weight, value in zip(weights, resampled, strict=True):
            rows = np.repeat(np.arange(40), weight)  # the resample spelled out, sentence by sentence
            spelled = slu_f1([predictions[i] for i in rows], [references[i] for i in rows])
            assert value == pytest.approx(spelled[score], abs=1e-12)
    assert isinstance(slu_f1_from_counts(counts.sum(0)), float)
    assert slu_f1_from_counts(counts.mean(0)) == pytest.approx(slu_f1(predictions, references)["slu_f1"])


def test_empty_corpus():
    assert slu_f1([], [])["slu_f1"] == 0.0 == slu_f1([], [], average="macro")["slu_f1"]
    assert slu_f1_counts([], []).shape == (0, 9)


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([[]], [[], []], "1 predictions for 2 references"),
        ([[], []], [[], [("date", " ")]], r"references\[1\].*'date' is empty"),
        ([[], [("date",)]], [[], []], r"predictions\[1\].*not a \(type, filler\) pair"),
        ([["ab"]], [[]], r"predictions\[0\].*not a \(type, filler\) pair"),
        ([[("date", 3)]], [[]], r"predictions\[0\].*pair of strings"),
        ([None], [[]], r"predictions\[0\].*not a list of slots"),
        ([{"date": "today"}], [[]], r"predictions\[0\].*not a list of slots"),
    ],
)
def test_bad_input_names_its_row(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        slu_f1(predictions, references)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="micro"):
        slu_f1([], [], average="weighted")
    with pytest.raises(ValueError, match="span_f1"):
        slu_f1_from_counts(np.zeros(9), "slu")
    with pytest.raises(ValueError, match="last axis"):
        slu_f1_from_counts(np.zeros((3, 6)))


def test_gold_slurp_as_its_own_prediction(slurp_dir):
    """The pack's test split: a perfect prediction scores 1; one value per type costs what the reference page says."""
    import json

    rows = [json.loads(line) for line in (slurp_dir / "test.jsonl").open(encoding="utf-8")]
    gold = [row["slots"] for row in rows]
    assert slu_f1(gold, gold)["slu_f1"] == 1.0
    one_per_type = [[list(slot) for slot in dict(slots).items()] for slots in gold]
    assert slu_f1(one_per_type, gold)["slu_f1"] == pytest.approx(0.9845, abs=5e-5)
