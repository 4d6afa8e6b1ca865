"""Diagnostics without gold, against plain loops in float64 and cases worked by hand."""

import math
from functools import lru_cache
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from trl_weaks.metrics import (
    audit_prediction,
    blind_spot_intervals,
    blind_spot_share,
    confidence_spread,
    kernel_score,
    misfit,
    misfit_bound,
    pairwise_word_distance,
    principal_kernel,
    reverse_kl_misfit,
)

DRAWN = np.random.default_rng(0)
S, W = DRAWN.dirichlet(np.ones(4), 7), DRAWN.dirichlet(np.full(4, 0.05), 7)  # W has entries below the floor
NAN = float("nan")


def test_misfits_by_plain_loops():
    apart = divergence = 0.0
    for s, w in zip(S.tolist(), W.tolist(), strict=True):
        floored = [max(p, 1e-3) for p in w]
        total = sum(floored)
        for k in range(4):
            apart += (s[k] - w[k]) ** 2 / 7
            divergence += s[k] * (math.log(s[k]) - math.log(floored[k] / total)) / 7
    assert misfit(S, W) == pytest.approx(apart, rel=1e-12)
    assert reverse_kl_misfit(S, W) == pytest.approx(divergence, rel=1e-12)
    assert (W < 1e-3).any()


def test_the_bound_holds_for_a_projection_on_a_convex_class():
    """Ridgeless linear students whose class holds the truth: Pythagoras, so the bound is met with equality."""
    x = DRAWN.normal(size=(40, 3))
    truth, weak = x @ DRAWN.normal(size=(3, 2)), DRAWN.normal(size=(40, 2))
    student = x @ np.linalg.lstsq(x, weak, rcond=None)[0]
    bound = misfit_bound(misfit(weak, truth), misfit(student, weak))
    assert misfit(student, truth) == pytest.approx(bound, rel=1e-9)


def test_the_reverse_divergence_misses_what_the_student_leaves_out_and_knows_zeros():
    assert reverse_kl_misfit([[1.0, 0.0]], [[0.25, 0.75]]) == pytest.approx(math.log(4))
    assert reverse_kl_misfit([[0.5, 0.5]], [[1.0, 0.0]]) == pytest.approx(
        0.5 * math.log(0.5 * 1.001) + 0.5 * math.log(0.5 * 1.001 / 0.001)
    )


def inverse_free_norm(matrix: np.ndarray) -> float:
    """Largest singular value by power iteration."""
    v = np.ones(matrix.shape[1]) + np.arange(matrix.shape[1])
    for _ in range(5000):
        v = matrix.T @ (matrix @ v)
        v /= math.sqrt(float(v @ v))
    return math.sqrt(float((matrix @ v) @ (matrix @ v)))


def test_the_kernel_score_by_solving_and_power_iteration():
    smoothers = []
    states = DRAWN.normal(size=(9, 3)), DRAWN.normal(size=(9, 5))
    for x in states:
        centred = [[v - sum(column) / 9 for v, column in zip(row, x.T, strict=True)] for row in x]
        gram = np.array([[sum(a * b for a, b in zip(r, q, strict=True)) / 9 for q in centred] for r in centred])
        beta = 0.01 * sum(gram[i, i] for i in range(9)) / 9
        smoothers.append(np.linalg.solve(gram + beta * np.eye(9), gram))
    for x, wanted in zip(states, smoothers, strict=True):
        np.testing.assert_allclose(principal_kernel(x), wanted, atol=1e-10)
    wanted = inverse_free_norm(smoothers[1] @ (np.eye(9) - smoothers[0]))
    assert kernel_score(states[1], states[0]) == pytest.approx(wanted, rel=1e-6)


def test_the_kernel_score_depends_on_neither_scale_nor_place_nor_turn():
    weak, student = DRAWN.normal(size=(12, 3)), DRAWN.normal(size=(12, 4))
    turn = np.linalg.qr(DRAWN.normal(size=(3, 3)))[0]
    moved = (weak @ turn) * 1e200 + 1e201
    assert kernel_score(student, moved) == pytest.approx(kernel_score(student, weak), rel=1e-6)
    seen = np.hstack([weak, student])
    assert kernel_score(weak, seen) < kernel_score(seen, weak)  # the supervisor sees all that this student does


