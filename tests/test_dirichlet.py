"""Dirichlet maths against scipy, Monte Carlo and arbitrary precision."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma, gammaln, polygamma
from scipy.stats import beta

from trl_weaks import dirichlet


def textbook_kl(alpha):
    alpha = np.asarray(alpha, dtype=np.float64)
    total, k = alpha.sum(-1), alpha.shape[-1]
    gain = ((alpha - 1) * (digamma(alpha) - digamma(total)[..., None])).sum(-1)
    return gammaln(total) - gammaln(k) - gammaln(alpha).sum(-1) + gain


def textbook_kl_gradient(alpha):
    alpha = np.asarray(alpha, dtype=np.float64)
    total, k = alpha.sum(-1, keepdims=True), alpha.shape[-1]
    return (alpha - 1) * polygamma(1, alpha) - (total - k) * polygamma(1, total)


@pytest.mark.parametrize("classes", [2, 3, 15, 17, 300])
@pytest.mark.parametrize(("mean", "spread"), [(-8, 1.5), (-2, 1), (0, 3), (4, 1)])
def test_kl_and_its_gradient_equal_the_textbook_form(classes, mean, spread):
    torch.manual_seed(classes)
    alpha = (torch.randn(6, classes, dtype=torch.float64) * spread + mean).exp().add(1).requires_grad_()
    kl = dirichlet.kl_to_uniform(alpha)
    (gradient,) = torch.autograd.grad(kl.sum(), alpha)
    np.testing.assert_allclose(kl.detach(), textbook_kl(alpha.detach()), rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(gradient, textbook_kl_gradient(alpha.detach()), rtol=1e-9, atol=1e-11)


def test_kl_of_two_classes_is_the_integral_of_the_beta_density():
    for a, b in ((1.5, 4.0), (0.6, 0.7), (30.0, 2.0)):
        expected, _ = quad(lambda x, a=a, b=b: beta.pdf(x, a, b) * beta.logpdf(x, a, b), 0, 1, epsabs=1e-11)
        assert dirichlet.kl_to_uniform(torch.tensor([a, b], dtype=torch.float64)).item() == pytest.approx(
            expected, abs=1e-8
        )


def test_kl_of_huge_concentrations_against_arbitrary_precision():
    mp = pytest.importorskip("mpmath")
    with mp.workdps(120):
        logits = [100.0, 60.0, -3.0, 99.5]
        alpha = [mp.exp(z) + 1 for z in logits]
        total = mp.fsum(alpha)
        exact = mp.loggamma(total) - mp.loggamma(4) - mp.fsum(mp.loggamma(a) for a in alpha)
        exact += mp.fsum((a - 1) * (mp.digamma(a) - mp.digamma(total)) for a in alpha)
    logits = torch.tensor(logits, dtype=torch.float64)
    assert dirichlet.kl_from_log_evidence(logits).item() == pytest.approx(float(exact), rel=1e-13)
    assert dirichlet.kl_to_uniform(dirichlet.concentration(logits)).item() == pytest.approx(float(exact), rel=1e-13)


def test_kl_of_a_nearly_flat_vocabulary_keeps_its_digits_in_float32():
    logits = torch.randn(32_000, generator=torch.Generator().manual_seed(0)) * 1.5 - 8
    e = logits.double().exp()
    exact = textbook_kl((1 + e).numpy()[None])[0]  # float64; 2e-9 of rounding
    naive = torch.lgamma((1 + e).float().sum()) - math.lgamma(
        32_000
    )  # one cancelling float32 term of the textbook form
    assert dirichlet.kl_from_log_evidence(logits).item() == pytest.approx(exact, abs=1e-7)
    assert abs(naive.item() - (gammaln((1 + e).sum().item()) - math.lgamma(32_000))) > 1e-3


def test_uniform_dirichlet_is_at_distance_zero():
    for classes in (2, 10, 40_000):
        assert abs(dirichlet.kl_to_uniform(torch.ones(classes)).item()) < 1e-9
        assert abs(dirichlet.kl_from_log_evidence(torch.full((classes,), -1e4)).item()) < 1e-9


def test_expected_nll_is_minus_the_log_of_the_expected_likelihood():
    alpha = torch.tensor([[2.0, 5.0, 1.5]])
    targets = torch.tensor([[0.2, 0.7, 0.1]])
    draws = torch.distributions.Dirichlet(alpha[0]).sample((200_000,))
    expected = -(targets[0] * draws.mean(0).log()).sum()
    assert dirichlet.expected_nll(alpha, targets).item() == pytest.approx(expected.item(), abs=5e-3)
    assert torch.allclose(dirichlet.expected_probability(alpha)[0], draws.mean(0), atol=3e-3)
    assert dirichlet.strength(alpha).item() == 8.5
    assert dirichlet.vacuity(alpha).item() == pytest.approx(3 / 8.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("evidence", ["exp", "softplus", "relu"])
def test_everything_is_finite_at_extreme_logits(evidence, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [700.0, -700.0, 80.0]], dtype=dtype)
    logits.requires_grad_()
    alpha = dirichlet.concentration(logits, evidence)
    value = dirichlet.kl_to_uniform(alpha) + dirichlet.expected_nll(alpha, torch.full((4, 3), 1 / 3))
    exact = dirichlet.kl_from_log_evidence(dirichlet.log_evidence(logits, evidence))
    (gradient,) = torch.autograd.grad((value + exact).sum(), logits)
    assert alpha.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(torch.isfinite(x).all() for x in (alpha, value, exact, gradient))
    assert (alpha >= 1).all()


@pytest.mark.parametrize("evidence", ["exp", "softplus", "relu"])
def test_evidence_and_its_logarithm_agree_and_are_differentiable(evidence):
    logits = torch.tensor([-50.0, -29.9, -3.0, 0.5, 7.0, 41.0], dtype=torch.float64, requires_grad=True)
    direct = {"exp": torch.exp, "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)), "relu": torch.relu}
    expected = direct[evidence](logits)
    assert torch.allclose(dirichlet.concentration(logits, evidence), 1 + expected, rtol=1e-12)
    assert torch.allclose(dirichlet.log_evidence(logits, evidence).exp(), expected, rtol=1e-12, atol=1e-300)
    for function in (dirichlet.concentration, lambda z, kind: dirichlet.log_evidence(z, kind).exp()):
        (got,) = torch.autograd.grad(function(logits, evidence).sum(), logits, retain_graph=True)
        (want,) = torch.autograd.grad(expected.sum(), logits, retain_graph=True)
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)


def test_unknown_evidence_is_refused():
    with pytest.raises(ValueError, match="exp, softplus, relu"):
        dirichlet.concentration(torch.zeros(2), "sigmoid")
