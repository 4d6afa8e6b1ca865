import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from trl_weaks.losses.preference import (
    PREFERENCE_LOSSES,
    cdpo_loss,
    cw_loss,
    optimum_margin,
    preference_loss,
    rdpo_loss,
    sequence_logps,
    sigmoid_loss,
)

MARGINS = [-30.0, -3.0, -0.2, 0.0, 0.7, 4.0, 25.0]
EPSILONS = [0.0, 0.01, 0.1, 0.25, 0.3, 0.45, 0.49]


def by_hand(name, margin, epsilon):
    """Python floats, written from Eq. 9 and 12 and the robust DPO paper."""
    right = math.log1p(math.exp(-margin))  # L(c, r)
    wrong = math.log1p(math.exp(margin))  # L(r, c)
    if name == "sigmoid":
        return right
    if name == "cdpo":
        return (1 - epsilon) * right + epsilon * wrong
    if name == "cw":
        return (1 - 2 * epsilon) * right
    return ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_equals_the_formula_written_by_hand(name):
    margins, epsilons = torch.tensor(MARGINS, dtype=torch.float64), torch.tensor(EPSILONS, dtype=torch.float64)
    expected = [by_hand(name, m, e) for m, e in zip(MARGINS, EPSILONS, strict=True)]
    got = preference_loss(name, margins, epsilons)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradients_of_first_and_second_order(name):
    margins = torch.tensor(MARGINS[1:-1], dtype=torch.float64, requires_grad=True)
    epsilons = torch.tensor(EPSILONS[1:-1], dtype=torch.float64)
    torch.autograd.gradcheck(lambda m: preference_loss(name, m, epsilons), margins)
    torch.autograd.gradgradcheck(lambda m: preference_loss(name, m, epsilons), margins)


def test_cdpo_gradient_is_epsilon_minus_the_wrong_probability():
    margins = torch.tensor(MARGINS, dtype=torch.float64, requires_grad=True)
    epsilons = torch.tensor(EPSILONS, dtype=torch.float64)
    cdpo_loss(margins, epsilons).sum().backward()
    torch.testing.assert_close(margins.grad, epsilons - torch.sigmoid(-margins.detach()))


def test_epsilon_zero_is_plain_dpo_to_the_bit():
    margins = torch.tensor(MARGINS)
    assert torch.equal(cdpo_loss(margins, 0.0), sigmoid_loss(margins))
    assert torch.equal(rdpo_loss(margins, torch.zeros_like(margins)), sigmoid_loss(margins))
    assert torch.equal(cw_loss(margins, torch.zeros_like(margins)), sigmoid_loss(margins))


def test_the_three_that_read_epsilon_are_one_family():
    margins, epsilons = torch.tensor(MARGINS, dtype=torch.float64), torch.tensor(EPSILONS, dtype=torch.float64)
    plain = sigmoid_loss(margins)
    torch.testing.assert_close(cdpo_loss(margins, epsilons), plain + epsilons * margins)
    torch.testing.assert_close(
        cw_loss(margins, epsilons), cdpo_loss(margins, epsilons) - epsilons * (2 * plain + margins)
    )
    torch.testing.assert_close(
        (1 - 2 * epsilons) * rdpo_loss(margins, epsilons), cw_loss(margins, epsilons) - epsilons * margins
    )


def test_the_weight_of_cw_is_the_papers_confidence():
    """C = 2 (sigmoid(s_c - s_r) - 1/2), written from the scores (arXiv 2603.04968)."""
    gaps = torch.linspace(0, 6, 13, dtype=torch.float64)
    expected = 2 * (1 / (1 + (-gaps).exp()) - 0.5)
    torch.testing.assert_close(cw_loss(torch.zeros_like(gaps), torch.sigmoid(-gaps)) / math.log(2), expected)


def test_a_pair_of_doubt_one_half_has_no_gradient_under_cw():
    margins = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    cw_loss(margins, torch.full((3,), 0.5)).sum().backward()
    assert margins.grad.tolist() == [0, 0, 0]


def test_optimum_margin_is_where_a_numerical_minimiser_stops():
    for epsilon, beta in ((0.1, 10.0), (0.1, 5.0), (0.3, 0.1), (0.01, 1.0)):
        found = minimize_scalar(
            lambda h, e=epsilon, b=beta: by_hand("cdpo", b * h, e), bounds=(-5 / beta, 10 / beta), method="bounded"
        ).x
        assert float(optimum_margin(torch.tensor(epsilon), beta)) == pytest.approx(found, rel=1e-3)
    assert float(optimum_margin(torch.tensor(0.1), 10.0)) == pytest.approx(0.2197, abs=1e-4)  # the paper's setting
    assert float(optimum_margin(torch.tensor(0.0), 10.0)) == math.inf


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(0, 0.499))
def test_invariances(margin, epsilon):
    margin = torch.tensor([margin], dtype=torch.float64)
    loss = cdpo_loss(margin, epsilon)
    assert torch.isfinite(loss).all()
    # swapping the pair and its probability of being wrong is the same statement
    torch.testing.assert_close(loss, cdpo_loss(-margin, 1 - epsilon))
    # bounded below by the entropy of epsilon
    entropy = -(1 - epsilon) * math.log1p(-epsilon) - (epsilon * math.log(epsilon) if epsilon else 0.0)
    assert float(loss) >= entropy - 1e-9
    # the identity of the docstring
    torch.testing.assert_close(loss, sigmoid_loss(margin) + epsilon * margin, rtol=1e-9, atol=1e-9)


def test_rdpo_is_unbiased_under_flips():
    epsilon, margins = 0.2, torch.tensor(MARGINS, dtype=torch.float64)
    mean = (1 - epsilon) * rdpo_loss(margins, epsilon) + epsilon * rdpo_loss(-margins, epsilon)
    torch.testing.assert_close(mean, sigmoid_loss(margins))


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="cdpo, cw, rdpo, sigmoid"):
        preference_loss("ipo", torch.zeros(1), 0.0)


@pytest.mark.parametrize("ld_alpha", [None, 0.0, 0.3, 1.0])
def test_sequence_logps_against_loops(ld_alpha):
    generator = torch.Generator().manual_seed(0)
    lengths, prompts, width = [3, 5, 4, 2], [2, 1, 3, 2], 8  # two chosen, two rejected
    mask = torch.zeros(4, width, dtype=torch.long)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        mask[row, prompt : prompt + length] = 1
    logps = -torch.rand(4, width, generator=generator, dtype=torch.float64) * mask
    expected = []
    for row in range(4):
        shared = min(lengths[row], lengths[(row + 2) % 4])
        total = 0.0
        for step in range(lengths[row]):
            scale = 1.0 if ld_alpha is None or step < shared else ld_alpha
            total += scale * float(logps[row, prompts[row] + step])
        expected.append(total)
    torch.testing.assert_close(sequence_logps(logps, mask, ld_alpha), torch.tensor(expected, dtype=torch.float64))
