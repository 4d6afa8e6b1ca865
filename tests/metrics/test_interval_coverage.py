"""The intervals hold planted effects as often as they say; docs/evidence/intervals.md has the whole table."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "intervals.py"


@pytest.fixture(scope="module")
def intervals():
    spec = importlib.util.spec_from_file_location("intervals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
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