def test_blind_spots_by_plain_loops():
    n = 200
    before, after = DRAWN.random(n) < 0.8, DRAWN.random(n) < 0.6
    strong, weak = DRAWN.random(n), DRAWN.random(n)
    spots = [bool(b and s >= 0.75 and w < 0.75) for b, s, w in zip(before, strong, weak, strict=True)]
    new = [i for i in range(n) if before[i] and not after[i]]
    found = blind_spot_share(before, after, strong, weak)
    assert found.new_errors == len(new)
    assert found.share == pytest.approx(sum(spots[i] for i in new) / len(new))
    assert found.expected == pytest.approx(sum(spots) / n)
    assert found.expected_among_right == pytest.approx(sum(spots) / sum(before))


def test_a_confidence_at_the_threshold_is_known_and_no_new_error_has_no_share():
    assert blind_spot_share([True], [False], [0.75], [0.75]).share == 0.0
    assert math.isnan(blind_spot_share([True], [True], [0.9], [0.5]).share)
    assert math.isnan(blind_spot_share([False], [False], [0.9], [0.5]).expected_among_right)


def test_word_distances_by_recursion():
    @lru_cache(None)
    def edits(a: tuple, b: tuple) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))

    answers = [["a b c", "", "x"], ["a c d e", "", ""], ["b", "y z", "x"]]
    table = pairwise_word_distance(answers)
    for i, first in enumerate(answers):
        for j, second in enumerate(answers):
            pairs = [(tuple(a.split()), tuple(b.split())) for a, b in zip(first, second, strict=True)]
            wanted = sum(edits(a, b) / max(len(a), len(b), 1) for a, b in pairs) / 3
            assert table[i][j] == pytest.approx(wanted, abs=1e-15)


def test_a_planted_prediction_is_found_and_a_useless_one_has_zero_in_its_interval():
    gain = DRAWN.normal(size=(12, 2))
    planted = audit_prediction(np.exp(gain) + DRAWN.normal(size=gain.shape) * 0.05, gain)
    assert planted.correlation > 0.9 and planted.interval[0] > 0.7 and planted.points == 24
    assert audit_prediction(-gain, gain).correlation == pytest.approx(-1)
    low, high = audit_prediction(DRAWN.normal(size=(12, 2)), gain).interval
    assert -1 <= low < 0 < high <= 1


def test_the_rank_correlation_of_an_audit_is_scipys_with_ties_and_none_where_a_side_is_constant():
    told, gain = DRAWN.normal(size=(9, 3)).round(0), DRAWN.normal(size=(9, 3)).round(0)
    found = audit_prediction(told, gain)
    assert found.correlation == pytest.approx(spearmanr(told.ravel(), gain.ravel()).statistic)
    assert found.interval[0] < found.correlation < found.interval[1]
    same = audit_prediction(np.ones(4), np.arange(4))
    assert math.isnan(same.correlation) and same.interval == (-1, 1)


def test_a_perfect_order_of_few_methods_may_be_chance():
    """By all orders: of four, more than 5 % are as extreme as a perfect one, of five fewer."""
    for methods, interval in ((4, (-1, 1)), (5, (1, 1))):
        order = np.arange(methods)
        extreme = [abs(spearmanr(order, other).statistic) > 0.999 for other in permutations(order)]
        assert (np.mean(extreme) > 0.05) == (interval == (-1, 1))
        found = audit_prediction(np.tile(order[:, None], 2), np.tile(order[:, None], 2))
        assert found.correlation == pytest.approx(1)
        assert found.interval == pytest.approx(interval)


def test_methods_are_drawn_whole_so_that_seeds_alike_do_not_narrow_the_interval():
    told, gain = DRAWN.normal(size=(6, 1)), DRAWN.normal(size=(6, 1))
    once, often = (audit_prediction(np.repeat(told, n, 1), np.repeat(gain, n, 1)) for n in (1, 20))
    narrow = audit_prediction(np.repeat(told, 20, 0), np.repeat(gain, 20, 0)).interval  # as if they were methods
    assert once.correlation == pytest.approx(often.correlation)
    assert np.ptp(often.interval) > 2 * np.ptp(narrow)


