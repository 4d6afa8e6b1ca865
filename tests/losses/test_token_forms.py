"""Closed forms over a vocabulary against autograd of the plain call: values, gradients, extremes, limits, offsets."""

import math

import pytest
import torch
from token_forms import EITHER, LOSSES, closed, plain, problem, soft_target

from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary.row_reductions import blocks
from trl_weaks.losses.vocabulary.token_rows import TokenLabel, split_rows


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(("spread", "shift"), [(1.0, -6.0), (3.0, 0.0), (12.0, 5.0), (40.0, 0.0)])
def test_value_and_gradient_equal_autograd_in_float64(loss, hard, spread, shift):
    logits, ids, labels = problem(spread=spread, shift=shift, hard=hard)
    value, gradient = closed(loss, logits, ids, labels, 0.6)
    expected, slope = plain(loss, logits, ids, labels, 0.6)
    assert torch.allclose(value, expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(gradient, slope, rtol=1e-10, atol=1e-10)
    without = closed(loss, logits, ids, labels, 0.6, needs_grad=False)
    assert torch.equal(without[0], value) and without[1] is None


@pytest.mark.parametrize("kernels", EITHER)
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(("spread", "shift"), [(1.0, -6.0), (3.0, 0.0), (8.0, 5.0)])
def test_float32_keeps_five_digits_over_a_vocabulary(loss, hard, spread, shift, kernels):
    logits, ids, labels = problem(4, 5_000, spread, shift, hard=hard, dtype=torch.float32)
    value, gradient = closed(loss, logits.clamp(max=38), ids, labels, 0.6, kernels=kernels)
    without = closed(loss, logits.clamp(max=38), ids, labels, 0.6, needs_grad=False, kernels=kernels)
    assert torch.equal(without[0], value) and without[1] is None
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


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [(torch.float64, False), *(pytest.param(torch.float32, *p.values, marks=p.marks) for p in EITHER)],
)
@pytest.mark.parametrize("margin", [20.0, 27.6, 60.0, 1e4])
def test_a_saturated_token_still_feels_its_label(margin, dtype, kernels):
    """At p_t = 1 - 1e-12 (margin 27.6) dloss/dz_t = p_t - P: 1 - p_t rounds to 0, and the naive label is 0/0."""
    logits = torch.tensor([[margin, 0.0, -1.0]], dtype=dtype)
    ids, labels = torch.tensor([0]), [TokenLabel(torch.ones(1, dtype=torch.float64), torch.tensor([0.7]).double())]
    value, gradient = closed(NaiveLoss(), logits, ids, labels, 0.0, kernels=kernels)
    q = torch.softmax(torch.tensor([0.0, -1.0], dtype=torch.float64), -1)
    expected = torch.cat([torch.tensor([0.3], dtype=torch.float64), -0.3 * q])
    assert torch.allclose(gradient[0].double(), expected, rtol=1e-6, atol=1e-8)
    assert value.item() == pytest.approx(0.3 * (margin + q[0].item() * 0 + q[1].item()), rel=1e-6)


@pytest.mark.parametrize("kernels", EITHER)
@pytest.mark.parametrize("hard", [True, False])
def test_logits_above_the_limit_are_left_to_autograd_untouched(hard, kernels):
    logits, ids, _ = problem(3, 11, dtype=torch.float32)
    logits[1, 4] = 41.0
    ids[1] = 2
    plan = EvidentialLoss().token_form_plan(hard, torch.float32)
    rows = split_rows(given_logits := logits.clone(), ids, plan, kernels)
    assert rows.others is None
    assert torch.equal(given_logits, logits)


def test_which_losses_have_no_closed_form():
    assert EvidentialLoss(kl_target="expected").token_form_plan(False, torch.float32) is None
    assert EvidentialLoss("softplus").token_form_plan(True, torch.float32) is None


@pytest.mark.parametrize("kernels", EITHER)
@pytest.mark.parametrize("width", [3, 1_000, 1_021, 4_096, 2_500])
def test_row_statistics_including_ties(width, kernels):
    g = torch.Generator().manual_seed(width)
    logits = torch.randint(-4, 5, (50, width), generator=g).float()  # many ties
    ids = torch.randint(width, (50,), generator=g)
    plan = AuxiliaryConfidence(NaiveLoss(), 0.5).token_form_plan(True, torch.float32)
    rows = split_rows(logits.clone(), ids, plan, kernels)
    log_probs = logits.double().log_softmax(-1)
    others = logits.scatter(-1, ids[:, None], -torch.inf)
    assert torch.equal(rows.is_top1, logits.argmax(-1) == ids)
    assert torch.equal(rows.rival_ids, others.argmax(-1))
    assert torch.allclose(rows.log_prob, log_probs.gather(-1, ids[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(rows.top_probs, log_probs.exp().amax(-1), rtol=1e-6)
    assert torch.allclose(rows.entropy, -(log_probs.exp() * log_probs).sum(-1), atol=1e-5)


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


@pytest.mark.parametrize(("device", "limit"), [("cpu", 65_536), ("cuda", 2**25)])
@pytest.mark.parametrize(("rows", "width"), [(1_024, 152_000), (1_024, 32_000), (7, 300), (0, 5), (3, 2**26)])
def test_blocks_cover_all_rows_and_bound_the_memory(device, limit, rows, width):
    found = blocks(rows, width, torch.device(device))
    assert [i for b in found for i in range(b.start, b.stop)] == list(range(rows))
    assert all((b.stop - b.start) * width <= limit or b.stop - b.start == 1 for b in found)
