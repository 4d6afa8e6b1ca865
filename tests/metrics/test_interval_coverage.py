"""The intervals hold planted effects as often as they say; docs/evidence/intervals.md has the whole table."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "intervals.py"


@pytest.fixture(scope="module")
def intervals():
    spec = importlib.util.spec_from_file_location("intervals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["intervals"] = module
    spec.loader.exec_module(module)
    return module


def test_the_planted_accuracy_is_that_of_many_draws(intervals):
    tables = intervals.study(np.random.default_rng(0), {"a": 0.9}, examples=200, seeds=4000, spread=0.3)
    one_of_many = np.random.default_rng(1).normal(0, intervals.DIFFICULTY, (500_000, 2)) * [1, 0.15]
    expected = (1 / (1 + np.exp(one_of_many.sum(1) - 0.9))).mean()
    assert intervals.accuracy(0.9, 0.3) == pytest.approx(expected, abs=0.002)
    assert tables["a"].shape == (4000, 200) and set(np.unique(tables["a"])) == {0.0, 1.0}


# The bounds leave four standard errors of a share of that many studies.
@pytest.mark.parametrize("studies", [150, pytest.param(2000, marks=pytest.mark.slow)], ids=["some", "two thousand"])
def test_one_seed_covers_what_is_promised(intervals, studies):
    error = 4 * np.sqrt(0.05 * 0.95 / studies)
    found = intervals.coverage(studies, examples=300, seeds=1, spread=0.0, resamples=400)
    assert abs(found - 0.95) <= 0.02 + error
    assert intervals.false_positives(studies, 300, 1, 0.0, resamples=400) <= 0.05 + error


@pytest.mark.parametrize("studies", [100, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "a thousand"])
def test_three_seeds_that_differ_by_much_are_covered(intervals, studies):
    """A bootstrap alone holds 0.82 of them, and calls a fifth of equal students different."""
    error = 4 * np.sqrt(0.05 * 0.95 / studies)
    assert intervals.coverage(studies, examples=300, seeds=3, spread=0.4, resamples=200) >= 0.93 - error
    assert intervals.false_positives(studies, 300, 3, 0.4, resamples=200) <= 0.06 + error


def test_the_planted_f1_is_that_of_many_draws(intervals):
    """Counts summed over a great many sentences, and F1 of them for each of many seeds."""
    drawn = intervals.f1_study(np.random.default_rng(0), {"a": 0.9}, examples=4000, seeds=400, spread=0.5)["a"]
    right, stated, missed = drawn.sum(1).T
    assert intervals.expected_f1(0.9, 0.5) == pytest.approx(
        np.mean(2 * right / (2 * right + stated + missed)), abs=0.02
    )
    assert drawn[..., 0].max() == 2 and (drawn[..., 0] + drawn[..., 2] <= 2).all()


@pytest.mark.parametrize("studies", [60, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "a thousand"])
def test_an_f1_over_slots_is_covered_too(intervals, studies):
    """600 sentences, as in the study of slots; seeds that differ by much, by the jackknife of the corpus score."""
    error, kind = 4 * np.sqrt(0.05 * 0.95 / studies), intervals.OF_F1
    assert abs(intervals.coverage(studies, 600, 1, 0.0, resamples=200, kind=kind) - 0.95) <= 0.02 + error
    assert intervals.coverage(studies, 600, 3, 0.4, resamples=200, kind=kind) >= 0.92 - error
    assert intervals.false_positives(studies, 600, 3, 0.4, resamples=200, kind=kind) <= 0.07 + error