def test_intervals_of_blind_spots_hold_their_shares_and_are_wide_without_new_errors():
    shape = (2, 150)
    before, after = DRAWN.random(shape) < 0.8, DRAWN.random(shape) < 0.6
    strong, weak = DRAWN.random(shape), DRAWN.random(shape)
    point = blind_spot_share(*(given.ravel() for given in (before, after, strong, weak)))
    found = blind_spot_intervals(before, after, strong, weak)
    assert found["share"][0] < point.share < found["share"][1]
    assert found["excess"][0] < point.share - point.expected_among_right < found["excess"][1]
    assert blind_spot_intervals([True] * 4, [True] * 4, [0.9] * 4, [0.5] * 4)["share"] == (0, 1)
    planted = blind_spot_intervals(before, before & ~(strong >= 0.75) | ~before, strong, np.full(shape, 0.1))
    assert planted["share"] == (1, 1) and planted["excess"][0] > 0.5  # all new errors where only the student knew


def test_the_spread_of_confidence_by_plain_loops():
    s, w = DRAWN.random(9), DRAWN.random(9)
    mean = {"s": sum(s) / 9, "w": sum(w) / 9}
    found = confidence_spread(s, w)
    assert found.variance == pytest.approx(sum((x - mean["s"]) ** 2 for x in s) / 9)
    wanted = sum((x - mean["s"]) * (y - mean["w"]) for x, y in zip(s, w, strict=True)) / 9
    assert found.covariance == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: misfit([[0.5, 0.5]], [[1.0]]), r"shapes \(1, 2\) and \(1, 1\)"),
        (lambda: misfit(np.zeros((0, 2)), np.zeros((0, 2))), "with rows"),
        (lambda: misfit([[0.5, NAN]], [[0.5, 0.5]]), "student: row 0 is not finite"),
        (lambda: misfit_bound(-0.1, 0.1), "weak_error is -0.1"),
        (lambda: misfit_bound(0.1, NAN), "misfit is nan"),
        (lambda: reverse_kl_misfit([[0.5, 0.5]], [[0.9, 0.9]]), "weak: row 0"),
        (lambda: reverse_kl_misfit([[0.5, 0.5]], [[0.5, 0.5]], floor=0), "floor"),
        (lambda: principal_kernel([[1.0]]), "at least two rows"),
        (lambda: principal_kernel([[1.0], [1.0]]), "all rows are the same"),
        (lambda: principal_kernel([[1.0], [NAN]]), "row 1 is not finite"),
        (lambda: principal_kernel([[1.0], [2.0]], ridge=0), "ridge must be positive"),
        (lambda: kernel_score([[1.0], [2.0]], [[1.0], [2.0], [3.0]]), "2 states of the student, 3"),
        (lambda: blind_spot_share([], [], [], []), "one for each example"),
        (lambda: blind_spot_share([True], [True], [0.5], [1.5]), r"weak_confidence: 1.5 \(row 0\)"),
        (lambda: blind_spot_share([True], [True], [NAN], [0.5]), "student_confidence: nan"),
        (lambda: pairwise_word_distance([["a"], []]), "all alike"),
        (lambda: audit_prediction([1, 2], [1, 2]), "2 methods"),
        (lambda: audit_prediction([1, 2, 3], [1, 2]), r"prediction \(3,\) and gain \(2,\)"),
        (lambda: audit_prediction([1, NAN, 3], [1, 2, 3]), "prediction: the value of method 1"),
        (lambda: audit_prediction([1, 2, 3], [1, 2, NAN]), "gain: the value of method 2"),
        (lambda: confidence_spread([], []), "with examples"),
        (lambda: confidence_spread([0.5], [1.5]), "weak_confidence: 1.5"),
        (lambda: blind_spot_intervals([[True]], [[True]], [[0.5]], [[-1.0]]), "weak_confidence: -1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
