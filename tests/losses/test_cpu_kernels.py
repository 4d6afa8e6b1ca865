"""Passes compiled for the CPU: when they run, and that they are those of PyTorch in every other respect."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln, polygamma
from token_forms import LOSSES, closed, needs_compiler, plain, problem

from trl_weaks.heads.chunked import ChunkedLogitsLoss
from trl_weaks.heads.request import WeakHeadRequest
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary import cpu_kernels
from trl_weaks.losses.vocabulary.token_rows import split_rows

pytestmark = needs_compiler


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("width", [2, 17, 1_023, 1_024, 1_025, 2_500])
def test_any_number_of_classes(loss, hard, width):
    logits, ids, labels = problem(5, width, hard=hard, dtype=torch.float32)
    value, gradient = closed(loss, logits, ids, labels, 0.6, kernels=True)
    expected, slope = plain(loss, logits, ids, labels, 0.6)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))


def test_the_sums_and_the_gradient_over_the_whole_range_of_evidence():
    """One class per row, against special functions: c(e), n(x) by way of the gradient, and e ln(1 + e)."""
    log_e = np.linspace(-60, 40, 20_001)
    z = torch.from_numpy(log_e).float()[:, None]
    log_e = z[:, 0].double().numpy()  # what float32 has left of it
    e = np.exp(log_e)
    exact = np.where(e < 1e6, e * digamma(1 + e) - gammaln(1 + e) - e, 0.5 - 0.5 * np.log(2 * np.pi * e))
    small = e < 1e-6
    exact[small] = (-e + np.pi**2 / 12 * e**2)[small]
    columns = torch.tensor([1.0, 0.0, 0.0]).expand(len(z), 1, 3)
    bent, one = z.clone(), torch.zeros(len(z), 1)
    values, dots = cpu_kernels.compiled_evidential_rows(bent, 0.0, one, columns, torch.zeros(len(z), 2), True)
    assert np.abs(values[:, 0].numpy() / exact - 1).max() < 1e-6
    assert np.abs(dots.numpy() / (e * np.log1p(e)) - 1)[log_e > -40].max() < 1e-6  # below, a square is 0
    h = np.where(e < 1e4, e * polygamma(1, 1 + e), 1 - 0.5 / e + 1 / (6 * e**2))
    x_n = np.where(e < 1e4, 1 - (1 - h) * (1 + e), 0.5 - 1 / (3 * e))
    x_n[e < 1e-5] = (np.pi**2 / 6 - 1) * e[e < 1e-5] * (1 - 2 * e[e < 1e-5])
    middle = np.abs(log_e) < 9  # beyond, the references above lose digits themselves
    assert np.abs(bent[:, 0].numpy() / (e / (1 + e) * x_n) - 1)[middle].max() < 3e-6


@pytest.mark.parametrize("loss", [NaiveLoss(), EvidentialLoss(), AuxiliaryConfidence(EvidentialLoss(), 0.3)])
def test_a_logit_that_is_not_a_number_is_not_hidden(loss):
    logits, ids, labels = problem(4, 2_000, hard=True, dtype=torch.float32)
    logits[2, 1_500], ids[2] = torch.nan, 7
    value, _ = closed(loss, logits, ids, labels, 0.6, kernels=True)
    assert torch.isnan(value).tolist() == [False, False, True, False]


def test_the_same_bits_from_any_number_of_threads():
    logits, ids, labels = problem(9, 3_000, dtype=torch.float32)
    loss, threads = LOSSES["evidential + aux"], torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = closed(loss, logits, ids, labels, 0.6, kernels=True)
        torch.set_num_threads(2)
        two = closed(loss, logits, ids, labels, 0.6, kernels=True)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_other_rows_keep_the_passes_of_pytorch():
    plan = NaiveLoss().token_form_plan(True, torch.float32)
    ids = torch.zeros(3, dtype=torch.long)
    for logits in (torch.randn(3, 5, dtype=torch.float64), torch.randn(5, 3).T):
        assert not split_rows(logits, ids, plan, kernels=True).kernels


def test_of_the_libraries_the_one_for_these_instructions_is_loaded(monkeypatch):
    def named(capability):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return Path(cpu_kernels.find_kernels.__wrapped__()._name).name.split(".")[0]

    here = torch.backends.cpu.get_cpu_capability()
    order = ["plain", "avx2", "avx512"][: {"AVX512": 3, "AVX2": 2}.get(here, 1)]
    for capability, name in zip(["DEFAULT", "AVX2", "AVX512"], order, strict=False):
        assert named(capability) == f"_row_kernels_{name}"
    assert named("SVE256") == "_row_kernels_plain"


def test_a_library_that_does_not_load_gives_way_to_a_simpler_one_or_to_pytorch(monkeypatch, tmp_path, caplog):
    """Another edition's library, a file that is none, and none at all; the log says so, and no one else."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    caplog.set_level("INFO", logger=cpu_kernels.__name__)
    find = cpu_kernels.find_kernels.__wrapped__
    assert find(tmp_path) is None and "none was built, for want of a C++ compiler" in caplog.text
    (tmp_path / "_row_kernels_avx2.abi3.so").write_text("no library")
    assert find(tmp_path) is None and "_row_kernels_avx2.abi3.so" in caplog.messages[-1]
    plain = next(Path(cpu_kernels.__file__).parent.glob("_row_kernels_plain.*"))
    shutil.copy(plain, tmp_path)
    assert Path(find(tmp_path)._name).parent == tmp_path
    monkeypatch.setattr(cpu_kernels, "_VERSION", 0)
    assert find(tmp_path) is None and "version 1 of row_kernels.cpp, not 0" in caplog.messages[-1]
    monkeypatch.setattr(cpu_kernels, "find_kernels", lambda: find(tmp_path))
    with pytest.raises(RuntimeError, match=r"Install a C\+\+ compiler.*or leave use_cpu_kernels unset"):
        cpu_kernels.load_kernels()


