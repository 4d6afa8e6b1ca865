"""Chunks of which a few rows, or all, have no closed form: the same numbers, and no more memory than promised."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trl_weaks.heads import WeakHeadRequest, by_autograd
from trl_weaks.heads.by_autograd import soft_labels
from trl_weaks.heads.rows import chunk_rows
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, CallableLoss, EvidentialLoss, NaiveLoss
from trl_weaks.losses.base import closed_form_plan
from trl_weaks.trainer.classification.objective import VoteObjective

N, V = 12, 23
INNER = EvidentialLoss(kl_coef=1e-3, kl_anneal=0, kl_clamp=None)
LOSSES = {
    "evidential": INNER,
    "evidential + aux": AuxiliaryConfidence(INNER, 0.3),
    "offset": EvidentialLoss(kl_coef=1e-3, kl_anneal=0, kl_clamp=None, evidence_offset=5.0),
    "softplus": EvidentialLoss("softplus", kl_coef=1e-3, kl_anneal=0),
}


def problem(dtype=torch.float64, beyond=(2, 3, 9)):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(N, V, generator=g, dtype=torch.float64) * 3
    ids = torch.randint(1, V, (N,), generator=g)
    limit = 300.0 if dtype == torch.float64 else 40.0
    logits[list(beyond), 0] = limit + torch.rand(len(beyond), generator=g, dtype=torch.float64) * 50
    logits[5, ids[5]] = limit + 10  # the emitted token's own is no reason
    weights = torch.rand(N, 3, generator=g)
    weights[:, 2] = weights[2, 1] = 0
    weights[4] = 0
    return logits.to(dtype), ids, weights, -3 * torch.rand(N, 3, generator=g)


def chunk(loss, logits, ids, weights, logps, needs_grad=True):
    tokens = Tokens(ids, weights, torch.arange(N), logps, "uniform")
    return chunk_rows(
        logits.clone(), tokens, slice(0, N), WeakHeadRequest(loss, 0.5, weights, tokens.segments, logps), needs_grad
    )


def one_by_one(loss, logits, ids, weights, logps):
    leaf = logits.to(torch.float64, copy=True).requires_grad_()
    rows = []
    for i in range(N):
        probs = torch.ones(3, dtype=torch.float64) if logps is None else logps[i].double().exp()
        row = leaf[i : i + 1]
        values = [loss(row, soft_labels(row, ids[i : i + 1], p[None]), 0.5)[0] for p in probs]
        rows.append(sum(w.double() * v for w, v in zip(weights[i], values, strict=True)))
    rows = torch.stack(rows)
    return rows.detach(), torch.autograd.grad(rows.sum(), leaf)[0]


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("beyond", [(2, 3, 9), range(N)], ids=["three rows", "all rows"])
@pytest.mark.parametrize("at_once", [2 * V, 2**18])
def test_rows_beyond_the_limit_and_those_within_are_exact(hard, name, beyond, at_once, monkeypatch):
    monkeypatch.setattr(by_autograd, "_logits_at_once", lambda device: at_once)
    logits, ids, weights, logps = problem(beyond=beyond)
    got = chunk(LOSSES[name], logits, ids, weights, None if hard else logps)
    value, slope = one_by_one(LOSSES[name], logits, ids, weights, None if hard else logps)
    torch.testing.assert_close(got.loss, value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.gradient.full(), slope, rtol=1e-9, atol=1e-12)
    without = chunk(LOSSES[name], logits, ids, weights, None if hard else logps, needs_grad=False)
    assert torch.equal(without.loss, got.loss) and without.gradient is None
    torch.testing.assert_close(got.log_probs, logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0])


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("name", LOSSES)
def test_float32_keeps_five_digits_on_both_sides_of_the_limit(hard, name):
    logits, ids, weights, logps = problem(torch.float32)
    logps[2, 0], logps[3, 0] = -12.0, -17.0  # 1 - y is 1e-8 beside a student who is certain of another token
    got = chunk(LOSSES[name], logits, ids, weights, None if hard else logps)
    value, slope = one_by_one(LOSSES[name], logits, ids, weights, None if hard else logps)
    torch.testing.assert_close(got.loss, value, rtol=1e-5, atol=1e-5)
    assert got.gradient.dense.dtype == torch.float32
    torch.testing.assert_close(got.gradient.full().double(), slope, rtol=1e-5, atol=1e-7)


def test_rows_within_the_limit_do_not_feel_those_beyond():
    logits, ids, weights, logps = problem(torch.float32)
    got = chunk(INNER, logits, ids, weights, logps)
    tame = logits.clone()
    tame[[2, 3, 9], 0] = 0
    alone = chunk(INNER, tame, ids, weights, logps)
    rest = [i for i in range(N) if i not in (2, 3, 9)]
    assert torch.equal(got.loss[rest], alone.loss[rest])
    assert torch.equal(got.gradient.full()[rest], alone.gradient.full()[rest])


class Hundredfold(NaiveLoss):
    def __call__(self, logits, targets, progress=0.0):
        return 100 * super().__call__(logits, targets, progress)


class Shifted(EvidentialLoss):
    def __call__(self, logits, targets, progress):
        return super().__call__(logits, targets, progress) + targets[:, 0]


class LeastLikely(AuxiliaryConfidence):
    def predict(self, logits, targets):
        return logits.detach().argmin(-1)


class Renamed(EvidentialLoss):
    """Changes nothing that either form reads."""


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "loss", [Hundredfold(), Shifted(), AuxiliaryConfidence(Hundredfold(), 0.3), LeastLikely(NaiveLoss(), 0.3)]
)
def test_a_subclass_with_its_own_formula_is_not_given_the_closed_form_of_its_parent(loss, hard):
    logits, ids, weights, logps = problem(beyond=())
    got = chunk(loss, logits, ids, weights, None if hard else logps)
    value, slope = one_by_one(loss, logits, ids, weights, None if hard else logps)
    torch.testing.assert_close(got.loss, value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.gradient.full(), slope, rtol=1e-9, atol=1e-12)


def test_a_subclass_without_its_own_formula_keeps_the_closed_form():
    assert closed_form_plan(Renamed(), True, torch.float32) == EvidentialLoss().token_form_plan(True, torch.float32)
    assert closed_form_plan(Hundredfold(), True, torch.float32) is None
    assert closed_form_plan(CallableLoss(lambda *given: given), True, torch.float32) is None
    assert (Renamed.has_closed_form, Hundredfold.has_closed_form) == (True, False)


def summed(logits, targets, progress):
    return -(targets * logits.log_softmax(-1)).sum()


def kept_dim(logits, targets, progress):
    return -(targets * logits.log_softmax(-1)).sum(-1, keepdim=True)


def a_number(logits, targets, progress):
    return summed(logits, targets, progress).item()


def cut(logits, targets, progress):
    return -(targets * logits.detach().log_softmax(-1)).sum(-1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (summed, r"`summed` must return one number per row, shape \(\d+,\).*returned \(\)"),
        (kept_dim, r"`kept_dim`.*returned \(\d+, 1\)"),
        (a_number, "`a_number`.*returned float"),
        (cut, "`cut` returned numbers that have no gradient"),
    ],
)
def test_a_loss_that_is_not_one_number_per_row_with_a_gradient_is_named(function, message):
    logits, ids, weights, logps = problem(beyond=())
    with pytest.raises(ValueError, match=message):
        chunk(CallableLoss(function), logits, ids, weights, logps)
    with pytest.raises(ValueError, match=message):
        chunk(AuxiliaryConfidence(CallableLoss(function), 0.3), logits, ids, weights, logps)
    votes = torch.softmax(torch.randn(4, 2, 5), -1)
    for loss, pooling in ((CallableLoss(function), "linear"), (function, "majority")):
        with pytest.raises(ValueError, match=message):
            VoteObjective(loss, pooling)(torch.randn(4, 5, requires_grad=True), votes, torch.full((4, 2), 0.5), 0.5)


def test_a_loss_without_gradient_may_still_be_evaluated():
    logits, ids, weights, _ = problem(beyond=())
    assert torch.isfinite(chunk(CallableLoss(cut), logits, ids, weights, None, needs_grad=False).loss).all()


MEMORY = """
import sys, torch
from test_rows_by_autograd import EvidentialLoss, Tokens, WeakHeadRequest, chunk_rows

def megabytes(field):
    return int(next(x for x in open("/proc/self/status") if x.startswith(field)).split()[1]) / 1024

kind, n, width = sys.argv[1], 384, 4_000
torch.set_num_threads(1)
logits, weights = torch.randn(n, width), torch.ones(n, 3)
logits[0, 1] = 41.5 if kind == "spike" else 1.0
loss = EvidentialLoss("softplus" if kind == "softplus" else "exp")
tokens = Tokens(torch.zeros(n, dtype=torch.long), weights, torch.arange(n), -weights, "uniform")
before = megabytes("VmRSS")
chunk_rows(logits, tokens, slice(0, n), WeakHeadRequest(loss, 0.5, weights, tokens.segments, -weights), True)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of a process")
@pytest.mark.parametrize(("kind", "most"), [("spike", 100), ("softplus", 400)])
def test_memory_does_not_jump_where_there_is_no_closed_form(kind, most):
    """In MiB. Without sub-blocks it was 1,100 and more, and grew with the chunk and the number of supervisors."""
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert float(ran.stdout) < most
