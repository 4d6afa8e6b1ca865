"""The classification form of every loss against plain loops, scipy and the reference rules."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln

from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss, PredictionWindow, WeakLoss
from trl_weaks.losses.dirichlet_votes import DirichletVotes

CLASSES = (2, 3, 50)
EVIDENCE = {"exp": np.exp, "softplus": lambda z: np.log1p(np.exp(z)), "relu": lambda z: np.maximum(z, 0)}


def data(n=5, classes=4, seed=0, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=g, dtype=torch.float64) * spread
    return logits, torch.rand(n, classes, generator=g, dtype=torch.float64).pow(3).softmax(-1)


def squared_target(logits, targets, progress):
    return -(targets.square() * torch.log_softmax(logits, -1)).sum(-1)


def textbook_kl(alpha):
    gain = sum((a - 1) * (digamma(a) - digamma(alpha.sum())) for a in alpha)
    return gammaln(alpha.sum()) - gammaln(len(alpha)) - sum(gammaln(a) for a in alpha) + gain


def evidential_by_hand(logits, targets, evidence, weight, clamp, kl_target):
    values = []
    for z, y in zip(logits.numpy(), targets.numpy(), strict=True):
        alpha = EVIDENCE[evidence](z) + 1
        value = sum(y[k] * (math.log(alpha.sum()) - math.log(alpha[k])) for k in range(len(y)))
        if kl_target == "soft":
            value += min(clamp, weight * textbook_kl(y + (1 - y) * alpha))
        else:
            for k in range(len(y)):
                without = alpha.copy()
                without[k] = 1
                value += y[k] * min(clamp, weight * textbook_kl(without))
        values.append(value)
    return values


@pytest.mark.parametrize("kl_target", ["soft", "expected"])
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("clamp", [0.15, math.inf])
@pytest.mark.parametrize("classes", CLASSES)
def test_evidential_loss_equals_its_printed_form(evidence, kl_target, clamp, classes):
    logits, targets = data(classes=classes)
    loss = EvidentialLoss(evidence, kl_coef=0.4, kl_anneal=0.5, kl_clamp=clamp, kl_target=kl_target)
    expected = evidential_by_hand(logits, targets, evidence, 0.4 * 0.5, clamp, kl_target)
    np.testing.assert_allclose(loss(logits, targets, 0.25), expected, rtol=1e-11)
    np.testing.assert_allclose(loss(logits.float(), targets.float(), 0.25), expected, rtol=1e-5)


def test_the_authors_clamp_before_their_factor_is_this_clamp_after_it():
    logits, targets = data(classes=6, spread=12)
    kl = EvidentialLoss(kl_coef=1.0, kl_anneal=0, kl_clamp=None)(logits, targets, 0.3)
    kl = kl - EvidentialLoss(kl_coef=0)(logits, targets, 0.3)
    authors = EvidentialLoss(kl_coef=0)(logits, targets, 0.3) + 1e-4 * (0.3 * kl).clamp(max=2e5)
    assert torch.allclose(EvidentialLoss()(logits, targets, 0.3), authors, rtol=1e-9)


def test_hard_labels_read_the_divergence_the_same_way():
    logits, _ = data()
    hard = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 1]]
    soft, expected = (EvidentialLoss(kl_coef=1, kl_target=k)(logits, hard, 1.0) for k in ("soft", "expected"))
    assert torch.allclose(soft, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "linear"),
    [
        (NaiveLoss(), True),
        (EvidentialLoss(kl_coef=0.5, kl_target="expected"), True),
        (EvidentialLoss(kl_coef=0), True),
        (EvidentialLoss(kl_coef=0.5), False),
        (AuxiliaryConfidence(NaiveLoss(), 0.3), True),
        (AuxiliaryConfidence(EvidentialLoss(kl_coef=0.5), 0.3), False),
        (AuxiliaryConfidence(squared_target, 0.3), False),
    ],
)
def test_linearity_in_the_target_is_what_the_attribute_says(loss, linear):
    logits, first = data(seed=1)
    second = data(seed=2)[1]
    mixed = loss(logits, 0.3 * first + 0.7 * second, 0.8)
    apart = 0.3 * loss(logits, first, 0.8) + 0.7 * loss(logits, second, 0.8)
    assert isinstance(loss, WeakLoss)
    assert loss.linear_in_targets is linear
    assert torch.allclose(mixed, apart, rtol=1e-10) is linear


@pytest.mark.parametrize("classes", CLASSES)
def test_naive_loss_is_cross_entropy(classes):
    logits, targets = data(classes=classes)
    found = NaiveLoss()(logits, targets, 0.5)
    assert torch.allclose(found, torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    for z, y, value in zip(logits.tolist(), targets.tolist(), found.tolist(), strict=True):
        log_norm = math.log(math.fsum(math.exp(one) for one in z))
        assert value == pytest.approx(math.fsum(p * (log_norm - one) for p, one in zip(y, z, strict=True)), rel=1e-12)


@pytest.mark.parametrize("kl_target", ["soft", "expected"])
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_gradients_pass_gradcheck(evidence, kl_target):
    logits, targets = data(n=3)
    loss = AuxiliaryConfidence(EvidentialLoss(evidence, kl_coef=0.5, kl_target=kl_target), gamma_max=0.2)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, 0.9), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss",
    [
        NaiveLoss(),
        *(EvidentialLoss(e, kl_coef=1, kl_clamp=None, kl_target=k) for e in EVIDENCE for k in ("soft", "expected")),
    ],
    ids=str,
)
def test_values_and_gradients_are_finite_at_the_extremes(loss, dtype):
    rows = [
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 1e4],
        [1e4, 1e4, 1e4],
        [-1e4, -1e4, -1e4],
        [0.0, 0.0, 0.0],
        [16.0, 2.773, -700.0],
    ]
    logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for target in ([1.0, 0, 0], [0, 0, 1.0], [0.5, 0.5, 0], [1e-30, 1 - 1e-30, 0]):
        targets = torch.tensor([target] * len(rows))
        value = AuxiliaryConfidence(loss, 0.5)(logits, targets, 1.0)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("kl_target", ["soft", "expected"])
def test_random_extremes_in_bfloat16_stay_finite(classes, evidence, kl_target):
    g = torch.Generator().manual_seed(classes)
    logits = (torch.rand(64, classes, generator=g) * 2e4 - 1e4).bfloat16().requires_grad_()
    targets = torch.rand(64, classes, generator=g).pow(4)
    targets = targets / targets.sum(-1, keepdim=True)
    for inner in (NaiveLoss(), EvidentialLoss(evidence, kl_coef=1, kl_clamp=None, kl_target=kl_target)):
        value = AuxiliaryConfidence(inner, 0.5)(logits, targets, 1.0)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all() and gradient.any()


def test_the_divergence_weight_rises_linearly_and_stays():
    loss = EvidentialLoss(kl_coef=0.2, kl_anneal=0.4)
    assert [loss.kl_weight(x) for x in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0, 0.1, 0.2, 0.2])
    assert EvidentialLoss(kl_coef=0.2, kl_anneal=0).kl_weight(0.0) == 0.2


def test_gamma_is_continuous_and_reaches_its_maximum_at_the_end_of_the_warm_up():
    loss = AuxiliaryConfidence(NaiveLoss(), gamma_max=0.3, warmup=0.2)
    values = [loss.gamma(i / 10_000) for i in range(10_001)]
    assert values[0] == 0
    assert values[1_000] == pytest.approx(0.15)
    assert values[-1] == values[2_000] == pytest.approx(0.3)
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) < 2e-4
    assert AuxiliaryConfidence(NaiveLoss(), gamma_max=0.3, warmup=0).gamma(0.0) == 0.3


@pytest.mark.parametrize("inner", [NaiveLoss(), EvidentialLoss(kl_coef=0.7)], ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_auxiliary_confidence_mixes_two_losses(inner, classes):
    logits, targets = data(classes=classes)
    own = torch.eye(classes, dtype=torch.float64)[
        [max(range(classes), key=row.tolist().__getitem__) for row in logits]
    ]
    expected = (1 - 0.1) * inner(logits, targets, 0.5) + 0.1 * inner(logits, own, 0.5)
    assert torch.allclose(AuxiliaryConfidence(inner, 0.2, warmup=1.0)(logits, targets, 0.5), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EvidentialLoss("sigmoid"), "evidence"),
        (lambda: EvidentialLoss(kl_target="hard"), "kl_target"),
        (lambda: EvidentialLoss(kl_coef=-1), "kl_coef"),
        (lambda: EvidentialLoss(kl_anneal=2), "kl_anneal"),
        (lambda: EvidentialLoss(kl_clamp=0), "kl_clamp"),
        (lambda: AuxiliaryConfidence(NaiveLoss(), gamma_max=1.5), "gamma_max"),
        (lambda: AuxiliaryConfidence(NaiveLoss(), warmup=-0.1), "warmup"),
        (lambda: AuxiliaryConfidence(NaiveLoss(), threshold="mean"), "threshold"),
        (lambda: AuxiliaryConfidence(NaiveLoss(), window=PredictionWindow()), "balanced"),
        (lambda: AuxiliaryConfidence("naive"), "callable"),
        (lambda: AuxiliaryConfidence(DirichletVotes()), "all votes"),
        (lambda: PredictionWindow(0), "size"),
        (lambda: PredictionWindow().update(torch.ones(2, 2), torch.ones(2, 3)), "alike"),
        (lambda: PredictionWindow().predict(torch.ones(1, 2)), "empty"),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
