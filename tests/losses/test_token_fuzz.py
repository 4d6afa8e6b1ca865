"""Any row of logits: finite, and equal to autograd of the plain call."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from token_forms import EITHER, LOSSES, one_loss, plain

from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss
from trl_weaks.losses.vocabulary.token_rows import TokenLabel, split_rows

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


def on_the_edge(loss, logits, target, prob, progress):
    """Whether the row has two gradients: two tokens are the most likely one, or the divergence is at its bound."""
    if isinstance(loss, AuxiliaryConfidence):
        return bool(logits.topk(2).values.diff().abs() <= 1e-3)
    if not isinstance(loss, EvidentialLoss) or loss.kl_clamp is None:
        return False
    free, none = replace(loss, kl_clamp=None), replace(loss, kl_coef=0)
    with_it, without = (one_loss(x, logits.double(), target, prob, progress) for x in (free, none))
    return bool((with_it - without - loss.kl_clamp).abs() <= 1e-4)


def check_one_row(case, kernels):
    row, target, prob, name, hard, progress = case
    loss, ids = LOSSES[name], torch.tensor([target])
    one = torch.ones(1, dtype=torch.float64)
    labels = [TokenLabel(one, None if hard else prob * one)]
    for given_in, dtype, tolerance in (
        (torch.float64, torch.float64, 1e-10),
        (torch.float32, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, 1e-5),
    ):
        if kernels and dtype is torch.float64:
            continue
        logits = torch.tensor([row], dtype=given_in).to(dtype)
        rows = split_rows(logits.clone(), ids, loss.token_form_plan(hard, dtype), kernels)
        if rows.others is None:
            continue
        value, gradient = loss.token_form(rows, labels, progress, True)
        gradient = gradient.full()
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
        expected, slope = plain(loss, logits, ids, labels, progress)
        assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance)
        if not on_the_edge(loss, logits[0], target, prob if not hard else 1.0, progress):
            assert torch.allclose(gradient.double(), slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernels", EITHER)
@given(case=rows_of_logits())
@example(case=([-710.0, 0.0], 1, 0.0, "evidential", False, 0.0))
@example(case=([744.0, 0.0, 0.0], 0, 0.0, "evidential", False, 1.0))
@example(case=([90.0, 0.0, 0.0], 0, 0.0, "evidential", False, 1.0))
@example(case=([1e4, 38.0, -30.0], 0, 0.5, "evidential + aux", True, 1.0))
@example(case=([90.0, 38.0, 37.0], 0, 1.0, "evidential, clamped", True, 1.0))
@settings(max_examples=200, deadline=None)
def test_any_row_is_finite_and_equals_autograd(case, kernels):
    check_one_row(case, kernels)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", EITHER)
@given(case=rows_of_logits())
@settings(max_examples=10_000, deadline=None)
def test_ten_thousand_rows_are_finite_and_equal_autograd(case, kernels):
    check_one_row(case, kernels)
