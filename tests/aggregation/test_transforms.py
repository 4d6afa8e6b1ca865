"""Transforms of labels against lists by hand; what they leave is labels still, weights summing to 1."""

import doctest
import math

import pytest
from datasets import Dataset

from trl_weaks import labels_from_completions
from trl_weaks.aggregation import transforms
from trl_weaks.aggregation.transforms import Filter, KeepBest, KeepSurestPairs, Relabel, Reweight, compose

CLASSES = Dataset.from_dict(
    {
        "text": list("abcd"),
        "weak_probs": [[[0.9, 0.1], [0.1, 0.9]], [[0.8, 0.2], [0.8, 0.2]], [[0.5, 0.5]] * 2, [[0.0, 1.0]] * 2],
        "weak_weights": [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
    }
)
TEXTS = Dataset.from_dict(
    {
        "example_id": ["1", "1", "2"],
        "prompt": ["p", "p", "q"],
        "completion": ["x", "y", "z"],
        "weak_supervisors": [["a"], ["b"], ["a", "b"]],
        "weak_weights": [[0.5], [0.5], [0.5, 0.5]],
        "weak_offsets": [[[[0, 1], [1, 1]]], [[[0, 1], [1, 1]]], [[[0, 1], [1, 1]]] * 2],
        "weak_logps": [[[-0.1, -0.1]], [[-2.0, -2.0]], [[-1.0, -1.0]] * 2],
        "weak_score": [-0.1, -2.0, -1.0],
    }
)


def test_sure_rows_stay_and_weights_sum_to_one_again():
    assert [round(transforms.confidence(row), 9) for row in CLASSES] == [0.7, 0.8, 0.5, 1.0]
    assert Filter(0.7)(CLASSES)["text"][:] == ["a", "b", "d"]
    found = Filter(0.3)(TEXTS)
    assert found["completion"][:] == ["x", "z"] and found["weak_weights"][:] == [[1.0], [0.5, 0.5]]
    assert KeepBest(0.5)(CLASSES)["text"][:] == ["b", "d"] and KeepBest(0.01)(TEXTS)["completion"][:] == ["x"]
    assert KeepBest(1.0)(CLASSES).to_list() == CLASSES.to_list()
    assert compose(KeepBest(0.75), Filter(0.75))(CLASSES)["text"][:] == ["b", "d"]


def test_answers_from_elsewhere_are_as_sure_as_their_supervisors_say():
    """They have no `weak_score`: the surest are those with the highest stated confidence, cut answers among them."""
    examples = [{"example_id": str(i), "prompt": f"q{i}"} for i in range(4)]
    stated = [0.1, 0.2, 0.9, 0.95]
    answers = [
        {"example_id": str(i), "supervisor": "api", "completion": f" a{i}", "confidence": sure,
         "finish_reason": "length" if i == 3 else "stop"}
        for i, sure in enumerate(stated)
    ]  # fmt: skip
    labels = labels_from_completions(examples, answers)
    assert [transforms.confidence(row) for row in labels] == pytest.approx(stated)
    assert KeepBest(0.5)(labels)["completion"][:] == [" a2", " a3"]
    assert Filter(0.15)(labels)["completion"][:] == [" a1", " a2", " a3"]
    other = {"example_id": "0", "supervisor": "weak", "completion": " a0", "confidence": 0.5}
    shared = labels_from_completions(examples, [*answers, other], weights={"api": 3.0, "weak": 1.0})
    assert transforms.confidence(shared[0]) == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)
    spelt = {"tokens": [" a", "0"], "token_logprobs": [math.log(0.5), math.log(0.8)]}
    (read,) = labels_from_completions(examples[:1], [answers[0] | {"confidence": None, "logprobs": spelt}])
    assert transforms.confidence(read) == pytest.approx(0.4)


@pytest.mark.parametrize("make", [lambda: KeepBest(0.5), lambda: Filter(0.5)])
def test_scores_of_tokens_and_confidences_of_answers_are_not_sorted_together(make):
    mixed = TEXTS.map(lambda row: {"weak_score": None if row["completion"] == "y" else row["weak_score"]})
    with pytest.raises(ValueError, match=r"row 1 \(example '1'\): column 'weak_score' is empty"):
        make()(mixed)
    bare = TEXTS.remove_columns(["weak_score", "weak_logps"])
    with pytest.raises(ValueError, match=r"row 0 \(example '1'\): .*neither 'weak_score' nor 'weak_logps'"):
        make()(bare)


def test_a_relabelled_answer_keeps_nothing_of_who_gave_the_old_one():
    labels = TEXTS.add_column("confidence_source", [["stated"], [None], ["stated", "samples"]])
    labels = labels.add_column("weak_top_logps", [[[[{"token": "x", "logp": -0.1}], []]], [None], [None, None]])
    found = Relabel(lambda row: "new")(labels)
    assert found["confidence_source"][:] == [[None]] * 3 and found["weak_top_logps"][:] == [[None]] * 3


