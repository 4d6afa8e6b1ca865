"""The threshold's guarantee in simulation, its bound against brute force, and the curve against plain counting."""

import numpy as np
import pytest
from scipy.stats import binom

from trl_weaks.metrics.selective import area_under_risk, binomial_upper, bounded_threshold, coverage_risk_curve


@pytest.mark.parametrize("errors, trials", [(0, 1), (0, 29), (1, 58), (5, 40), (39, 40)])
def test_the_bound_is_the_rate_at_which_so_few_errors_are_just_improbable(errors, trials):
    """Bisection on the binomial distribution itself."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binom.cdf(errors, trials, middle) > 0.05 else (low, middle)
    assert binomial_upper(errors, trials) == pytest.approx(low, abs=1e-9)


def test_without_trials_or_without_success_nothing_is_bounded():
    assert binomial_upper(0, 0) == 1.0
    assert binomial_upper(3, 3) == 1.0


@pytest.mark.parametrize("calibration, useful", [("calibrated", 0.85), ("overconfident", 0.5)])
def test_the_promised_risk_is_broken_in_at_most_the_promised_share_of_repetitions(calibration, useful):
    """2,000 gold samples; the true risk of what is accepted is known from the simulation's own error rates."""
    rng = np.random.default_rng(0)
    broken = accepted = 0
    for _ in range(2000):
        scores = rng.uniform(0.5, 1, 300)
        truth = scores if calibration == "calibrated" else 0.4 + 0.55 * scores
        found = bounded_threshold(scores, rng.random(300) < truth, risk=0.15, confidence=0.9)
        grid = np.linspace(min(found.confidence, 1), 1, 2001)  # confidences are uniform there
        mean = grid.mean() if calibration == "calibrated" else (0.4 + 0.55 * grid).mean()
        accepted += found.gold > 0
        broken += found.gold > 0 and 1 - mean > 0.15
    assert broken <= 0.1 * 2000 + 3 * np.sqrt(2000 * 0.1 * 0.9)
    assert accepted > useful * 2000  # the guarantee is not bought by accepting nothing


def test_errors_among_the_most_confident_stop_everything():
    scores = np.linspace(1, 0.5, 200)
    correct = np.ones(200, bool)
    correct[:30] = False
    found = bounded_threshold(scores, correct)
    assert (found.confidence, found.gold) == (np.inf, 0)


def test_the_area_is_the_mean_risk_over_examples():
    """In plain loops, with ties; a confidence that says nothing has the error rate itself."""
    rng = np.random.default_rng(4)
    scores, right = rng.integers(0, 8, 50) / 7, rng.random(50) < 0.6
    risks = []
    for own in scores:
        taken = [bool(r) for s, r in zip(scores, right, strict=True) if s >= own]
        risks.append(taken.count(False) / len(taken))
    assert area_under_risk(scores, right) == pytest.approx(sum(risks) / 50)
    assert area_under_risk(np.full(50, 0.3), right) == pytest.approx(1 - right.mean())


def test_equal_confidences_are_accepted_together():
    scores = [0.9] * 100 + [0.6] * 100
    found = bounded_threshold(scores, [True] * 100 + [False] * 100)
    assert (found.confidence, found.gold, found.errors) == (0.9, 100, 0)


def test_too_few_gold_examples_accept_nothing():
    assert bounded_threshold([0.9] * 20, [True] * 20).gold == 0


def test_the_order_of_the_examples_does_not_matter():
    rng = np.random.default_rng(1)
    scores, correct = rng.choice([0.5, 0.7, 0.9], 300), rng.random(300) < 0.9
    order = rng.permutation(300)
    assert bounded_threshold(scores, correct, 0.2) == bounded_threshold(scores[order], correct[order], 0.2)


def test_the_curve_counts():
    curve = coverage_risk_curve([0.9, 0.8, 0.8, 0.5], [True, False, True, False])
    assert curve["threshold"] == [0.9, 0.8, 0.5]
    assert curve["coverage"] == [0.25, 0.75, 1.0]
    assert curve["risk"] == [0.0, pytest.approx(1 / 3), 0.5]
    assert curve["bound"][1] == binomial_upper(1, 3)


@pytest.mark.parametrize(
    "scores, correct, settings, message",
    [
        ([], [], {}, "two lists of one length"),
        ([0.5, 0.6], [1], {}, "two lists of one length"),
        ([0.5, 1.2], [1, 1], {}, r"confidences\[1\] = 1.2 is not a probability"),
        ([0.5, float("nan")], [1, 1], {}, r"confidences\[1\] = nan"),
        ([0.5], [2], {}, r"correct\[0\] = 2.0 is neither"),
        ([0.5], [1], {"risk": 0}, "risk=0 must lie between"),
        ([0.5], [1], {"confidence": 1}, "confidence=1 must lie between"),
    ],
)
def test_bad_input(scores, correct, settings, message):
    with pytest.raises(ValueError, match=message):
        bounded_threshold(scores, correct, **settings)
