"""Accuracies that depend on the text: formulas by loops and a plain search, and planted reliability."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from trl_weaks.aggregation import aggregate
from trl_weaks.aggregation.instance_accuracy import InstanceAccuracy, _regression
from trl_weaks.aggregation.trust import TrustHead


def planted(rows=1500, classes=3):
    """Five supervisors: two that know the one half of the space, two the other, one that is alike everywhere."""
    rng = np.random.default_rng(0)
    states, gold = rng.normal(size=(rows, 4)), rng.integers(0, classes, rows)
    up = states[:, :1] > 0
    good, poor = np.where(up, 0.95, 0.5), np.where(up, 0.5, 0.95)
    chance = np.hstack([good, poor, good, poor, np.full((rows, 1), 0.7)])
    wrong = (gold[:, None] + rng.integers(1, classes, (rows, 5))) % classes
    said = np.where(rng.random((rows, 5)) < chance, gold[:, None], wrong)
    return np.eye(classes)[said], states, gold, chance


@pytest.mark.parametrize("classes", [2, 3])
def test_planted_reliability_of_each_text_is_found(classes):
    votes, states, gold, chance = planted(classes=classes)
    model = InstanceAccuracy().fit(votes, states)

    def right(found):
        return (found.argmax(-1) == gold).mean()

    best = max(right(aggregate(name, votes)) for name in ("mean", "dawid_skene"))
    assert right(model(votes, states)) > best + 0.03
    assert np.abs(model.accuracy(states) - chance).mean() < 0.13
    ends = model.accuracy(np.array([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
    assert (ends[0, [1, 3]] > 0.8).all() and (ends[0, [0, 2]] < 0.65).all() and abs(ends[1, 4] - 0.7) < 0.1


def test_the_posterior_is_that_of_loops_and_a_missing_vote_says_nothing():
    votes, states, _, _ = planted(rows=200)
    votes = 0.9 * votes + 0.1 / 3
    votes[3, 1] = np.nan
    model = InstanceAccuracy().fit(votes, states)
    found = model(votes[:6], states[:6])
    for n in range(6):
        logs = [math.log(p) for p in model.prior]
        for i in range(5):
            if np.isnan(votes[n, i]).any():
                continue
            z = sum(
                w * (x - m) / s for w, x, m, s in zip(model.weight[i], states[n], model.mean, model.scale, strict=True)
            )
            a = 1 / (1 + math.exp(-z - model.bias[i]))
            for k in range(3):
                logs[k] += votes[n, i, k] * math.log(a) + (1 - votes[n, i, k]) * math.log((1 - a) / 2)
        whole = math.fsum(map(math.exp, logs))
        assert found[n].tolist() == pytest.approx([math.exp(log) / whole for log in logs], rel=1e-9)


def test_the_regression_is_that_of_a_plain_search():
    rng = np.random.default_rng(2)
    features, right = rng.normal(size=(40, 2)), rng.random(40)

    def objective(p):
        losses = []
        for row, target in zip(features, right, strict=True):
            a = 1 / (1 + math.exp(-(row @ p[:2] + p[2])))
            losses.append(-target * math.log(a) - (1 - target) * math.log(1 - a))
        return math.fsum(losses) / 40 + 0.05 * (p[0] ** 2 + p[1] ** 2)

    best = minimize(objective, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    weight, bias = _regression(features, right, 0.1, np.zeros(2))
    assert [*weight, bias] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("value", [0.1, 0.3, 1e8 + 0.1])
def test_a_feature_that_never_varies_says_nothing_of_other_rows(value):
    """The standard deviation of a constant column is rounding, 5e-16, and was divided by."""
    rng = np.random.default_rng(0)
    gold, x = rng.integers(0, 2, 300), np.c_[rng.normal(size=300), np.full(300, value)]
    votes = np.eye(2)[np.where(rng.random((300, 3)) < 0.8, gold[:, None], 1 - gold[:, None])]
    moved = x + [0.0, 1e-3]
    model = InstanceAccuracy().fit(votes, x)
    np.testing.assert_allclose(model(votes, moved), model(votes, x), atol=1e-6)
    head = TrustHead(0.1).fit(torch.from_numpy(x), torch.from_numpy(x[:, 0] > 0))
    np.testing.assert_allclose(head(torch.from_numpy(moved)), head(torch.from_numpy(x)), atol=1e-6)


VOTES = np.full((4, 3, 2), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InstanceAccuracy(ridge=0.0), "ridge=0.0"),
        (lambda: InstanceAccuracy().fit(VOTES[:, :2], np.zeros((4, 1))), "2 supervisors: with fewer than three"),
        (lambda: InstanceAccuracy().fit(VOTES, np.zeros((3, 1))), r"states \(3, 1\) for 4 rows"),
        (lambda: InstanceAccuracy().fit(VOTES, np.array([[0.0], [1], [math.inf], [0]])), "row 2: the state"),
        (lambda: InstanceAccuracy().fit(2 * VOTES, np.zeros((4, 1))), "row 0: vote 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