def test_relabelled_rows_are_sure_and_others_stay():
    found = Relabel(lambda row: [0.25, 0.75] if row["text"] == "c" else None)(CLASSES)
    assert found[2]["weak_probs"] == [[0.25, 0.75]] and found[2]["weak_weights"] == [1.0]
    assert found.select([0, 1, 3]).to_list() == CLASSES.select([0, 1, 3]).to_list()
    found = Relabel(lambda row: "new" if row["completion"] == "y" else None)(TEXTS)
    assert found[1] == TEXTS[1] | {
        "completion": "new", "weak_supervisors": ["relabelled"], "weak_offsets": [[[0, 3], [3, 3]]],
        "weak_logps": [[0.0, 0.0]], "weak_score": 0.0,
    }  # fmt: skip
    assert found.features == TEXTS.features and found[0] == TEXTS[0]


def test_factors_multiply_weights():
    found = Reweight(lambda row: 3.0 if row["completion"] == "x" else 1.0)(TEXTS)["weak_weights"][:]
    assert found == [[0.75], [0.25], [0.5, 0.5]]
    assert Reweight(lambda row: [1.0, 3.0])(CLASSES)["weak_weights"][1:] == [[0.25, 0.75]] * 3


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (lambda: Filter(1.5), None, "min_confidence=1.5"),
        (lambda: KeepBest(0.0), None, "share=0.0"),
        (lambda: Filter(math.nan), None, "min_confidence=nan"),
        (lambda: Filter(0.99), TEXTS, "the surest of 3 rows has 0.905; no row is left"),
        (lambda: Relabel(lambda row: [0.5, 0.6]), CLASSES, "Relabel, row 0: .*sum to 1"),
        (lambda: Relabel(lambda row: "b"), CLASSES, "Relabel, row 0"),
        (lambda: Relabel(lambda row: [1.0]), TEXTS, "Relabel, row 0: .*give a text"),
        (lambda: Reweight(lambda row: 2.0), CLASSES, "one factor for all would change nothing"),
        (lambda: Reweight(lambda row: [1.0]), CLASSES, "Reweight, row 0: .* for 2 weights"),
        (lambda: Reweight(lambda row: -1.0), TEXTS, "Reweight, row 0"),
        (lambda: Reweight(lambda row: 1.0), TEXTS.remove_columns("weak_weights"), "no column 'weak_weights'"),
    ],
)
def test_bad_numbers_and_labels_are_named(make, labels, message):
    with pytest.raises(ValueError, match=message):
        make()(labels)


@pytest.mark.parametrize("make", [KeepBest, KeepSurestPairs])
@pytest.mark.parametrize(("share", "rows", "kept"), [(0.55, 100, 55), (0.07, 100, 7), (0.28, 25, 7), (0.31, 10, 4)])
def test_a_share_of_whole_rows_is_not_rounded_up_by_its_floats(make, share, rows, kept):
    doubts = [row / (2 * rows) for row in range(rows)]
    table = Dataset.from_dict({"weak_probs": [[[1 - d, d]] for d in doubts], "pair_epsilon": doubts})
    assert make(share)(table)["pair_epsilon"][:] == doubts[:kept]


@pytest.mark.parametrize("make", [lambda: KeepBest(0.5), lambda: Filter(0.5)])
def test_a_row_that_has_no_confidence_is_named_and_not_sorted_somewhere(make):
    unknown = CLASSES.map(lambda row, n: {"weak_probs": [[math.nan, 0.5]] * 2 if n == 2 else row["weak_probs"]},
                          with_indices=True)  # fmt: skip
    unheard = CLASSES.map(lambda row, n: {"weak_weights": [0.0, 0.0] if n == 1 else row["weak_weights"]},
                          with_indices=True)  # fmt: skip
    for labels, row in ((unknown, 2), (unheard, 1)):
        with pytest.raises(ValueError, match=rf"row {row} \(example {row}\): its confidence is no number"):
            make()(labels)
    scored = TEXTS.map(lambda row: {"weak_score": math.nan if row["completion"] == "z" else row["weak_score"]})
    with pytest.raises(ValueError, match=r"row 2 \(example '2'\)"):
        make()(scored)


def test_the_example_runs():
    found = doctest.testmod(transforms)
    assert found.attempted >= 5 and found.failed == 0


def test_a_new_label_is_not_weighed_as_the_old_one():
    labels = Dataset.from_list([{"example_id": "1", "text": "t", "weak_probs": [[0.2, 0.8]], "triage_weight": 0.3}])
    assert Relabel(lambda row: [1.0, 0.0])(labels)["triage_weight"][:] == [1.0]
