"""Closed forms over a vocabulary by their definition: row by row, label by label, autograd of the public call."""

import math

import pytest
import torch

from trl_weaks.dirichlet import kl_from_log_evidence
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary.cpu_kernels import find_kernels
from trl_weaks.losses.vocabulary.token_rows import TokenLabel, split_rows

needs_compiler = pytest.mark.skipif(find_kernels() is None, reason="trl_weaks was installed without a C++ compiler")
EITHER = [pytest.param(False, id="pytorch"), pytest.param(True, id="compiled", marks=needs_compiler)]

LOSSES = {
    "naive": NaiveLoss(),
    "naive + aux": AuxiliaryConfidence(NaiveLoss(), 0.3),
    "evidential": EvidentialLoss(kl_coef=0.05, kl_clamp=None),
    "evidential, clamped": EvidentialLoss(kl_coef=0.05, kl_clamp=0.7),
    "evidential, no divergence": EvidentialLoss(kl_coef=0),
    "evidential + aux": AuxiliaryConfidence(EvidentialLoss(kl_coef=0.05, kl_clamp=None), 0.3),
}


def soft_target(z, t, p):
    """The label of one row, in float64, by the definition."""
    others = [j for j in range(len(z)) if j != t]
    q = torch.softmax(z.detach().double()[others], -1)
    y = torch.zeros(len(z), dtype=torch.float64)
    y[others] = (1 - p) * q
    y[t] = p
    return y


def one_loss(loss, z, t, p, progress):
    """The public call; but a float64 label cannot hold 1 - y where y rounds to 1, so there 1 - y is summed afresh."""
    if isinstance(loss, AuxiliaryConfidence):
        gamma, own = loss.gamma(progress), int(z.argmax())
        mixed = (1 - gamma) * one_loss(loss.loss, z, t, p, progress)
        return mixed + gamma * one_loss(loss.loss, z, own, 1.0, progress)
    y = soft_target(z, t, p)
    if not (isinstance(loss, EvidentialLoss) and 0 <= p < 1 and loss.kl_weight(progress)):
        return loss(z[None], y[None], progress)[0]
    nll = EvidentialLoss(kl_coef=0)(z[None], y[None], progress)[0]
    log_keep = torch.log1p(-y)
    others = z.detach().clone()
    others[t] = -torch.inf
    rival = int(others.argmax())  # the only other token with y_j > 1/2
    rest = others.clone()
    rest[rival] = -torch.inf
    share = (torch.logsumexp(rest, 0) - torch.logsumexp(others, 0)).exp()
    log_keep[rival] = (p + (1 - p) * share).log()
    kl = kl_from_log_evidence(z + log_keep)
    return nll + (loss.kl_weight(progress) * kl).clamp(max=loss.kl_clamp or math.inf)


def plain(loss, logits, ids, labels, progress):
    """Row by row, label by label, gradient by autograd of the public call, in float64."""
    leaf = logits.detach().double().requires_grad_()
    rows = []
    for i, t in enumerate(ids.tolist()):
        value = torch.zeros((), dtype=torch.float64)
        for label in labels:
            p = 1.0 if label.probs is None else label.probs[i]
            value = value + label.scales[i] * one_loss(loss, leaf[i], t, p, progress)
        rows.append(value)
    rows = torch.stack(rows)
    (gradient,) = torch.autograd.grad(rows.sum(), leaf)
    return rows.detach(), gradient


def closed(loss, logits, ids, labels, progress, needs_grad=True, kernels=False):
    hard = all(label.probs is None for label in labels)
    rows = split_rows(logits.clone(), ids, loss.token_form_plan(hard, logits.dtype), kernels)
    assert rows.others is not None and (rows.kernels is not None) is kernels
    value, gradient = loss.token_form(rows, labels, progress, needs_grad)
    return value, gradient.full() if needs_grad else gradient


def problem(n=6, width=40, spread=3.0, shift=0.0, seed=0, hard=False, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, width, generator=g, dtype=dtype) * spread + shift
    ids = torch.randint(width, (n,), generator=g)
    ids[0] = logits[0].argmax()
    scales = torch.rand(2, n, generator=g, dtype=torch.float64)
    probs = torch.rand(2, n, generator=g, dtype=torch.float64)
    probs[0, :3] = torch.tensor([0.0, 1.0, 1e-12])
    if hard:
        return logits, ids, [TokenLabel(scales[0])]
    return logits, ids, [TokenLabel(s, p) for s, p in zip(scales, probs, strict=True)]
