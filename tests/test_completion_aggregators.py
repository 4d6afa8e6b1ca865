"""Candidates and scores to rows, by hand; every registered aggregator; and one of a user's own."""

import doctest
import math
import random

import pytest

from trl_weaks.aggregation.answers import completions as module
from trl_weaks.aggregation.answers import rover
from trl_weaks.aggregation.answers.completions import (
    COMPLETION_AGGREGATORS,
    Answered,
    Candidate,
    CompletionAggregator,
    LeftOut,
    rows_of,
    texts_to_score,
)

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
# mean log-probability per token of each text by a, b, c
MEANS = {"x": (-1.0, -2.0, -3.0), "y": (-1.5, -1.0, -1.0), "z": (-4.0, -0.5, -0.25)}
CANDIDATES = {"a": [("x", True), ("y", False)], "b": [("x", False), ("z", True)], "c": [("y", True), ("", True)]}


def answered(candidates=CANDIDATES, means=MEANS):
    scores = {
        name: {text: ([(0, 1), (1, 1)], [row[i] - 0.25, row[i] + 0.25]) for text, row in means.items()}
        for i, name in enumerate(WEIGHTS)
    }
    return Answered(WEIGHTS, candidates, scores)


def made(mode, unfinished="no_eos", given=None):
    left_out = LeftOut()
    return list(rows_of(given or answered(), COMPLETION_AGGREGATORS[mode], left_out, unfinished)), left_out


def test_joint_takes_the_text_of_highest_weighted_mean_and_those_who_gave_it():
    (row,), left_out = made("joint")
    right = {text: sum(w * m for w, m in zip(WEIGHTS.values(), row, strict=True)) for text, row in MEANS.items()}
    assert max(right, key=right.get) == "y" == row["completion"]
    assert row["weak_supervisors"] == ["a", "c"] and row["weak_weights"] == pytest.approx([0.5 / 0.7, 0.2 / 0.7])
    assert row["weak_score"] == pytest.approx(-1.25) and row["weak_finished"], "c ended what a did not"
    assert len(row["weak_logps"][0]) == 2 and left_out.unfinished == {"a": 0, "b": 1, "c": 0}


def test_independent_keeps_each_best_answer_and_tells_cut_ones_from_whole_ones():
    rows, _ = made("independent")
    assert [(r["completion"], r["weak_finished"], r["weak_supervisors"]) for r in rows] == [
        ("x", False, ["b"]),
        ("x", True, ["a"]),
        ("y", True, ["c"]),
    ]
    assert math.fsum(w for row in rows for w in row["weak_weights"]) == pytest.approx(1)
    assert [len(row["weak_logps"][0]) for row in rows] == [1, 2, 2], "a cut answer teaches no end"
    assert [r["weak_supervisors"] for r in made("independent", "keep")[0]] == [["a", "b"], ["c"]]
    assert [r["weak_supervisors"] for r in made("independent", "drop")[0]] == [["a"], ["c"]]


