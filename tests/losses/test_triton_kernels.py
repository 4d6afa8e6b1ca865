"""Triton's kernels under Triton's interpreter, on a CPU: against PyTorch's passes and autograd in float64."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from token_forms import LOSSES, closed, plain, problem

from trl_weaks.heads import WeakHeadRequest
from trl_weaks.heads.chunked import ChunkedHeadLoss, ChunkedLogitsLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.rows import chunk_rows
from trl_weaks.heads.tokens import flatten_tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss, vocabulary
from trl_weaks.losses.vocabulary import cpu_kernels, triton_passes
from trl_weaks.losses.vocabulary.row_reductions import reduce_rows
from trl_weaks.losses.vocabulary.token_rows import TokenFormPlan, TokenLabel, split_rows

# Triton's own functions are interpreted only where the variable is set before anything imports Triton.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton and TRITON_INTERPRET=1; `make test-triton` brings both",
)
find_kernels = triton_passes.find_kernels


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "can_run", lambda rows: False)
    monkeypatch.setattr(triton_passes, "_failures", [])
    yield
    find_kernels.cache_clear()


def assert_near(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.double() - theirs.double()).abs().max()
        assert error <= tolerance * max(1.0, float(theirs.abs().max())), float(error)


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize(
    ("width", "dtype"),
    [
        (2, torch.float32),
        (17, torch.bfloat16),
        (1_023, torch.float16),
        (4_097, torch.float32),
        (5_000, torch.bfloat16),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_any_number_of_classes(width, dtype, loss, hard):
    logits, ids, labels = problem(3, width, hard=hard, dtype=torch.float32)
    logits = logits.to(dtype)
    found = closed(loss, logits, ids, labels, 0.6, kernels=True)
    assert found[1].dtype == torch.float32 and not triton_passes._failures
    assert_near(found, plain(loss, logits, ids, labels, 0.6))
    assert_near([closed(loss, logits, ids, labels, 0.6, needs_grad=False, kernels=True)[0]], found[:1], 1e-12)
    assert_near(found, closed(loss, logits.float(), ids, labels, 0.6))


@pytest.mark.parametrize("rival", [True, False])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (1, 9_000), (4, 4_100)])
def test_row_statistics_with_ties_across_blocks(n, width, rival):
    """The largest logit in a later block, in an earlier one, and the same in both."""
    logits = torch.randn(n, width, generator=torch.Generator().manual_seed(0)) * 3
    for row, columns in zip(logits, ([width - 1], [0], [0, width - 1], [width // 2]), strict=False):
        row[columns] = 20.0
    ids, nowhere = torch.full((n,), width - 1), torch.full((n,), -1e30)
    expected = reduce_rows(logits.double(), ids, nowhere, rival, True, True, False)
    before = logits.clone()
    found = triton_passes.compiled_reduce_rows(logits, ids, rival)
    assert torch.equal(logits, before)
    assert torch.equal(found.top.double(), expected.top) and torch.equal(found.first, ids < logits.argmax(-1))
    assert found.rivals is None or torch.equal(found.rivals, expected.rivals)
    torch.testing.assert_close(found.sums, expected.sums, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_tokens_ruled_out_by_minus_infinity_count_for_nothing(loss, dtype):
    """The whole first block, too. Without the divergence, which counts classes: theirs is what is left of them."""
    logits, ids, labels = problem(3, 4_200, dtype=torch.float32)
    ids = 4_100 + ids % 100
    kept = torch.cat([logits[:, :3], logits[:, 4_096:]], -1).to(dtype).float()
    logits[:, 3:4_096] = -torch.inf
    logits[1, :3], kept[1, :3] = -torch.inf, -1e30
    found = closed(loss, logits.to(dtype), ids, labels, 0.6, kernels=True)
    ruled_out = logits.to(dtype).float().clamp(min=-1e30)
    assert_near(found, closed(loss, ruled_out, ids, labels, 0.6))
    assert not found[1][:, 3:4_096].any()
    if isinstance(loss, NaiveLoss):
        assert_near(found[:1], closed(loss, kept, ids - 4_093, labels, 0.6)[:1])


@pytest.mark.parametrize("loss", [NaiveLoss(), EvidentialLoss(), AuxiliaryConfidence(EvidentialLoss(), 0.3)])
def test_a_logit_that_is_not_a_number_is_not_hidden(loss):
    logits, ids, labels = problem(4, 5_000, hard=True, dtype=torch.float32)
    logits[2, 4_500], logits[3, 10], ids[2:] = torch.nan, torch.nan, 7
    value, _ = closed(loss, logits, ids, labels, 0.6, kernels=True)
    assert torch.isnan(value).tolist() == [False, False, True, True]


@pytest.mark.parametrize("offset", [0.0, 7.5])
def test_the_sums_and_the_gradient_over_the_whole_range_of_evidence(offset):
    """One class per row, against the passes that are compiled for CPUs, which are held against special functions."""
    if cpu_kernels.find_kernels() is None:
        pytest.skip("trl_weaks was installed without a C++ compiler")
    z = torch.linspace(-95, 38, 301)[:, None] - offset
    n = len(z)
    keeps, columns = torch.tensor([0.0, -1e-30]).repeat(n, 1), torch.tensor([0.3, -0.2, 0.1]).repeat(n, 2, 1)
    shares, near = torch.tensor([0.2, -0.7]).repeat(n, 1), torch.zeros(n, dtype=torch.int32)
    theirs, ours, sums = z.clone(), z.clone(), torch.empty(n, 3, dtype=torch.float64)
    expected = cpu_kernels.compiled_evidential_rows(theirs, offset, keeps, columns, shares, True)
    assert triton_passes.evidential_rows(ours, offset, keeps, columns, shares, near, sums, ours, True, 1)
    for one, other in zip((sums[:, :2], sums[:, 2], ours), (*expected, theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=1e-30)


def test_a_row_above_the_limit_is_set_apart():
    """Its gradient by autograd stands beside those of the kernels, in the type that the products take."""
    logits, _, request, tokens = head_problem(EvidentialLoss(kl_coef=0.05), kernels=True)
    logits[3, 5] = 60.0
    for dtype, tolerance in ((None, 1e-5), (torch.bfloat16, 4e-3)):
        rows = chunk_rows(logits.clone(), tokens, slice(0, len(logits)), request, True, dtype)
        theirs = request_without_kernels(request)
        expected = chunk_rows(logits.clone(), tokens, slice(0, len(logits)), theirs, True)
        gradient = rows.gradient.full(dtype)
        assert gradient.dtype == (dtype or torch.float32)
        assert_near((rows.loss, gradient), (expected.loss, expected.gradient.full()), tolerance)


def head_problem(loss, dtype=torch.float32, rows=9, width=50, **settings):
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, 16, generator=g).to(dtype)
    kernel = torch.randn(width, 16, generator=g).to(dtype)
    labels = torch.randint(width, (1, rows + 1), generator=g)
    labels[0, 4] = -100
    request = WeakHeadRequest(
        loss, 0.5, torch.full((1, 2), 0.5), torch.arange(-1, rows)[None], -torch.rand(1, rows + 1, 2, generator=g),
        chunk_size=5, **settings,
    )  # fmt: skip
    tokens, mask = flatten_tokens(request, labels)
    hidden = hidden[mask[0]]
    return (hidden @ kernel.T).float(), (hidden, kernel), request, tokens


def request_without_kernels(request):
    return WeakHeadRequest(**vars(request) | {"kernels": False})


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_head_gives_the_same(loss, dtype, softcap):
    _, inputs, request, tokens = head_problem(loss, dtype, kernels=True)
    bias = torch.linspace(-1, 1, len(inputs[1])).to(dtype)
    found = []
    for asked in (request, request_without_kernels(request)):
        leaves = [x.clone().requires_grad_() for x in (*inputs, bias)]
        value, statistics = ChunkedHeadLoss.apply(*leaves, tokens, asked, LogitTransform(softcap=softcap))
        found.append((value.detach(), statistics, *torch.autograd.grad(value, leaves)))
    assert_near(*found, 1e-5 if dtype == torch.float32 else 2e-2)
    assert not triton_passes._failures


@pytest.mark.parametrize("loss", [NaiveLoss(), EvidentialLoss(kl_coef=0.05)], ids=["naive", "evidential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_logits_give_the_same(loss, dtype):
    logits, _, request, tokens = head_problem(loss, kernels=True)
    logits[:, 20:30] = -torch.inf
    found = []
    for asked in (request, request_without_kernels(request)):
        leaf = logits.to(dtype).requires_grad_()
        value, statistics = ChunkedLogitsLoss.apply(leaf, tokens, asked)
        found.append((value.detach(), statistics, *torch.autograd.grad(value, leaf)))
    assert_near(*found, 1e-5 if dtype == torch.float32 else 4e-3)


def test_memory_of_the_chunk_is_reused_where_the_types_agree():
    for loss in (NaiveLoss(), EvidentialLoss()):
        logits, ids, labels = problem(3, 100, hard=True, dtype=torch.float32)
        rows = split_rows(logits, ids, loss.token_form_plan(True, logits.dtype), True)
        _, gradient = loss.token_form(rows, labels, 0.6, True)
        assert gradient.full().data_ptr() == logits.data_ptr()


def test_float64_and_columns_apart_are_left_to_pytorch():
    assert not triton_passes.can_run(torch.randn(3, 5, dtype=torch.float64))
    assert not triton_passes.can_run(torch.randn(5, 3).T)
    assert triton_passes.can_run(torch.randn(3, 8)[:, :5])


def test_rows_of_a_wider_matrix():
    logits, ids, labels = problem(3, 100, dtype=torch.float32)
    wide = torch.full((3, 130), 5.0)
    wide[:, :100] = logits
    for loss in LOSSES.values():
        rows = split_rows(wide.clone()[:, :100], ids, loss.token_form_plan(False, logits.dtype), True)
        value, gradient = loss.token_form(rows, labels, 0.6, True)
        assert_near((value, gradient.full()), closed(loss, logits, ids, labels, 0.6))


def test_no_rows_at_all():
    logits, ids = torch.zeros(0, 40), torch.zeros(0, dtype=torch.long)
    label = TokenLabel(torch.zeros(0, dtype=torch.float64))
    for loss in (NaiveLoss(), EvidentialLoss()):
        value, gradient = closed(loss, logits, ids, [label], 0.6, kernels=True)
        assert value.shape == (0,) and gradient.shape == (0, 40)


def test_without_triton_pytorch_does_it_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.delattr(vocabulary, "triton_kernels", raising=False)
    monkeypatch.setitem(sys.modules, f"{vocabulary.__name__}.triton_kernels", None)
    find_kernels.cache_clear()
    for dtype in (torch.float32, torch.bfloat16):
        logits, ids, labels = problem(3, 40, dtype=torch.float32)
        found = closed_anyhow(EvidentialLoss(), logits.to(dtype), ids, labels)
        assert_near(found, closed(EvidentialLoss(), logits.to(dtype).float(), ids, labels, 0.6), 0)
    assert caplog.text.count("since Triton's kernels do not run here (Triton cannot be imported") == 1
    with pytest.raises(
        RuntimeError, match=r"use_triton_kernels=True.*cannot be imported.*or leave use_triton_kernels"
    ):
        triton_passes.load_kernels(torch.device("cpu"))


NAMES = (
    *("reduce_rows", "scaled_exponentials", "evidential_rows"),
    *("token_statistics", "soft_label_tokens", "evidential_tokens"),
)


@pytest.mark.parametrize("broken", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kernel_that_does_not_compile_gives_way_to_pytorch(broken, dtype, monkeypatch, caplog):
    tries = []

    class Broken:
        def __getitem__(self, grid):
            return lambda *args, **options: tries.append(grid) or 1 / 0

    real = triton_passes.find_kernels()
    kernels = {name: Broken() if name == broken else real[name] for name in NAMES}
    monkeypatch.setattr(triton_passes, "find_kernels", lambda: kernels)
    for loss in (LOSSES["naive + aux"], LOSSES["evidential, clamped"], LOSSES["evidential, no divergence"]) * 2:
        logits, ids, labels = problem(3, 40, dtype=torch.float32)
        found = closed_anyhow(loss, logits.to(dtype), ids, labels)
        assert_near(found, closed(loss, logits.to(dtype).float(), ids, labels, 0.6), 2e-6)
    assert len(tries) == 1 and caplog.text.count(f"({broken}: ZeroDivisionError: division by zero)") == 1
    with pytest.raises(RuntimeError, match=f"do not run here .{broken}: ZeroDivisionError"):
        triton_passes.load_kernels(torch.device("cpu"))


def test_kernels_that_are_asked_for_are_tried():
    assert triton_passes.load_kernels(torch.device("cpu")) is triton_passes.find_kernels()


def closed_anyhow(loss, logits, ids, labels):
    rows = split_rows(logits.clone(), ids, loss.token_form_plan(False, logits.dtype), True)
    value, gradient = loss.token_form(rows, labels, 0.6, True)
    return value, gradient.full()


def test_what_a_plan_asks_for_is_what_the_closed_form_reads():
    """With a plan for logits, they stand there as they were, but for -1e30 at the emitted token and the rival."""
    logits, ids, _ = problem(3, 40, dtype=torch.float32)
    for plan in (TokenFormPlan(38.0, logits=True), TokenFormPlan(38.0, rival=True, squares=True, logits=True)):
        found, expected = (split_rows(logits.clone(), ids, plan, kernels) for kernels in (True, False))
        assert torch.equal(found.others, expected.others) and found.tops is None
        assert_near([found.rest_sum, found.rest_dot], [expected.rest_sum, expected.rest_dot], 1e-6)
        if plan.rival:
            assert torch.equal(found.rival_ids, expected.rival_ids)
            assert_near([found.squares_without_rival], [expected.squares_without_rival], 1e-6)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trl_weaks.losses.vocabulary import triton_kernels, triton_token_kernels

def types(names, kind):
    return dict.fromkeys(names.split(), kind)

BOTH = types("keeps columns shares values", "*fp32") | types("ids largest", "*i64") | {"near": "*i32", "sums": "*fp64"}
BOTH |= types("width groups write count labels own after", "i32") | types("stride out_stride", "i64")
PASSES = BOTH | types("tops scales", "*fp32") | {"offset": "fp32", "out": "*bf16"}
TOKENS = BOTH | types("table scales probs record loss", "*fp64") | types("tops factors", "*fp32")
TOKENS |= types("cut_totals weights divisors means", "*fp64") | types("starts stops segments", "*i64")
TOKENS |= {"logps": "*fp32", "supervisors": "i32", "skipped": "i32"}
TOKENS |= types("is_top1 first", "*i1") | types("offset remainder log_gamma coefficient clamp", "fp64")
HARD, SOFT = {"SOFT": False, "RIVAL": False}, {"SOFT": True, "RIVAL": True}
for module, name, known, fixed, warps, variants in (
    (triton_kernels, "reduce_rows", PASSES, {"BLOCK": 4096}, 8, ({"RIVAL": False}, {"RIVAL": True})),
    (triton_kernels, "scaled_exponentials", PASSES, {"BLOCK": 4096}, 8, ({"COLUMNS": 1}, {"COLUMNS": 2})),
    (triton_kernels, "evidential_rows", PASSES, {"BLOCK": 2048}, 8,
     ({"SOFT": False, "SLOTS": 1}, {"SOFT": True, "SLOTS": 4})),
    (triton_token_kernels, "token_statistics", TOKENS, {"BLOCK": 32}, 1, ({"RIVAL": False}, {"RIVAL": True})),
    (triton_token_kernels, "label_probs", TOKENS, {"BLOCK": 64}, 2,
     [{"SPLIT": "confidence", "CUT": False}, {"SPLIT": "eq8", "CUT": True}, {"SPLIT": "uniform", "CUT": True}]),
    (triton_token_kernels, "soft_label_tokens", TOKENS, {"BLOCK": 32}, 1, (HARD, SOFT)),
    (triton_token_kernels, "evidential_tokens", TOKENS, {"BLOCK": 32}, 1,
     (HARD | {"SMALL": False}, SOFT | {"SMALL": False}, SOFT | {"SMALL": True})),
):
    kernel = getattr(module, name)
    for dtype in ("fp32", "bf16", "fp16") if {"logits", "targets"} & set(kernel.arg_names) else ("fp32",):
        known = known | {"logits": "*" + dtype, "targets": "*" + dtype}
        for capability in (80, 90):
            for variant in variants if dtype == "fp32" else variants[:1]:
                constants = variant | fixed
                signature = {n: "constexpr" if n in constants else known[n] for n in kernel.arg_names}
                source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
                made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
                print(name, dtype, capability, variant, len(made.asm["cubin"]))
"""


def test_the_kernels_compile_for_gpus(tmp_path):
    """By Triton's own compiler and assembler, which need no GPU for it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = tmp_path / "compile_all.py"  # Triton reads the source of what it compiles
    script.write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, str(script)], env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 48 and all(int(line.split()[-1]) > 1_000 for line in lines)
