"""The divergence of a Dirichlet over a vocabulary in float32, against float64 and special functions."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln, polygamma
from token_forms import EITHER, closed, problem

from trl_weaks.losses import EvidentialLoss
from trl_weaks.losses.vocabulary.class_terms import Sums, Workspace, collect
from trl_weaks.losses.vocabulary.token_rows import TokenLabel


def textbook_float32_kl(alpha):
    total = alpha.sum(-1)
    kl = torch.lgamma(total) - torch.lgamma(alpha).sum(-1) - math.lgamma(alpha.shape[-1])
    return kl + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[..., None])).sum(-1)


# The share of the textbook's error. In the middle, PyTorch's passes end in rounding of 4,000 nats.
@pytest.mark.parametrize("kernels", EITHER)
@pytest.mark.parametrize(("shift", "spread", "share"), [(-8.0, 1.5, 1e-3), (-2.0, 1.5, 5e-3), (0.0, 3.0, 1e-3)])
def test_the_divergence_in_float32_keeps_its_digits(shift, spread, share, kernels):
    logits, ids, labels = problem(6, 32_000, spread, shift, hard=True, dtype=torch.float32)
    labels = [TokenLabel(torch.ones(6, dtype=torch.float64))]
    with_kl, without = (EvidentialLoss(kl_coef=c, kl_anneal=0, kl_clamp=None) for c in (1.0, 0.0))
    values = (closed(loss, logits, ids, labels, 1.0, kernels=kernels)[0] for loss in (with_kl, without))
    got = next(values) - next(values)
    e = logits.double().exp().scatter(-1, ids[:, None], 0).numpy()
    total = 32_000 + e.sum(-1)
    exact = gammaln(total) - gammaln(32_000) - e.sum(-1) * digamma(total)
    exact += (e * digamma(1 + e) - gammaln(1 + e)).sum(-1)
    ours = np.abs(got.numpy() - exact).max()
    naive = np.abs(textbook_float32_kl((torch.from_numpy(e) + 1).float()).double().numpy() - exact).max()
    assert ours <= (1e-3 if kernels else share) * naive
    assert ours <= 1e-5 + 3e-7 * np.abs(exact).max()


def value_and_bend(e, x, largest=40.0):
    work, sums, everything = Workspace(torch.full((3, *x.shape), torch.nan), largest), Sums(x), slice(0, len(x))
    work.x.copy_(x)
    bend = collect(e, work, sums, everything)
    return sums.values(everything), bend


def test_the_two_polynomials_over_the_whole_range_of_evidence():
    e = np.logspace(-12, 17, 20_000)
    exact_value = np.where(e < 1e6, e * digamma(1 + e) - gammaln(1 + e) - e, 0.5 - 0.5 * np.log(2 * np.pi * e))
    small = e < 1e-6
    exact_value[small] = (-e + np.pi**2 / 12 * e**2)[small]
    column = torch.from_numpy(e)[:, None]
    x = (column / (1 + column)).float()
    values, bends = value_and_bend(column.float(), x)
    slopes = x * bends
    assert np.abs(values.numpy() / exact_value - 1).max() < 3e-6
    h = np.where(e < 1e4, e * polygamma(1, 1 + e), 1 - 0.5 / e + 1 / (6 * e**2))
    exact_slope = np.where(e < 1e4, 1 - (1 - h) * (1 + e), 0.5 - 1 / (3 * e))
    exact_slope[small] = ((np.pi**2 / 6 - 1) * e / (1 + e))[small]
    assert np.abs(slopes[:, 0].numpy() / exact_slope - 1).max() < 1e-5


@pytest.mark.parametrize("width", [2, 3, 4_000, 4_001])
def test_values_add_up_over_classes(width):
    """Logarithms are taken of pairs; at the limit of the evidence a pair's product is still finite."""
    logits = torch.randn(5, width, generator=torch.Generator().manual_seed(0)) * 8
    logits[0], logits[1] = 40.0, -17.0
    e = logits.exp()
    x = e / (1 + e)
    apart = value_and_bend(e.view(-1, 1), x.view(-1, 1))[0].view(5, width).sum(-1)
    for rows, largest in ((slice(5), 40.0), (slice(1, 5), float(e[1:].log1p().max())), (slice(1, 2), 1e-7)):
        together, bends = value_and_bend(e[rows], x[rows], largest)
        torch.testing.assert_close(together, apart[rows], rtol=1e-6, atol=1e-9)
        assert torch.isfinite(together).all() and torch.isfinite(bends).all()