def edits(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def test_minimum_bayes_risk_by_brute_force():
    draw = random.Random(0)
    for _ in range(30):
        texts = sorted({" ".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(4)})
        given = [Candidate(t, True, list("uvw")[: draw.randint(1, 3)], {}, -draw.random()) for t in texts]
        risks = {}
        for one in given:
            said = [other.text for other in given for _ in other.supervisors]
            pairs = [(one.text.split(), text.split()) for text in said]
            risks[one.text] = math.fsum(edits(a, b) / max(len(a), len(b)) for a, b in pairs)
        (found,) = COMPLETION_AGGREGATORS["mbr"].choose(given)
        least = min(risks.values())
        ties = [one for one in given if risks[one.text] < least + 1e-9]
        assert found is max(ties, key=lambda one: one.score)


def cheapest(slots, words):
    """Every way of the words through the slots, by recursion: (cost, steps) with put < skip < insert."""
    if not slots and not words:
        return [(0, ())]
    found = []
    if slots and words:
        found += [(cost + (words[0] not in slots[0]), (0, *way)) for cost, way in cheapest(slots[1:], words[1:])]
    if slots:
        found += [(cost + ("" not in slots[0]), (1, *way)) for cost, way in cheapest(slots[1:], words)]
    if words:
        found += [(cost + 1, (2, *way)) for cost, way in cheapest(slots, words[1:])]
    return found


def rover_by_loops(said, weights):
    """A table of words, one column for each sequence; every alignment is tried."""
    table, order = [], sorted(range(len(said)), key=lambda n: (-weights[n], said[n]))
    for seen, n in enumerate(order):
        _, way = min(cheapest([set(row) for row in table], said[n]))
        rows, words, old = [], list(said[n]), list(table)
        for step in way:
            row = [""] * seen if step == 2 else old.pop(0)
            rows.append([*row, "" if step == 1 else words.pop(0)])
        table = rows
    agreed = []
    for row in table:
        votes = {word: math.fsum(weights[n] for n, w in zip(order, row, strict=True) if w == word) for word in row}
        most = max(votes.values())
        agreed.append(next(word for word in row if votes[word] > most - 1e-9))
    return [word for word in agreed if word]


def test_rover_by_brute_force():
    draw = random.Random(0)
    for _ in range(40):
        said = [draw.choices("abc", k=draw.randint(1, 4)) for _ in range(3)]
        weights = [draw.choice((0.25, 0.5, 0.5, 1.0)) for _ in said]
        right = rover_by_loops(said, weights)
        assert rover.consensus(said, weights) == right, (said, weights)
        texts = {" ".join(words): weight for words, weight in zip(said, weights, strict=True)}
        given = [Candidate(text, True, ["u"], {}, math.log(weight)) for text, weight in texts.items()]
        right = rover_by_loops([text.split() for text in texts], list(texts.values()))
        (found,) = COMPLETION_AGGREGATORS["rover"].choose(given)
        assert edits(found.text.split(), right) == min(edits(text.split(), right) for text in texts)


def test_equal_draws_count_each_in_the_risk_and_beams_with_one_text_once():
    """The mean over all answers as they were given, by loops."""
    draw, texts = random.Random(2), ["a b", "c d", "a d", "c d e f"]
    scores = {name: {text: ([(0, 1), (1, 1)], [-1.0, -draw.random()]) for text in texts} for name in "uv"}
    chosen = {True: set(), False: set()}
    for _ in range(30):
        said = {name: [(text, True) for text in draw.choices(texts, k=5)] for name in "uv"}
        for drawn in (True, False):
            answered = Answered({"u": 0.5, "v": 0.5}, said, scores, drawn)
            (row,) = rows_of(answered, COMPLETION_AGGREGATORS["mbr"], LeftOut())
            kept = {name: rows if drawn else set(rows) for name, rows in said.items()}
            all_said = [text.split() for rows in kept.values() for text, _ in rows]
            risks = {
                " ".join(one): sum(edits(one, other) / max(len(one), len(other)) for other in all_said)
                for one in all_said
            }
            assert risks[row["completion"]] == pytest.approx(min(risks.values()))
            chosen[drawn].add((str(said), row["completion"]))
    assert chosen[True] != chosen[False], "it matters somewhere"


def test_rover_takes_each_word_from_those_sure_of_it():
    said = ["play jazz now".split(), "stay jazz".split(), "play jars".split()]
    assert rover.consensus(said, [1, 1, 1]) == ["play", "jazz"]
    assert rover.consensus(said, [1, 1, 2.5]) == ["play", "jars"], "one that is surer than both others"
    assert rover.consensus(said, [1e-12, 1e-12, 1e-12]) == ["play", "jazz"], "shares count, not their sum"
    assert rover.consensus([["a"], [], []], [1, 1, 1]) == []
    names = [Candidate("x", True, list("abc"), {}, -2.0), Candidate("y", True, ["d"], {}, -1.5)]
    assert COMPLETION_AGGREGATORS["rover"].choose(names)[0].text == "x", "three voices of .14 against one of .22"


@pytest.mark.parametrize(
    ("said", "weights", "message"),
    [
        ([], [], "no sequence to vote"),
        ([["a"]], [1.0, 1.0], "1 sequences have 2 weights"),
        (["a b"], [1.0], r"sequence 0 is a text.*text.split\(\)"),
        ([["a"], ["b", ""]], [1.0, 1.0], "sequence 1 has an empty word"),
        ([["a"], ["b"]], [1.0, math.nan], "the weight of sequence 1 is nan"),
        ([["a"]], [-1.0], "the weight of sequence 0 is -1.0"),
        ([["a"]], [0.0], "every sequence has weight 0"),
    ],
)
def test_rover_refuses_what_it_cannot_align_or_weigh(said, weights, message):
    with pytest.raises(ValueError, match=message):
        rover.consensus(said, weights)


@pytest.mark.parametrize("name", ["joint", "mbr", "rover"])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_candidate_whose_score_is_nan_is_named_and_not_chosen_by_its_place(name, turn):
    given = [Candidate("a", True, ["u"], {}, -1.0), Candidate("b", True, ["v"], {}, math.nan)]
    with pytest.raises(ValueError, match="the candidate 'b' has score nan"):
        COMPLETION_AGGREGATORS[name].choose(given[::turn])


@pytest.mark.parametrize("mode", COMPLETION_AGGREGATORS)
def test_what_is_registered_gives_weights_of_one_and_does_not_depend_on_order(mode):
    first, _ = made(mode)
    assert math.fsum(w for row in first for w in row["weak_weights"]) == pytest.approx(1)
    texts = texts_to_score(CANDIDATES, COMPLETION_AGGREGATORS[mode])
    assert texts == sorted(set(texts) - {""}) and {row["completion"] for row in first} <= set(texts)
    aggregator = COMPLETION_AGGREGATORS[mode]
    chosen = []

    def shuffled(candidates):
        chosen[:] = random.Random(len(chosen)).sample(list(candidates), len(candidates))
        return aggregator.choose(chosen)

    again = rows_of(answered(), CompletionAggregator(shuffled, aggregator.best_only), LeftOut())
    assert list(again) == first


@pytest.mark.parametrize("mode", COMPLETION_AGGREGATORS)
def test_a_text_too_long_for_one_supervisor_is_left_out_and_counted(mode):
    given = answered()
    for text in MEANS:
        given.scores["b"][text] = ([], [])
    rows, left_out = made(mode, given=given)
    assert rows == [] and left_out.too_long["b"] == (2 if mode == "independent" else 3), "x and y; x, y and z"


def test_an_aggregator_that_chooses_what_it_was_not_given_or_nothing_is_named():
    def twice(candidates):
        return [candidates[0], candidates[0]]

    for chosen, message in (
        (lambda c: [], "chose no candidate"),
        (lambda c: ["x"], "was not given"),
        (twice, "candidate twice"),
    ):
        with pytest.raises(ValueError, match=message):
            list(rows_of(answered(), CompletionAggregator(chosen), LeftOut()))


def test_the_examples_in_the_module_run():
    found = doctest.testmod(module, extraglobs={})
    assert found.failed == 0 and found.attempted >= 7
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(rover) == (0, 2)


def test_a_cut_answer_that_its_supervisor_reads_as_no_token_is_empty():
    """White space alone, where the chat template trims it: nothing but its end could be taught, and it has none."""
    scores = {name: {"\t": ([(1, 1)], [-0.5])} for name in WEIGHTS}
    scores["c"]["\t"] = ([(0, 1), (1, 1)], [-0.25, -0.5])
    given = Answered(WEIGHTS, {"a": [("\t", False)], "b": [("\t", True)], "c": [("\t", False)]}, scores)
    rows, left_out = made("independent", given=given)
    assert [(r["weak_finished"], r["weak_supervisors"]) for r in rows] == [(False, ["c"]), (True, ["b"])]
    assert rows[0]["weak_logps"] == [[-0.25]] and rows[1]["weak_logps"] == [[-0.5]]
    assert left_out.empty == {"a": 1, "b": 0, "c": 0}
