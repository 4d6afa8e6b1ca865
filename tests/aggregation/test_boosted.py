"""Boosted weights: by loops, one good supervisor and two poor ones, and what is refused."""

import doctest
import math

import numpy as np
import pytest

from trl_weaks.aggregation import boosted
from trl_weaks.aggregation.boosted import boosted_weights


def drawn(accuracies, n=200, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    gold = draw.integers(classes, size=n)
    says = [
        np.where(draw.random(n) < a, gold, (gold + draw.integers(1, classes, size=n)) % classes) for a in accuracies
    ]
    return np.eye(classes)[np.stack(says, 1)], gold


def by_loops(votes, gold):
    n, count, classes = votes.shape
    rows, found = [1.0] * n, [0.0] * count
    for _ in range(count):
        best = None
        for i in range(count):
            error = math.fsum(d for d, v, y in zip(rows, votes[:, i], gold, strict=True) if v[y] < 1) / math.fsum(rows)
            error = min(max(error, 0.5 / n), 1 - 0.5 / n)
            if not found[i] and (best is None or error < best[0] - 1e-12):
                best = (error, i)
        alpha = math.log((1 - best[0]) / best[0]) + math.log(classes - 1)
        if alpha <= 0:
            break
        found[best[1]] = alpha
        rows = [d * (math.exp(alpha) if votes[r, best[1]][gold[r]] < 1 else 1) for r, d in enumerate(rows)]
    return np.array(found) / math.fsum(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 4])
def test_by_loops(seed, classes):
    votes, gold = drawn((0.7, 0.55, 0.3, 0.8), classes=classes, seed=seed)
    np.testing.assert_allclose(boosted_weights(votes, gold), by_loops(votes, gold), atol=1e-12)


def test_one_good_supervisor_outvotes_two_poor_ones():
    votes, gold = drawn((0.4, 0.9, 0.4), n=500)
    weights = boosted_weights(votes, gold)
    assert weights[1] > 0.5
    pooled = np.einsum("rvk,v->rk", votes, weights).argmax(-1)
    assert (pooled == gold).mean() > 0.85 > (votes.mean(1).argmax(-1) == gold).mean() + 0.05
    assert doctest.testmod(boosted) == (0, 2)


@pytest.mark.parametrize(
    ("votes", "gold", "message"),
    [
        (np.eye(2)[[[0], [1]]], [0], r"gold \(1,\) for 2 rows"),
        (np.eye(2)[[[0], [1]]], [0, 2], "row 1: gold 2 is none of the 2 classes"),
        (np.array([[[1, 0], [1, 0]], [[1, 0], [np.nan, np.nan]]]), [0, 0], "row 1: a supervisor gave no vote"),
        (np.eye(2)[[[0], [1]]], [1, 0], "no supervisor is better than chance"),
    ],
)
def test_what_is_refused(votes, gold, message):
    with pytest.raises(ValueError, match=message):
        boosted_weights(votes, gold)


def test_a_supervisor_that_ties_is_no_better_than_chance_whatever_class_is_first():
    gold = np.array([0, 0, 0, 1, 0, 0])
    votes = np.stack([np.eye(2)[[0, 0, 0, 1, 1, 0]], np.full((6, 2), 0.5)], 1)
    for order in ([0, 1], [1, 0]):
        np.testing.assert_array_equal(boosted_weights(votes[..., order], np.array(order)[gold]), [1, 0])
