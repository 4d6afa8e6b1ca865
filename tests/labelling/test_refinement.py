"""Iterative label refinement: what is replaced and how much, with planted labels that are worse than the student."""

import math

import numpy as np
import pytest
from datasets import Dataset

from trl_weaks.labelling.refinement import Proposal, cross_halves, proposals, refined
from trl_weaks.supervisors.scores import Scored

DRAWN = np.random.default_rng(0)


def labels(texts, scores):
    rows = [
        {
            "example_id": f"e{i}", "prompt": f"question {i}", "completion": text, "weak_supervisors": ["a"],
            "weak_weights": [1.0], "weak_offsets": [[[0, len(text)]]], "weak_logps": [[-0.5]], "weak_score": score,
            "weak_finished": False,
        }
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]  # fmt: skip
    return Dataset.from_list(rows)


def proposal(text, score):
    return Proposal(text, {"a": [(0, len(text))], "b": [(0, 1)]}, {"a": [-0.1], "b": [-0.2]}, score)


WEIGHTS = {"a": 0.25, "b": 0.75}


def test_labels_worse_than_the_student_get_better_and_a_fooled_judge_makes_them_no_better():
    n = 400
    right = DRAWN.random(n) < 0.4  # the labels; the student's answers are right in 0.8
    student = DRAWN.random(n) < 0.8
    old = ["right" if r else f"wrong {i}" for i, r in enumerate(right)]
    new = ["right" if r else f"other {i}" for i, r in enumerate(student)]

    def share_right(judged_well):
        def score(text):  # a judge that is often right, or one that prefers what is wrong
            return DRAWN.normal() * 0.5 + (1.0 if judged_well else -1.0) * (text == "right")

        given = labels(old, [score(text) for text in old])
        made, told = refined(given, {f"e{i}": proposal(t, score(t)) for i, t in enumerate(new)}, WEIGHTS, 0.5)
        assert told["replaced"] == min(told["preferred"], n // 2) and told["same"] == (right & student).sum()
        return np.mean([text == "right" for text in made["completion"]])

    assert share_right(True) > 0.6 > 0.41 > share_right(False)


def test_the_clearest_cases_go_first_and_no_more_than_the_share():
    given = labels(["a", "b", "c", "d"], [-1.0, -1.0, -1.0, -1.0])
    gains = {"e0": proposal("x", -0.9), "e1": proposal("x", -0.1), "e2": proposal("c", 0.0), "e3": proposal("x", -1.0)}
    made, told = refined(given, gains, WEIGHTS, 0.25)
    assert made["completion"][:] == ["a", "x", "c", "d"]
    assert told == {
        "labels": 4, "proposed": 4, "same": 1, "preferred": 2, "replaced": 1, "mean_gain": pytest.approx(0.9),
    }  # fmt: skip
    assert refined(given, gains, WEIGHTS, 1.0)[0]["completion"][:] == ["x", "x", "c", "d"]  # equal scores: it stays
    hundred = labels(["a"] * 100, [-1.0] * 100)
    better = {example: proposal("x", -0.5) for example in hundred["example_id"]}
    assert refined(hundred, better, WEIGHTS, 0.29)[1]["replaced"] == 29  # 0.29 * 100 is 28.999... in floats
    row = made[1]
    assert row["weak_supervisors"] == ["a", "b"] and row["weak_weights"] == [0.25, 0.75] and row["weak_finished"]
    assert row["weak_logps"] == [[-0.1], [-0.2]] and row["weak_score"] == -0.1
    assert made[0] == given[0]
    nothing, told = refined(given, {}, WEIGHTS)
    assert nothing.to_list() == given.to_list() and math.isnan(told["mean_gain"])


class Reader:
    """A supervisor that reads: 'bad' at -2 nats a token, others at -1; nothing that is longer than 20 characters."""

    def __init__(self, name, shift=0.0):
        self.name, self.shift = name, shift

    def score_fitting(self, prompts, completions, names=None):
        return [
            None if len(text) > 20 else Scored([0, 0], [self.shift - 1 - ("bad" in text)] * 2, [(0, 1), (1, 1)])
            for text in completions
        ]


class Committee:
    supervisors = (Reader("a"), Reader("b", -0.5))
    names, weights = ["a", "b"], [0.25, 0.75]


def test_answers_are_read_by_all_and_those_that_cannot_be_are_no_proposals():
    answers = [("good", True), ("bad", True), ("", True), ("cut", False), ("far too long for them", True)]
    found = proposals(Committee(), ["p", "q", "r", "s", "t"], ["?"] * 5, answers)
    assert list(found) == ["p", "q"]
    assert found["p"].score == pytest.approx(0.25 * -1 + 0.75 * -1.5)
    assert found["q"].score == pytest.approx(found["p"].score - 1) and found["q"].logps["b"] == [-2.5, -2.5]
    assert proposals(Committee(), ["r"], ["?"], [("", True)]) == {}


def test_halves_part_the_examples_by_seed_whatever_their_order():
    given = labels([str(i) for i in range(9)], [-1.0] * 9)
    first, second = cross_halves(given, 3)
    assert (len(first), len(second)) == (5, 4)
    assert sorted([*first["example_id"], *second["example_id"]]) == sorted(given["example_id"])
    other = cross_halves(given.select(range(8, -1, -1)), 3)[0]
    assert set(other["example_id"]) == set(first["example_id"])
    assert any(set(cross_halves(given, seed)[0]["example_id"]) != set(first["example_id"]) for seed in range(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: refined(one, {}, WEIGHTS, 0.0), "share=0.0"),
        (lambda one: refined(one, {}, WEIGHTS, 1.5), "share=1.5"),
        (lambda one: refined(one, {}, WEIGHTS, math.nan), "share=nan"),
        (lambda one: refined(one.remove_columns("weak_score"), {}, WEIGHTS), "no column 'weak_score'"),
        (lambda one: refined(one.select([0, 0]), {}, WEIGHTS), "'e0' has several labels"),
        (lambda one: cross_halves(one.select([0])), "there is 1 example"),
        (lambda one: proposals(Committee(), ["p"], ["?"], []), "zip"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(labels(["a", "b"], [-1.0, -1.0]))
