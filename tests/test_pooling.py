"""Pools and disagreement against plain loops, scipy, and their invariances."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from trl_weaks.pooling import (
    entropy_gap,
    linear_pool,
    log_linear_pool,
    majority_vote,
    pairwise_disagreement,
    temper,
    vote_shares,
)


@pytest.fixture(params=[2, 3, 50])
def votes(request):
    return torch.distributions.Dirichlet(torch.full((request.param,), 0.7, dtype=torch.float64)).sample((6, 4))


@pytest.fixture
def weights():
    return torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def test_pools_by_loops(votes, weights):
    for b, row in enumerate(votes.numpy()):
        mean = sum(w * p for w, p in zip(weights.numpy(), row, strict=True))
        product = np.prod([p**w for w, p in zip(weights.numpy(), row, strict=True)], axis=0)
        np.testing.assert_allclose(linear_pool(votes, weights)[b], mean, rtol=1e-12)
        np.testing.assert_allclose(log_linear_pool(votes, weights)[b], product / product.sum(), rtol=1e-9)
        counts = np.zeros(row.shape[-1])
        for w, p in zip(weights.numpy(), row, strict=True):
            counts[p.argmax()] += w
        np.testing.assert_allclose(vote_shares(votes, weights)[b], counts, atol=1e-12)
        winners = np.isclose(counts, counts.max(), atol=1e-6)
        np.testing.assert_allclose(majority_vote(votes, weights)[b], winners / winners.sum())


@pytest.mark.parametrize("pool", [linear_pool, log_linear_pool, vote_shares, majority_vote])
def test_every_pool_is_a_distribution_without_order(pool, votes, weights):
    pooled = pool(votes, weights)
    torch.testing.assert_close(pooled.sum(-1), torch.ones(6, dtype=torch.float64))
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(pool(votes[:, order], weights[order]), pooled)
    torch.testing.assert_close(pool(votes, 7 * weights), pooled)  # weights are normalised
    torch.testing.assert_close(pool(votes, weights.expand(6, 4)), pooled)  # one vector for all rows, or one a row
    alone = torch.tensor([0, 0, 1.0, 0], dtype=torch.float64)
    torch.testing.assert_close(pool(votes, alone), pool(votes[:, 2:3]))  # weight 0 is absence


def test_ties_are_shared():
    votes = torch.tensor([[[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]])
    assert majority_vote(votes).tolist() == [[0.5, 0.5, 0.0]]
    assert vote_shares(torch.tensor([[[0.5, 0.5, 0.0]]])).tolist() == [[0.5, 0.5, 0.0]]


def test_temper_sharpens_flattens_and_composes(votes):
    torch.testing.assert_close(temper(votes, 1.0), votes)
    torch.testing.assert_close(temper(temper(votes, 2.0), 0.5), votes)
    assert (temper(votes, 0.5).amax(-1) >= votes.amax(-1)).all()
    torch.testing.assert_close(temper(votes, 1e6), torch.full_like(votes, 1 / votes.shape[-1]), rtol=0, atol=1e-4)
    by_supervisor = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(temper(votes, by_supervisor)[:, 2], temper(votes[:, 2], 2.0))
    torch.testing.assert_close(temper(torch.tensor([1.0, 0.0]), 3.0), torch.tensor([1.0, 0.0]))


def test_disagreement_by_scipy_and_loops(votes, weights):
    for b, row in enumerate(votes.numpy()):
        pairs = [np.abs(row[i] - row[j]).sum() / 2 for i in range(4) for j in range(i)]
        assert math.isclose(float(pairwise_disagreement(votes)[b]), float(np.mean(pairs)), rel_tol=1e-9)
        mean = weights.numpy() @ row
        gap = entropy(mean) - sum(w * entropy(p) for w, p in zip(weights.numpy(), row, strict=True))
        assert math.isclose(float(entropy_gap(votes, weights)[b]), gap, rel_tol=1e-7, abs_tol=1e-9)
        two = float(entropy_gap(votes[b, :2]))
        assert math.isclose(two, jensenshannon(row[0], row[1]) ** 2, rel_tol=1e-6, abs_tol=1e-9)


def test_disagreement_tells_shared_doubt_from_conflict():
    """The mean is (0.5, 0.5) in both cases; only one of them is a conflict."""
    doubt = torch.full((4, 2), 0.5)
    conflict = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(linear_pool(doubt), linear_pool(conflict))
    assert float(entropy_gap(doubt)) == 0 and float(pairwise_disagreement(doubt)) == 0
    assert math.isclose(float(entropy_gap(conflict)), math.log(2), rel_tol=1e-6)
    assert math.isclose(float(pairwise_disagreement(conflict)), 4 / 6, rel_tol=1e-6)  # 4 of the 6 pairs differ


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: linear_pool(p, torch.ones(3)), "3 weights for 2 supervisors"),
        (lambda p: linear_pool(p, torch.tensor([1.0, -1.0])), "weights must be"),
        (lambda p: linear_pool(p, torch.zeros(2)), "weights must be"),
        (lambda p: linear_pool(p, torch.tensor([1.0, math.nan])), "weights must be"),
        (lambda p: log_linear_pool(p), r"row \(1,\)"),
        (lambda p: temper(p, 0.0), "temperature"),
        (lambda p: pairwise_disagreement(p[:, :1]), "two supervisors"),
    ],
)
def test_bad_input_is_refused(call, message):
    votes = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]]])
    with pytest.raises(ValueError, match=message):
        call(votes)
