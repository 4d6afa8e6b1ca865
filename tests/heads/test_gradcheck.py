"""Finite differences in float64: every closed form, and the fused head with all that a model may do to its logits."""

import pytest
import torch
from torch.autograd import gradcheck

from trl_weaks.heads import WeakHeadRequest
from trl_weaks.heads.by_autograd import soft_labels
from trl_weaks.heads.chunked import ChunkedHeadLoss, ChunkedLogitsLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.rows import chunk_rows
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.base import closed_form_plan

N, V, H = 4, 7, 3
DIVERGENCE = {"kl_coef": 0.05, "kl_anneal": 0.0}
LOSSES = {
    "naive": NaiveLoss(),
    "naive + aux": AuxiliaryConfidence(NaiveLoss(), 0.3),
    "evidential": EvidentialLoss(**DIVERGENCE, kl_clamp=None),
    "clamped": EvidentialLoss(**DIVERGENCE, kl_clamp=0.2),
    "no divergence": EvidentialLoss(kl_coef=0),
    "offset": EvidentialLoss(**DIVERGENCE, kl_clamp=None, evidence_offset=1.5),
    "evidential + aux": AuxiliaryConfidence(EvidentialLoss(**DIVERGENCE, kl_clamp=None), 0.3),
}
NO_CLOSED_FORM = {
    "expected": AuxiliaryConfidence(EvidentialLoss(**DIVERGENCE, kl_target="expected", kl_clamp=None), 0.3),
    "softplus": EvidentialLoss("softplus", **DIVERGENCE),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(hard):
    """Two supervisors of four tokens, the first of which the student likes best."""
    logits = 2 * drawn(N, V)
    ids = torch.tensor([int(logits[0].argmax()), 2, 5, 0])
    weights = torch.tensor([[0.7, 0.4], [1.0, 0.0], [0.2, 0.9], [0.5, 0.5]], dtype=torch.float64)
    logps = None if hard else torch.tensor([[-0.1, -3.0], [-1e-9, -1.0], [-0.7, -8.0], [-0.3, -0.4]])
    return logits, Tokens(ids, weights, torch.arange(N), logps, "uniform")


class Closed(torch.autograd.Function):
    """Values by the public call, with labels that stay what they were; the gradient from the closed form."""

    @staticmethod
    def forward(ctx, logits, targets, tokens, request):
        ctx.gradient = chunk_rows(logits.clone(), tokens, slice(0, N), request, True).gradient.full()
        values = [request.loss(logits, y, request.progress) for y in targets]
        return sum(w * v for w, v in zip(tokens.weights.T, values, strict=True))

    @staticmethod
    def backward(ctx, grad):
        return ctx.gradient * grad[:, None], None, None, None


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("name", LOSSES | NO_CLOSED_FORM)
def test_the_gradient_of_every_form(name, hard):
    loss = (LOSSES | NO_CLOSED_FORM)[name]
    logits, tokens = problem(hard)
    assert closed_form_plan(loss, hard, torch.float64) is not None or name in NO_CLOSED_FORM
    request = WeakHeadRequest(loss, 0.6, tokens.weights)
    probs = tokens.target_logps(slice(0, N), torch.ones(N)).double().exp()
    targets = [soft_labels(logits, tokens.ids, p) for p in probs.T]
    assert gradcheck(lambda z: Closed.apply(z, targets, tokens, request), logits.requires_grad_(), atol=1e-7)


class Repeatable(torch.autograd.Function):
    """The fused head gives its gradients away once; `gradcheck` asks for them several times."""

    @staticmethod
    def forward(ctx, function, *inputs):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            value = function(*leaves)
            ctx.gradients = torch.autograd.grad(value, leaves)
        return value.detach()

    @staticmethod
    def backward(ctx, grad):
        return None, *[grad * g for g in ctx.gradients]


@pytest.mark.parametrize(
    "transform",
    [LogitTransform(), LogitTransform(scale=0.3), LogitTransform(softcap=2.0), LogitTransform(1.7, 4.0)],
    ids=["plain", "scale", "soft cap", "both"],
)
@pytest.mark.parametrize("name", LOSSES | NO_CLOSED_FORM)
def test_hidden_states_weight_and_bias_of_the_fused_head(name, transform):
    _, tokens = problem(hard=True)
    request = WeakHeadRequest((LOSSES | NO_CLOSED_FORM)[name], 0.6, tokens.weights, chunk_size=3)

    def fused(hidden, weight, bias):
        return 1.3 * ChunkedHeadLoss.apply(hidden, weight, bias, tokens, request, transform)[0]

    inputs = [x.requires_grad_() for x in (2 * drawn(N, H), drawn(V, H, seed=1), drawn(V, seed=2))]
    assert gradcheck(lambda *x: Repeatable.apply(fused, *x), inputs, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("name", LOSSES | NO_CLOSED_FORM)
def test_full_logits(name):
    logits, tokens = problem(hard=True)
    request = WeakHeadRequest((LOSSES | NO_CLOSED_FORM)[name], 0.6, tokens.weights, chunk_size=3)

    def whole(z):
        return ChunkedLogitsLoss.apply(z, tokens, request)[0]

    assert gradcheck(lambda z: Repeatable.apply(whole, z), logits.requires_grad_(), atol=1e-7, fast_mode=True)
