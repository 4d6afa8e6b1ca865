"""Closed forms over a vocabulary against autograd of the plain call, arbitrary evidence, extremes and fuzz."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln, polygamma

from trl_weaks.dirichlet import kl_from_log_evidence
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.class_terms import Sums, Workspace, collect
from trl_weaks.losses.token_rows import TokenLabel, split_rows

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


def closed(loss, logits, ids, labels, progress, needs_grad=True):
    hard = all(label.probs is None for label in labels)
    rows = split_rows(logits.clone(), ids, loss.token_form_plan(hard, logits.dtype))
    assert rows.others is not None
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


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(("spread", "shift"), [(1.0, -6.0), (3.0, 0.0), (12.0, 5.0), (40.0, 0.0)])
def test_value_and_gradient_equal_autograd_in_float64(loss, hard, spread, shift):
    logits, ids, labels = problem(spread=spread, shift=shift, hard=hard)
    value, gradient = closed(loss, logits, ids, labels, 0.6)
    expected, slope = plain(loss, logits, ids, labels, 0.6)
    assert torch.allclose(value, expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(gradient, slope, rtol=1e-9, atol=1e-10)
    without = closed(loss, logits, ids, labels, 0.6, needs_grad=False)
    assert torch.equal(without[0], value) and without[1] is None


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(("spread", "shift"), [(1.0, -6.0), (3.0, 0.0), (8.0, 5.0)])
def test_float32_keeps_five_digits_over_a_vocabulary(loss, hard, spread, shift):
    logits, ids, labels = problem(4, 5_000, spread, shift, hard=hard, dtype=torch.float32)
    value, gradient = closed(loss, logits.clamp(max=38), ids, labels, 0.6)
    expected, slope = plain(loss, logits.clamp(max=38), ids, labels, 0.6)
    assert torch.allclose(value, expected, rtol=1e-5, atol=1e-5)
    scale = slope.norm(dim=-1, keepdim=True)
    assert ((gradient - slope).abs() <= 1e-5 * scale + 1e-9).all()
    assert ((gradient - slope).norm(dim=-1) / scale[:, 0] < 1e-5).all()


@pytest.mark.parametrize("loss", [LOSSES["naive + aux"], LOSSES["evidential + aux"]], ids=["naive", "evidential"])
def test_gradients_pass_finite_differences(loss):
    """Soft labels are held fixed, as they are detached."""
    logits, ids, labels = problem(3, 7, 2.0)
    _, gradient = closed(loss, logits, ids, labels, 0.6)
    targets = [[soft_target(logits[i], t, label.probs[i]) for label in labels] for i, t in enumerate(ids.tolist())]

    def value(z):
        return sum(
            label.scales[i] * loss(z[i : i + 1], targets[i][k][None], 0.6)[0]
            for i in range(3)
            for k, label in enumerate(labels)
        )

    for i in range(3):
        for j in range(7):
            step = torch.zeros_like(logits)
            step[i, j] = 1e-5
            slope = (value(logits + step) - value(logits - step)) / 2e-5
            assert gradient[i, j].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [20.0, 27.6, 60.0, 1e4])
def test_a_saturated_token_still_feels_its_label(margin, dtype):
    """At p_t = 1 - 1e-12 (margin 27.6) dloss/dz_t = p_t - P: 1 - p_t rounds to 0, and the naive label is 0/0."""
    logits = torch.tensor([[margin, 0.0, -1.0]], dtype=dtype)
    ids, labels = torch.tensor([0]), [TokenLabel(torch.ones(1, dtype=torch.float64), torch.tensor([0.7]).double())]
    value, gradient = closed(NaiveLoss(), logits, ids, labels, 0.0)
    q = torch.softmax(torch.tensor([0.0, -1.0], dtype=torch.float64), -1)
    expected = torch.cat([torch.tensor([0.3], dtype=torch.float64), -0.3 * q])
    assert torch.allclose(gradient[0].double(), expected, rtol=1e-6, atol=1e-8)
    assert value.item() == pytest.approx(0.3 * (margin + q[0].item() * 0 + q[1].item()), rel=1e-6)


def textbook_float32_kl(alpha):
    total = alpha.sum(-1)
    kl = torch.lgamma(total) - torch.lgamma(alpha).sum(-1) - math.lgamma(alpha.shape[-1])
    return kl + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[..., None])).sum(-1)


@pytest.mark.parametrize(("shift", "spread"), [(-8.0, 1.5), (-2.0, 1.5), (0.0, 3.0)])
def test_the_divergence_in_float32_keeps_its_digits(shift, spread):
    logits, ids, labels = problem(6, 32_000, spread, shift, hard=True, dtype=torch.float32)
    labels = [TokenLabel(torch.ones(6, dtype=torch.float64))]
    with_kl, without = (EvidentialLoss(kl_coef=c, kl_anneal=0, kl_clamp=None) for c in (1.0, 0.0))
    got = closed(with_kl, logits, ids, labels, 1.0)[0] - closed(without, logits, ids, labels, 1.0)[0]
    e = logits.double().exp().scatter(-1, ids[:, None], 0).numpy()
    total = 32_000 + e.sum(-1)
    exact = gammaln(total) - gammaln(32_000) - e.sum(-1) * digamma(total)
    exact += (e * digamma(1 + e) - gammaln(1 + e)).sum(-1)
    ours = np.abs(got.numpy() - exact).max()
    naive = np.abs(textbook_float32_kl((torch.from_numpy(e) + 1).float()).double().numpy() - exact).max()
    if shift == -8.0:  # nearly flat: what matters is absolute
        assert ours <= 1e-3 * naive
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


def test_logits_above_the_limit_are_left_to_autograd_untouched():
    logits, ids, _ = problem(3, 11, dtype=torch.float32)
    logits[1, 4] = 41.0
    ids[1] = 2
    rows = split_rows(given_logits := logits.clone(), ids, EvidentialLoss().token_form_plan(True, torch.float32))
    assert rows.others is None
    assert torch.equal(given_logits, logits)
    assert EvidentialLoss(kl_target="expected").token_form_plan(False, torch.float32) is None
    assert EvidentialLoss("softplus").token_form_plan(True, torch.float32) is None


@pytest.mark.parametrize("width", [3, 1_000, 1_021, 4_096, 2_500])
def test_row_statistics_including_ties(width):
    g = torch.Generator().manual_seed(width)
    logits = torch.randint(-4, 5, (50, width), generator=g).float()  # many ties
    ids = torch.randint(width, (50,), generator=g)
    rows = split_rows(logits.clone(), ids, AuxiliaryConfidence(NaiveLoss(), 0.5).token_form_plan(True, torch.float32))
    log_probs = logits.double().log_softmax(-1)
    others = logits.scatter(-1, ids[:, None], -torch.inf)
    assert torch.equal(rows.is_top1, logits.argmax(-1) == ids)
    assert torch.equal(rows.rival_ids, others.argmax(-1))
    assert torch.allclose(rows.log_prob, log_probs.gather(-1, ids[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(rows.top_probs, log_probs.exp().amax(-1), rtol=1e-6)
    assert torch.allclose(rows.entropy, -(log_probs.exp() * log_probs).sum(-1), atol=1e-5)


EXTREMES = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1e4, -1e4, 38.0, -90.0, 1e-30]),
)


@st.composite
def rows_of_logits(draw):
    width = draw(st.integers(2, 9))
    row = draw(st.lists(EXTREMES, min_size=width, max_size=width))
    target = draw(st.integers(0, width - 1))
    prob = draw(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-300, 1e-12, 1 - 1e-12])))
    return row, target, prob, draw(st.sampled_from(list(LOSSES))), draw(st.booleans()), draw(st.floats(0, 1))


def check_one_row(case):
    row, target, prob, name, hard, progress = case
    loss, ids = LOSSES[name], torch.tensor([target])
    one = torch.ones(1, dtype=torch.float64)
    labels = [TokenLabel(one, None if hard else prob * one)]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        logits = torch.tensor([row], dtype=dtype)
        rows = split_rows(logits.clone(), ids, loss.token_form_plan(hard, dtype))
        if rows.others is None:
            continue
        value, gradient = loss.token_form(rows, labels, progress, True)
        gradient = gradient.full()
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
        expected, slope = plain(loss, logits, ids, labels, progress)
        assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance)
        if (torch.sort(logits[0]).values.diff()[-1:] > 1e-3).all():  # a tied or nearly clamped row has two gradients
            if "clamped" not in name:
                assert torch.allclose(gradient.double(), slope, rtol=tolerance, atol=tolerance)


@given(rows_of_logits())
@example(([-710.0, 0.0], 1, 0.0, "evidential", False, 0.0))
@example(([744.0, 0.0, 0.0], 0, 0.0, "evidential", False, 1.0))
@example(([90.0, 0.0, 0.0], 0, 0.0, "evidential", False, 1.0))
@example(([1e4, 38.0, -30.0], 0, 0.5, "evidential + aux", True, 1.0))
@example(([90.0, 38.0, 37.0], 0, 1.0, "evidential, clamped", True, 1.0))
@settings(max_examples=300, deadline=None)
def test_any_row_is_finite_and_equals_autograd(case):
    check_one_row(case)


@pytest.mark.slow
@given(rows_of_logits())
@settings(max_examples=10_000, deadline=None)
def test_ten_thousand_rows_are_finite_and_equal_autograd(case):
    check_one_row(case)


@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: AuxiliaryConfidence(loss, 0.3)])
@pytest.mark.parametrize("soft", [False, True])
def test_an_evidence_offset_is_an_offset_of_the_logits(wrap, soft):
    torch.manual_seed(0)
    logits, ids = 3 * torch.randn(9, 31, dtype=torch.float64), torch.randint(31, (9,))
    label = TokenLabel(torch.rand(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64) if soft else None)
    shifted, stock = (EvidentialLoss(kl_coef=0.05, evidence_offset=c) for c in (2.5, 0.0))
    assert torch.equal(
        shifted(logits, torch.full_like(logits, 1 / 31), 0.5),
        stock(logits + 2.5, torch.full_like(logits, 1 / 31), 0.5),
    )
    value, gradient = closed(wrap(shifted), logits, ids, [label], 0.5)
    expected, slope = closed(wrap(stock), logits + 2.5, ids, [label], 0.5)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-14)


def test_logits_pushed_past_the_closed_form_by_the_offset_are_left_as_they_were():
    logits = torch.randn(4, 11)
    kept = logits.clone()
    plan = EvidentialLoss(evidence_offset=60.0).token_form_plan(True, torch.float32)
    assert split_rows(logits, torch.zeros(4, dtype=torch.long), plan).others is None
    assert torch.equal(logits, kept)


def test_a_large_offset_makes_the_likelihood_a_cross_entropy():
    logits = torch.randn(5, 7, dtype=torch.float64)
    targets = torch.softmax(torch.randn(5, 7, dtype=torch.float64), -1)
    loss = EvidentialLoss(kl_coef=0, evidence_offset=30.0)(logits, targets, 0.0)
    torch.testing.assert_close(loss, NaiveLoss()(logits, targets, 0.0), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="evidence_offset must be finite"):
        EvidentialLoss(evidence_offset=math.nan)
