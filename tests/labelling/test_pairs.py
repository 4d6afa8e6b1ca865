"""Ranking, doubt and weights of pairs, on plain numbers."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from trl_weaks.aggregation.comparisons.preferences import (
    best_and_worst,
    flip_probabilities,
    judge_pairs,
    pair_weights,
    with_shared_error,
)


def flip_by_loops(margins, weights):
    """The docstring's three steps again, with scipy and without sharing code."""
    n, supervisors = len(margins), len(weights)
    z = [[0.0] * supervisors for _ in range(n)]
    for i in range(supervisors):
        rms = (sum(margins[p][i] ** 2 for p in range(n)) / n) ** 0.5
        for p in range(n):
            z[p][i] = margins[p][i] / rms
    noise = 0.0
    for p in range(n):
        centre = sum(weights[i] * z[p][i] for i in range(supervisors))
        noise += sum(weights[i] * (z[p][i] - centre) ** 2 for i in range(supervisors)) / n
    tau = (noise / (1 - sum(w**2 for w in weights))) ** 0.5
    return [1 - sum(weights[i] * norm.cdf(z[p][i] / tau) for i in range(supervisors)) for p in range(n)]


def random_margins(n=40, supervisors=3, seed=0):
    draw = random.Random(seed)
    return [[draw.gauss(1, 1.5) * (i + 1) for i in range(supervisors)] for _ in range(n)]


def test_flip_probabilities_equal_the_formula_in_loops():
    margins, weights = random_margins(), [0.5, 0.2, 0.3]
    assert flip_probabilities(margins, weights) == pytest.approx(flip_by_loops(margins, weights), abs=1e-12)


def test_one_supervisor_reads_its_margin_in_units_of_its_own_scale():
    assert flip_probabilities([[3.0], [-4.0]], [1.0]) == pytest.approx(
        [norm.cdf(-3 / math.sqrt(12.5)), norm.cdf(4 / math.sqrt(12.5))]
    )


def test_noise_is_estimated_without_bias():
    """Planted: margins mu_p + noise of sd 0.5. What a supervisor says of a pair is Phi(mu / noise), whatever N."""
    draw = random.Random(1)
    for supervisors in (2, 5):
        truth = [draw.gauss(0, 1) for _ in range(4000)]
        margins = [[mu + draw.gauss(0, 0.5) for _ in range(supervisors)] for mu in truth]
        flips = flip_probabilities(margins, [1 / supervisors] * supervisors)
        wrong_now = [sum(d < 0 for d in row) / supervisors for row in margins]
        asked_again = [norm.cdf(-sum(row) / supervisors / 0.5) for row in margins]
        # between the share of votes and the answer of a certain mean, and right on average about a supervisor
        assert sum(flips) / len(flips) == pytest.approx(sum(wrong_now) / len(wrong_now), abs=0.01)
        gap = [abs(f - a) for f, a in zip(flips, asked_again, strict=True)]
        assert sum(gap) / len(gap) < 0.06


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.floats(-20, 20), min_size=n, max_size=n), min_size=1, max_size=8),
            st.lists(st.floats(0.1, 1), min_size=n, max_size=n),
        )
    ),
    st.randoms(),
)
def test_invariances_of_doubt(case, shuffle):
    margins, weights = case
    weights = [w / sum(weights) for w in weights]
    flips = flip_probabilities(margins, weights)
    assert all(0 <= p <= 1 for p in flips)
    # the other way round
    turned = flip_probabilities([[-d for d in row] for row in margins], weights)
    assert turned == pytest.approx([1 - p for p in flips], abs=1e-6)
    # supervisors in another order
    order = list(range(len(weights)))
    shuffle.shuffle(order)
    again = flip_probabilities([[row[i] for i in order] for row in margins], [weights[i] for i in order])
    assert again == pytest.approx(flips, abs=1e-6)
    # another unit for one supervisor's log-probabilities
    if any(abs(row[0]) > 1e-3 for row in margins):
        scaled = flip_probabilities([[4 * row[0], *row[1:]] for row in margins], weights)
        assert scaled == pytest.approx(flips, abs=1e-6)


def test_agreement_is_certain_and_discord_is_not():
    agreed = [[float(m)] * 3 for m in (1, 2, -3)]
    assert flip_probabilities(agreed, [1 / 3] * 3) == [0.0, 0.0, 1.0]
    split = flip_probabilities([[1.0, -1.0], [-1.0, 1.0]], [0.5, 0.5])
    assert split == pytest.approx([0.5, 0.5])
    assert flip_probabilities([], [1.0]) == []
    assert flip_probabilities([[0.0, 0.0]], [0.5, 0.5]) == [0.5]


def test_shared_error_is_the_chance_of_an_odd_number_of_flips():
    for flip, shared in ((0.0, 0.1), (0.3, 0.1), (0.5, 0.4), (0.9, 0.2), (0.25, 0.0)):
        odd = sum(
            (flip if doubt else 1 - flip) * (shared if error else 1 - shared)
            for doubt in (0, 1)
            for error in (0, 1)
            if doubt != error
        )
        assert with_shared_error(flip, shared) == pytest.approx(odd)


def test_best_and_worst_do_not_depend_on_the_order():
    scored = {"b": -1.0, "a": -1.0, "c": -3.0, "d": -3.0, "e": -2.0}
    for seed in range(20):
        texts = sorted(scored, key=lambda t, s=seed: random.Random(f"{s}{t}").random())
        best, worst = best_and_worst(texts, [scored[t] for t in texts])
        assert (texts[best], texts[worst]) == ("a", "c")


def test_pair_weights_have_mean_one_and_are_bounded():
    weights = pair_weights([0.1, 1.0, 2.0, 50.0, -1.0])
    assert sum(weights) / 5 == pytest.approx(1.0)
    assert weights == pytest.approx([0.1 / 0.82, 1 / 0.82, 1 / 0.82, 1 / 0.82, 1 / 0.82])
    assert pair_weights([3.0]) == [1.0]


def test_judge_counts_right_pairs_and_leaves_ties_out():
    gold = {"good": 1.0, "bad": 0.0, "fair": 0.5}
    rows = [
        {"chosen": "good", "rejected": "bad", "pair_epsilon": 0.1},
        {"chosen": "bad", "rejected": "fair", "pair_epsilon": 0.4},
        {"chosen": "bad", "rejected": "bad", "pair_epsilon": 0.2},
        {
            "chosen": [{"role": "assistant", "content": "fair"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
            "pair_epsilon": 0.2,
        },
    ]
    verdict = judge_pairs(rows, lambda row, text: gold[text])
    assert verdict == pytest.approx(
        {
            "pairs": 4,
            "decided": 3,
            "accuracy": 2 / 3,
            "expected_accuracy": (0.9 + 0.6 + 0.8) / 3,
            "gold_gap": (1.0 - 0.5 + 0.0 + 0.5) / 4,
        }
    )
    assert math.isnan(judge_pairs(rows[2:3], lambda row, text: gold[text])["accuracy"])
