"""McNemar's exact test against whole numbers: sums of binomial coefficients."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_weaks.metrics.significance import mcnemar_exact


def two_sided(first_only, second_only):
    """P(at least this uneven) under p = 1/2, in whole numbers."""
    trials = first_only + second_only
    tail = sum(math.comb(trials, k) for k in range(min(first_only, second_only) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**trials)))


def outcome(first_only, second_only, both=3, neither=2):
    first = [1] * first_only + [0] * second_only + [1] * both + [0] * neither
    second = [0] * first_only + [1] * second_only + [1] * both + [0] * neither
    return first, second


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_equals_the_sum_of_binomial_coefficients(first_only, second_only):
    result = mcnemar_exact(*outcome(first_only, second_only))
    expected = two_sided(first_only, second_only)
    assert result == {
        "first_only": first_only,
        "second_only": second_only,
        "p_value": pytest.approx(expected, rel=1e-12),
    }


def test_only_disagreements_count_and_the_order_of_systems_does_not():
    first, second = outcome(12, 3)
    assert mcnemar_exact(first, second)["p_value"] == mcnemar_exact(second, first)["p_value"]
    more = mcnemar_exact(*outcome(12, 3, both=500, neither=100))
    assert more["p_value"] == mcnemar_exact(first, second)["p_value"]


def test_large_counts_stay_exact():
    result = mcnemar_exact(*outcome(5000, 4700))["p_value"]
    assert result == pytest.approx(two_sided(5000, 4700), rel=1e-9)


def test_takes_booleans():
    first, second = (np.array(x, dtype=bool) for x in outcome(4, 0))
    assert mcnemar_exact(first, second)["p_value"] == 0.125


@pytest.mark.parametrize(
    "first, second, message",
    [([1, 0], [1], "one value per example"), ([1, 2], [1, 0], r"first\[1\]"), ([1, 0], [np.nan, 0], r"second\[0\]")],
)
def test_bad_input(first, second, message):
    with pytest.raises(ValueError, match=message):
        mcnemar_exact(first, second)
