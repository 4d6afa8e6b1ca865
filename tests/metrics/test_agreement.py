"""Agreement between supervisors by hand and against SLU-F1's exact-match score."""

import numpy as np
import pytest

from trl_weaks.metrics.agreement import label_agreement, right, slot_agreement, top_shares
from trl_weaks.metrics.slu_f1 import slu_f1

A = [[("date", "today"), ("time", "five")], [], [("date", "monday")], [("date", "x"), ("date", "x")]]
B = [[("time", "five"), ("date", "today")], [], [("date", "friday")], [("date", "x")]]
C = [[("date", "today")], [("date", "today")], [["date", "monday"]], []]


def test_labels_by_hand():
    result = label_agreement({"a": [0, 1, 1, 0], "b": [0, 1, 0, 0], "c": [1, 1, 0, 0]})
    assert [pair["exact_match"] for pair in result["pairs"]] == [0.75, 0.5, 0.75]
    assert result["exact_match"] == pytest.approx(2 / 3) and result["all_agree"] == 0.5
    assert (result["pairs"][0]["first"], result["pairs"][0]["second"]) == ("a", "b")


def test_slots_by_hand():
    result = slot_agreement({"a": A, "b": B})
    assert result["exact_match"] == 0.5  # the order of slots does not matter, how often one is said does
    assert result["span_f1"] == pytest.approx(2 * 3 / (5 + 4))


def test_span_f1_is_that_of_the_metric_and_symmetric():
    outputs = {"a": A, "b": B, "c": C}
    result = slot_agreement(outputs)
    for pair in result["pairs"]:
        first, second = outputs[pair["first"]], outputs[pair["second"]]
        assert pair["span_f1"] == pytest.approx(slu_f1(first, second)["span_f1"])
        assert pair["span_f1"] == pytest.approx(slu_f1(second, first)["span_f1"])
    assert result["span_f1"] == pytest.approx(sum(pair["span_f1"] for pair in result["pairs"]) / 3)


def test_supervisors_without_slots_agree():
    assert slot_agreement({"a": [[], []], "b": [[], []]})["span_f1"] == 1.0


@pytest.mark.parametrize(
    "outputs, message",
    [({"a": A}, "two supervisors"), ({"a": A, "b": B[:2]}, "same examples"), ({"a": [], "b": []}, "at least one")],
)
def test_bad_input(outputs, message):
    with pytest.raises(ValueError, match=message):
        slot_agreement(outputs)


def test_what_ties_counts_in_equal_parts():
    votes = np.array([[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3], [np.nan] * 3])
    np.testing.assert_array_equal(top_shares(votes), [[0.5, 0.5, 0], [0, 1, 0], [1 / 3] * 3, [np.nan] * 3])
    np.testing.assert_array_equal(right(votes[:3], [0, 0, 2]), [0.5, 0, 1 / 3])
    np.testing.assert_array_equal(right(np.stack([votes[:3]] * 2), [1, 1, 1]), [[0.5, 1, 1 / 3]] * 2)
    assert top_shares([0.1 + 0.2, 0.3, 0.4 - 1e-6]).tolist() == [0, 0, 1]
    assert top_shares([0.1 + 0.2, 0.3]).tolist() == [0.5, 0.5]  # one number, summed in two orders