def test_code_that_has_changed_is_another_version():
    """Else a clone that is updated, and not installed again, computes what its older library does, in silence."""
    source = Path(cpu_kernels.__file__).with_name("row_kernels.cpp").read_text()
    code = "".join(re.sub("//.*", "", source).split())
    found = cpu_kernels._VERSION, hashlib.blake2b(code.encode(), digest_size=8).hexdigest()
    assert found == (1, "b08d6591374b0414"), "raise both versions, and write here what this finds"
    assert f"row_kernels_version() {{ return {cpu_kernels._VERSION}; }}" in source


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_older_machines_get_the_same(capability, monkeypatch):
    if capability == "AVX2" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine does not know the instructions")
    logits, ids, labels = problem(9, 3_000, dtype=torch.float32)
    expected = [closed(loss, logits, ids, labels, 0.6, kernels=True) for loss in LOSSES.values()]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    older = cpu_kernels.find_kernels.__wrapped__()
    monkeypatch.setattr(cpu_kernels, "load_kernels", lambda: older)
    for loss, (value, gradient) in zip(LOSSES.values(), expected, strict=True):
        other, slope = closed(loss, logits, ids, labels, 0.6, kernels=True)
        torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slope, gradient, rtol=2e-6, atol=2e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_the_gradient_of_rounded_logits_is_that_of_pytorch(loss):
    """Passes over float32 whose gradient is wanted in bfloat16, of a model whose head stays in its forward."""
    logits, ids, labels = problem(6, 40, dtype=torch.float32)
    weights = torch.stack([label.scales for label in labels], -1)
    logps = torch.stack([label.probs for label in labels], -1).log()
    tokens, found = Tokens(ids, weights, torch.arange(len(ids)), logps, "uniform"), []
    for kernels in (True, False):
        leaf = logits.bfloat16().requires_grad_()
        request = WeakHeadRequest(loss, 0.6, weights, chunk_size=4, kernels=kernels)
        value, _ = ChunkedLogitsLoss.apply(leaf, tokens, request)
        found.append((value.detach(), *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-2 * float(found[1][1].abs().max()))
