"""Reduce the class probabilities of N weak supervisors to one distribution, and measure how far they disagree.

Shapes: probabilities (..., N, K) that sum to 1 over K; weights (N,) or (..., N), >= 0, normalised here over N, uniform
by default. Naive and Bayesian multi-weak as printed (arXiv 2406.03199, Eq. 2 and 4) see their supervisors only through
`linear_pool`, since both are linear in the label; the measures below are what such a pool forgets.
"""

import torch
from torch import Tensor

from .aggregation.base import NotComputable


def linear_pool(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean sum_i w_i p_i: (..., N, K) -> (..., K)."""
    return (_weights(probs, weights).unsqueeze(-1) * probs).sum(-2)


def log_linear_pool(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Normalised weighted geometric mean, prod_i p_i^{w_i} / Z: (..., N, K) -> (..., K).

    Raises:
        ValueError: where every class is ruled out by some supervisor, so that Z = 0.
    """
    logs = torch.special.xlogy(_weights(probs, weights).unsqueeze(-1), probs).sum(-2)
    empty = logs.amax(-1) == -torch.inf
    if empty.any():
        raise NotComputable(
            f"row {tuple(empty.nonzero()[0].tolist())}: each class has probability 0 under some supervisor, "
            "so the geometric pool is empty; calibrate the supervisors or use linear_pool."
        )
    return logs.softmax(-1)


def vote_shares(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted share of the supervisors whose largest class is k; their ties are shared: (..., N, K) -> (..., K)."""
    return linear_pool(harden(probs), weights)


def majority_vote(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """One-hot class with the most (weighted) votes; classes that tie share evenly: (..., N, K) -> (..., K)."""
    shares = vote_shares(probs, weights)
    return harden(shares, tolerance=1e-6)


def harden(probs: Tensor, tolerance: float = 0.0) -> Tensor:
    """One-hot largest class over the last axis; classes within `tolerance` of the largest share it: (..., K)."""
    top = (probs >= probs.amax(-1, keepdim=True) - tolerance).to(probs.dtype)
    return top / top.sum(-1, keepdim=True)


def temper(probs: Tensor, temperature: float | Tensor) -> Tensor:
    """p^{1/T} / Z over the last axis; T > 1 flattens, T < 1 sharpens. T is a number or broadcasts against (...).

    Raises:
        ValueError: temperature that is not > 0.
    """
    temperature = torch.as_tensor(temperature, dtype=probs.dtype, device=probs.device)
    if not (temperature > 0).all():
        raise ValueError("temperature must be > 0.")
    return (probs.log() / temperature.unsqueeze(-1)).softmax(-1)


def pairwise_disagreement(probs: Tensor) -> Tensor:
    """Mean total variation distance over pairs of supervisors, in [0, 1]: (..., N, K) -> (...,).

    For hard votes it is the share of pairs that differ.

    Raises:
        ValueError: fewer than two supervisors.
    """
    n = probs.shape[-2]
    if n < 2:
        raise ValueError("disagreement needs at least two supervisors.")
    distance = (probs.unsqueeze(-2) - probs.unsqueeze(-3)).abs().sum(-1) / 2  # (..., N, N), zero on the diagonal
    return distance.sum((-2, -1)) / (n * (n - 1))


def entropy_gap(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Entropy of the mean minus mean entropy, H(sum_i w_i p_i) - sum_i w_i H(p_i), nats, >= 0: (..., N, K) -> (...,).

    The weighted Jensen-Shannon divergence: zero where all agree, however unsure they are.
    """
    mean_entropy = (_weights(probs, weights) * _entropy(probs)).sum(-1)
    return (_entropy(linear_pool(probs, weights)) - mean_entropy).clamp_min(0)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)


def _weights(probs: Tensor, weights: Tensor | None) -> Tensor:
    """(..., N) weights that sum to 1."""
    n = probs.shape[-2]
    if weights is None:
        return probs.new_full((n,), 1 / n)
    weights = torch.as_tensor(weights, dtype=probs.dtype, device=probs.device)
    if weights.shape[-1] != n:
        raise ValueError(f"{weights.shape[-1]} weights for {n} supervisors.")
    total = weights.sum(-1, keepdim=True)
    if not (torch.isfinite(weights).all() and (weights >= 0).all() and (total > 0).all()):
        raise ValueError("weights must be finite, >= 0 and not all zero.")
    return weights / total
