"""Calibration by plain loops and by hand."""

import math

import numpy as np
import pytest

from trl_weaks.metrics.calibration import brier_score, expected_calibration_error, reliability_bins


def sample(seed=0, rows=2000):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(3, 1, rows)
    return confidence, rng.uniform(size=rows) < confidence**2


def test_by_plain_loops():
    confidence, correct = sample()
    table, total = reliability_bins(confidence, correct, bins=7), 0.0
    for b in range(7):
        rows = [i for i, c in enumerate(confidence) if b / 7 <= c < (b + 1) / 7 or (b == 6 and c == 1)]
        assert table["count"][b] == len(rows)
        if rows:
            mean_c, mean_a = sum(confidence[rows]) / len(rows), sum(correct[rows]) / len(rows)
            assert (table["confidence"][b], table["accuracy"][b]) == pytest.approx((mean_c, mean_a))
            total += len(rows) / len(confidence) * abs(mean_c - mean_a)
    assert expected_calibration_error(confidence, correct, bins=7) == pytest.approx(total)


def test_by_hand():
    assert expected_calibration_error([0.95, 0.95, 0.15, 0.15], [1, 0, 0, 0]) == pytest.approx((0.45 + 0.15) / 2)
    assert brier_score([0.9, 0.2], [1, 1]) == pytest.approx((0.01 + 0.64) / 2)
    assert brier_score([[0.9, 0.1], [0.2, 0.8]], [0, 0]) == pytest.approx((0.02 + 1.28) / 2)


def test_edges():
    table = reliability_bins([0.0, 0.1, 1.0], [0, 1, 1])
    assert table["count"] == [1, 1] + [0] * 7 + [1]
    assert math.isnan(table["accuracy"][5]) and table["edges"][0] == 0 and table["edges"][-1] == 1
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0.0


def test_one_bin_is_the_gap_of_the_means():
    confidence, correct = sample()
    gap = abs(confidence.mean() - correct.mean())
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(gap)


def test_brier_of_two_classes_is_twice_the_binary_one():
    confidence, correct = sample()
    table = np.stack([1 - confidence, confidence], axis=1)
    assert brier_score(table, correct.astype(int)) == pytest.approx(2 * brier_score(confidence, correct))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: reliability_bins([0.5, 1.2], [1, 0]), r"confidences\[1\] = 1.2"),
        (lambda: reliability_bins([float("nan")], [1]), r"confidences\[0\]"),
        (lambda: reliability_bins([0.5, 0.5], [1, 2]), r"correct\[1\]"),
        (lambda: reliability_bins([0.5], [1, 0]), "one length"),
        (lambda: reliability_bins([], []), "one length"),
        (lambda: reliability_bins([0.5], [1], bins=0), "bins=0"),
        (lambda: brier_score([[0.5, 0.5], [0.5, 0.6]], [0, 1]), r"probabilities\[1\]"),
        (lambda: brier_score([[0.5, 0.5]], [2]), r"outcomes\[0\] = 2"),
        (lambda: brier_score([[0.5, 0.5]], [0, 1]), r"\(n, K\)"),
    ],
)
def test_bad_input_names_its_row(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("bins", [2, 3, 5, 7, 10, 20, 100])
def test_an_edge_belongs_to_the_bin_above_it(bins):
    """0.3 of ten bins opens the fourth, whatever binary rounding says; edges are the numbers one would write."""
    edges = [i / bins for i in range(bins)]
    assert reliability_bins(edges, [1] * bins, bins)["count"] == [1] * bins
    just_below = [i / bins - 1e-12 for i in range(1, bins + 1)]
    assert reliability_bins(just_below, [1] * bins, bins)["count"] == [1] * bins
    if bins == 10:
        for edge in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            assert reliability_bins([edge], [1])["count"][round(10 * edge)] == 1
