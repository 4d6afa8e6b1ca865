"""What Triton's kernels do with one number per token, under its interpreter on a CPU: digits, edges, and launches."""

import math
import os
from collections import Counter

import mpmath
import pytest
import torch
from token_forms import LOSSES, closed, problem
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from trl_weaks.dirichlet import stirling_remainder
from trl_weaks.heads import WeakHeadRequest
from trl_weaks.heads.chunked import ChunkedHeadLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss
from trl_weaks.losses.vocabulary import cpu_kernels, triton_passes, triton_tokens
from trl_weaks.losses.vocabulary.token_rows import TokenLabel, split_rows

REASON = "needs Triton and TRITON_INTERPRET=1; `make test-triton` brings both"
if os.environ.get("TRITON_INTERPRET") != "1":  # Triton's own functions are interpreted only where it is set before
    pytest.skip(REASON, allow_module_level=True)
triton = pytest.importorskip("triton", reason=REASON)

from triton import language as tl  # noqa: E402

from trl_weaks.losses.vocabulary import triton_token_kernels as kernels  # noqa: E402


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "can_run", lambda rows: False)
    monkeypatch.setattr(triton_passes, "_failures", [])
    yield
    assert not triton_passes._failures


@triton.jit
def both_terms(
    log_e, out, width, remainder: tl.float64, log_gamma: tl.float64, SMALL: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.arange(0, BLOCK)
    x = tl.load(log_e + i)
    value, slope = kernels._class_term(x)
    tl.store(out + i, value)
    tl.store(out + BLOCK + i, slope)
    value, slope = kernels._strength_term(x, width, remainder, log_gamma, SMALL)
    tl.store(out + 2 * BLOCK + i, value)
    tl.store(out + 3 * BLOCK + i, slope)


def exact_terms(log_e, width):
    """c(e), e c'(e), F(e) and e F'(e) by their definition, in 60 digits."""
    e, k = mpmath.exp(mpmath.mpf(log_e)), mpmath.mpf(width)
    one, s = 1 + e, k + e
    return (
        e * mpmath.digamma(one) - mpmath.loggamma(one) - e,
        e * (e * mpmath.psi(1, one) - 1),
        mpmath.loggamma(s) - mpmath.loggamma(k) - e * mpmath.digamma(s) + e,
        e * (1 - e * mpmath.psi(1, s)),
    )


@pytest.mark.parametrize("width", [1, 2, 15, 16, 700, 152_000])
def test_the_special_functions_have_all_digits(width):
    edge = math.log(16)
    points = [-700.0, -300.0, -40.0, -20.0, -5.0, -1.0, 0.0, 1.0, 2.0, 2.7, edge - 1e-9, edge, edge + 1e-9, 2.9]
    points += [5.0, 9.5, 10.0, 12.0, 15.0, 20.0, 30.0, 41.0, 55.0, math.log(14), math.log(15), 3.0, 3.1, 2.4, 2.5]
    log_e = torch.tensor([*points, 0.5, -0.5, 60.0], dtype=torch.float64)
    found = torch.empty(4, len(log_e), dtype=torch.float64)
    bounds = (stirling_remainder(float(width)), math.lgamma(width))
    both_terms[(1,)](log_e, found, width, *bounds, SMALL=width < 16, BLOCK=len(log_e))
    with mpmath.workdps(60):
        expected = [[float(x) for x in exact_terms(one, width)] for one in log_e.tolist()]
    torch.testing.assert_close(found.T, torch.tensor(expected, dtype=torch.float64), rtol=5e-13, atol=5e-13)


def edges(width, hard):
    """Rows where something is lost if it is computed as 1 minus the rest, or not there at all."""
    logits, ids, _ = problem(8, width, spread=2.0, dtype=torch.float32)
    logits[1] = -90.0
    logits[2, ids[2]] = 39.0
    logits[3, (ids[3] + 1) % width] = 38.0
    logits[4, ids[4]] = -95.0
    logits[5] = 0.0  # all alike
    logits[6, ids[6]], logits[6, (ids[6] + 1) % width] = 9.0, 9.0
    scales = torch.tensor([1.0, 0.5, 2.0, 0.25, 0.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    probs = torch.tensor([0.0, 1.0, 1e-12, 1 - 1e-12, 0.3, 0.5, 0.99, 0.01], dtype=torch.float64)
    labels = [TokenLabel(scales)] if hard else [TokenLabel(scales, probs), TokenLabel(scales.flip(0), probs.flip(0))]
    return logits, ids, labels


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("width", [2, 5, 16, 40])
def test_edges(width, loss, hard):
    """Against PyTorch's operations in float64, relative to each row: none hides behind a larger one."""
    logits, ids, labels = edges(width, hard)
    (value, gradient), (expected, slope) = (
        closed(loss, x, ids, labels, 0.6, kernels=x.dtype == torch.float32) for x in (logits, logits.double())
    )
    torch.testing.assert_close(value, expected, rtol=5e-6, atol=5e-6)
    error = (gradient.double() - slope).abs().amax(-1)
    assert (error <= 5e-6 * (1e-3 + slope.abs().amax(-1))).all(), (error, slope.abs().amax(-1))


def test_the_statistics_are_those_of_pytorch():
    for hard in (True, False):
        logits, ids, _ = edges(40, hard)
        plan = LOSSES["evidential"].token_form_plan(hard, torch.float32)
        found, expected = (split_rows(logits.clone().to(d), ids, plan, d == torch.float32) for d in DTYPES)
        assert found.table is not None and expected.table is None
        for name in (*triton_tokens.COLUMNS, "is_top1", "log_rest", "log_normaliser"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6, msg=name)


DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_some_rows_reach_the_clamp_some_only_may_and_some_cannot(hard, dtype):
    """Those that may are read twice, their gradient is written by the second pass: in place, and in other memory."""
    logits, ids, labels = problem(6, 300, hard=hard, dtype=torch.float32)
    logits[:2] -= 12.0
    logits[4:] += 3.0
    bounds, expected = [], []
    for loss in (EvidentialLoss(kl_coef=0.05, kl_clamp=3.0), EvidentialLoss(kl_coef=0.05, kl_clamp=None)):
        loss = AuxiliaryConfidence(loss, 0.3)
        expected.append(closed(loss, logits.double(), ids, labels, 0.6))
        rows = split_rows(logits.clone(), ids, loss.token_form_plan(hard, logits.dtype), True, dtype)
        value, gradient = loss.token_form(rows, labels, 0.6, True)
        bounds.append((value, gradient.full(dtype)))
    (value, gradient), (exact, slope) = bounds[0], expected[0]
    torch.testing.assert_close(value, exact, rtol=2e-6, atol=2e-6)
    # the interpreter cuts the bits that bfloat16 has no room for, where a GPU rounds
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)
    reached = (expected[0][0] - expected[1][0]).abs() > 1e-6
    assert reached.any() and not reached.all()


@pytest.mark.parametrize("split", ["confidence", "uniform", "eq8"])
def test_probabilities_of_units_cut_and_whole_short_and_long(split, monkeypatch):
    g, lengths = torch.Generator().manual_seed(0), torch.tensor([1, 3, 90, 1, 7, 200, 2])
    n = int(lengths.sum())
    weights = torch.rand(n, 3, generator=g, dtype=torch.float64)
    weights[5] = 0.0
    segments = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    logps = (-3 * torch.rand(len(lengths), 3, generator=g))[segments]
    table = torch.rand(n, len(triton_tokens.COLUMNS), generator=g, dtype=torch.float64)
    tokens = Tokens(torch.zeros(n, dtype=torch.long), weights, segments, logps, split)
    spans = tokens.chunks(100)
    tokens = tokens.with_totals(spans, lambda span: table[span, -1])
    assert tokens.cut_totals is not None and (tokens.cut_totals == 0).any()
    for span in spans:
        expected = tokens.label_probs(span, table[span, -1], None)
        torch.testing.assert_close(tokens.label_probs(span, torch.empty(0), table[span]), expected, rtol=1e-13, atol=0)
    monkeypatch.setattr(triton_tokens, "launch", lambda *given, **options: False)
    assert torch.equal(tokens.label_probs(span, table[span, -1], table[span])[0], expected[0])


class Launches(TorchDispatchMode):
    """Counts what would be started on a device: operations of PyTorch but for views and empty memory, and kernels."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in ("detach", "empty_like", "new_empty", "empty"):
            self.found[name] += 1
        return func(*args, **kwargs or {})

    def launch(self, real):
        def counted(name, *given, **options):
            self.found[name] += 1
            with _disable_current_modes():
                return real(name, *given, **options)

        return counted


# Of a chunk, the three products left out. On a GPU each takes 2 to 10 microseconds, and the products of 1,024 tokens
# together about 1,000, so that what one operation per formula would ask for (140 to 800) is what the chunk costs.
MOST = {
    ("naive", True): 12, ("naive", False): 12, ("naive + aux", False): 19,
    ("evidential", True): 15, ("evidential", False): 19,
    ("evidential + aux", True): 21, ("evidential + aux", False): 24,
}  # fmt: skip


@pytest.mark.parametrize(("name", "hard"), MOST)
def test_a_chunk_asks_for_few_launches_and_waits_once_at_most(name, hard, monkeypatch):
    loss, counts = LOSSES[name], []
    real = triton_passes.launch
    for chunks in (1, 2):
        g, n = torch.Generator().manual_seed(0), 4 * chunks
        hidden, weight = torch.randn(n, 8, generator=g), torch.randn(40, 8, generator=g)
        weights, logps = torch.ones(n, 1, dtype=torch.float64), -torch.rand(n, 1, generator=g)
        tokens = Tokens(torch.arange(n), weights, torch.arange(n) // 2, None if hard else logps, "confidence")
        request = WeakHeadRequest(loss, 0.6, weights, chunk_size=4, kernels=True)
        leaves = [x.requires_grad_() for x in (hidden, weight)]
        with Launches() as mode:
            for module in (triton_passes, triton_tokens):
                monkeypatch.setattr(module, "launch", mode.launch(real))
            value, _ = ChunkedHeadLoss.apply(*leaves, None, tokens, request, LogitTransform())
        counts.append(mode.found)
    a_chunk = counts[1] - counts[0]
    products = a_chunk["mm"] + a_chunk["addmm_"]
    assert products == 3 and a_chunk["_local_scalar_dense"] == (1 if "evidential" in name else 0), a_chunk
    assert a_chunk.total() - products <= MOST[name, hard], a_chunk


@pytest.mark.parametrize("name", ["evidential_tokens", "evidential_rows"])
def test_a_kernel_that_no_longer_starts_ends_training_and_leaves_no_number_unwritten(name, monkeypatch):
    known, starts = triton_passes.find_kernels(), []

    class Failing:
        def __getitem__(self, grid):
            starts.append(grid)
            return known[name][grid] if len(starts) == 1 else lambda *given, **options: 1 / 0

    monkeypatch.setattr(triton_passes, "find_kernels", lambda: known | {name: Failing()})
    logits, ids, labels = problem(4, 50, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="did not start again.*use_triton_kernels=False"):
        closed(LOSSES["evidential, clamped"], logits, ids, labels, 0.6, kernels=True)
    assert triton_passes._failures.pop().startswith(f"{name}: ZeroDivisionError")
