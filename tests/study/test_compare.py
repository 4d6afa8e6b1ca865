"""Two rows against each other: planted differences, symmetry, and Holm's adjustment by its definition."""

import numpy as np
import pytest

from trl_weaks.study.report.compare import compare_systems, comparison_section, holm
from trl_weaks.study.report.results import ACCURACY

RNG = np.random.default_rng(0)


def test_holm_is_its_definition():
    for size in (1, 2, 5):
        p = RNG.random(size) / 4
        order = sorted(p)
        for value, adjusted in zip(p, holm(p), strict=True):
            rank = order.index(value)
            assert adjusted == pytest.approx(max(min(1, (size - j) * order[j]) for j in range(rank + 1)))


def test_a_planted_difference_is_found_and_swapping_only_turns_the_sign():
    right = {"a": RNG.random((6, 800)) < 0.7, "b": RNG.random((6, 800)) < 0.5}
    (one,), (other,) = (compare_systems(right, ACCURACY, names) for names in (["a", "b"], ["b", "a"]))
    assert one["difference"] == pytest.approx(right["a"].mean() - right["b"].mean()) == -other["difference"]
    assert one["interval"][0] < one["difference"] < one["interval"][1] and one["p_value"] < 0.01
    assert one["p_value"] == other["p_value"]
    assert one["interval"] == pytest.approx([-x for x in other["interval"][::-1]], abs=2e-3)


def test_the_paired_interval_is_that_of_the_differences():
    """By the normal approximation of the mean of paired differences, one seed."""
    a, b = RNG.random(1500) < 0.7, RNG.random(1500) < 0.65
    (found,) = compare_systems({"a": a[None], "b": b[None]}, ACCURACY, ["a", "b"])
    gaps = a.astype(float) - b
    half = 1.96 * gaps.std(ddof=1) / np.sqrt(1500)
    assert found["interval"] == pytest.approx([gaps.mean() - half, gaps.mean() + half], abs=2e-3)


def test_a_row_against_itself_differs_by_nothing():
    right = {"a": RNG.random((1, 50)) < 0.5}
    (found,) = compare_systems(right, ACCURACY, ["a", "a"])
    assert found["difference"] == 0 and found["interval"] == [0, 0] and found["p_value"] == 1
    assert comparison_section([], ACCURACY, {}) == "" and "+0.0000" in comparison_section(
        [found], ACCURACY, {"a": "A"}
    )


def test_resamples_that_tie_but_for_rounding_are_on_both_sides(monkeypatch):
    """Sixty of a hundred tie: twice the smaller side, 0.6, is more than 1; and 0.02, were rounding a lead."""
    drawn = {"a": np.array([0.5 + 1.2e-16] * 60 + [0.6] * 40), "b": np.full(100, 0.5)}
    assert (drawn["a"] > drawn["b"]).all()
    monkeypatch.setattr("trl_weaks.study.report.compare.bootstrap_scores", lambda *given, **more: drawn)
    right = {name: np.array([[1.0, 0.0]]) for name in drawn}
    (found,) = compare_systems(right, ACCURACY, ["a", "b"], resamples=100)
    assert found["p_value"] == 1
