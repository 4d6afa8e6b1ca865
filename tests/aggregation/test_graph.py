"""Smoothing over neighbours against a dense solution built by loops, and planted isolated errors."""

import math

import numpy as np
import pytest

from trl_weaks.aggregation.graph import smoothed


def dense(labels, states, neighbours, strength):
    n = len(labels)
    cosine = [[float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for b in states] for a in states]
    joined = np.zeros((n, n))
    for i in range(n):
        near = sorted((j for j in range(n) if j != i), key=lambda j: (-cosine[i][j], j))[:neighbours]
        for j in near:
            joined[i, j] = joined[j, i] = max(cosine[i][j], 0.0)
    degree = [max(row.sum(), 1e-300) for row in joined]
    scaled = np.array([[joined[i, j] / math.sqrt(degree[i] * degree[j]) for j in range(n)] for i in range(n)])
    found = (1 - strength) * np.linalg.solve(np.eye(n) - strength * scaled, labels)
    return found / found.sum(-1, keepdims=True)


@pytest.mark.parametrize(("neighbours", "strength"), [(1, 0.3), (4, 0.5), (40, 0.9)])
def test_it_is_the_dense_solution(neighbours, strength):
    rng = np.random.default_rng(0)
    labels, states = rng.dirichlet(np.ones(3), 30), rng.normal(size=(30, 5))
    found = smoothed(labels, states, neighbours, strength)
    np.testing.assert_allclose(found, dense(labels, states, min(neighbours, 29), strength), atol=1e-8)


def test_isolated_errors_are_mended_and_whole_groups_are_left():
    rng = np.random.default_rng(1)
    gold = np.repeat([0, 1, 2], 60)
    states = 4 * np.eye(3)[gold] + rng.normal(size=(180, 3)) * 0.5
    wrong = rng.random(180) < 0.2
    said = np.where(wrong, (gold + 1) % 3, gold)
    found = smoothed(np.eye(3)[said], states, 10, 0.8).argmax(-1)
    assert 0.75 < (said == gold).mean() < 0.85 and (found == gold).mean() > 0.98
    together = np.eye(3)[(gold + 1) % 3]  # an error that all share is none that neighbours mend
    assert (smoothed(together, states, 10, 0.8).argmax(-1) == (gold + 1) % 3).all()


def test_without_strength_or_neighbours_labels_stay():
    labels = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_allclose(smoothed(labels, np.eye(2), 3, 0.0), labels)
    np.testing.assert_allclose(smoothed(labels, np.eye(2), 3, 0.7), labels)  # at a right angle: nothing in common
    np.testing.assert_allclose(smoothed(labels[:1], np.zeros((1, 2))), labels[:1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.eye(2), np.zeros((3, 2))), "of the same rows"),
        ((np.eye(2)[:0], np.zeros((0, 2))), "of the same rows"),
        ((np.eye(2), np.array([[0.0, 1.0], [math.nan, 0.0]])), "row 1: the state is not finite"),
        ((np.array([[0.5, 0.5], [math.nan, 0.5]]), np.eye(2)), "row 1: the label"),  # which never came to rest
        ((np.array([[0.0, 0.0], [0.5, 0.5]]), np.eye(2)), "row 0: the label"),
        ((np.eye(2), np.eye(2), 0), "neighbours=0"),
        ((np.eye(2), np.eye(2), 1, 1.0), "strength=1.0"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        smoothed(*given)
