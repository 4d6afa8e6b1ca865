"""bfloat16 and float16 heads: no bias in the scale of a gradient, none lost before a loss scaler can save it."""

import pytest
import torch

from trl_weaks.heads import WeakHeadRequest, chunked
from trl_weaks.heads.chunked import ChunkedHeadLoss, ChunkedLogitsLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.tokens import flatten_tokens
from trl_weaks.losses import EvidentialLoss, NaiveLoss

T, H, V = 64, 32, 500


NAIVE = NaiveLoss()


def gradients(dtype, factor, divisor=1.0, way="head", loss=NAIVE):
    """With respect to hidden states and weight, or to the logits; in float32, of the loss times `factor`."""
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(T, H, generator=g).to(dtype).requires_grad_()
    kernel = (torch.randn(V, H, generator=g) * 0.5).to(dtype).requires_grad_()
    request = WeakHeadRequest(
        loss,
        0.5,
        torch.ones(1, 1),
        torch.arange(-1, T)[None],
        -torch.rand(1, T + 1, 1, generator=g),
        chunk_size=24,
        divisor=divisor,
    )
    tokens, _ = flatten_tokens(request, torch.randint(V, (1, T + 1), generator=g))
    if way == "head":
        value, _ = ChunkedHeadLoss.apply(hidden, kernel, None, tokens, request, LogitTransform())
    else:
        value, _ = ChunkedLogitsLoss.apply(hidden @ kernel.T, tokens, request)
    return [x.float() for x in torch.autograd.grad(value * factor, (hidden, kernel))]


def slope(x, y):
    """The factor c that makes c y nearest to x."""
    return ((x * y).sum() / y.square().sum()).item()


@pytest.mark.parametrize("way", ["head", "logits"])
@pytest.mark.parametrize("loss", [NAIVE, EvidentialLoss(kl_coef=0.01)], ids=["naive", "evidential"])
@pytest.mark.parametrize("count", [257, 515])
def test_dividing_by_the_number_of_tokens_leaves_no_bias_in_bfloat16(count, loss, way):
    """Dividing rounded gradients by 257 and rounding again takes 0.2 % off, from the backbone's and not the head's."""
    whole = gradients(torch.bfloat16, 1.0, way=way, loss=loss)
    for x, y in zip(gradients(torch.bfloat16, 1.0, count, way, loss), whole, strict=True):
        assert slope(x, y) * count == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("way", ["head", "logits"])
@pytest.mark.parametrize(
    ("dtype", "factor", "divisor"),
    [(torch.bfloat16, 1.003, 1.0), (torch.float16, 65_536.0, 20_000.0), (torch.float32, -0.75, 1.0)],
)
def test_a_factor_after_the_forward_is_not_rounded(dtype, factor, divisor, way):
    """1.003 is 1 in bfloat16, and 65,536, where a loss scaler starts, infinite in float16."""
    whole = gradients(dtype, 1.0, way=way)
    for x, y in zip(gradients(dtype, factor, divisor, way), whole, strict=True):
        assert slope(x, y) == pytest.approx(factor / divisor, rel=1e-3)


@pytest.mark.parametrize("way", ["head", "logits"])
def test_gradients_too_small_for_float16_survive_until_they_are_scaled(way):
    """Below 6e-8 float16 is 0: the logits' gradients of a vocabulary, before they are scaled."""
    exact = gradients(torch.float32, 256.0, 1e6, way)
    for x, y in zip(gradients(torch.float16, 256.0, 1e6, way), exact, strict=True):
        assert (x - y).norm() < 2e-2 * y.norm()


def statistics(device):
    """Per token, of a bfloat16 head with logits up to 50, and of the same numbers in float32."""
    g = torch.Generator().manual_seed(3)
    hidden = (4 * torch.randn(T, H, generator=g)).bfloat16()
    kernel = (0.5 * torch.randn(V, H, generator=g)).bfloat16()
    request = WeakHeadRequest(NAIVE, 0.5, torch.ones(1, 1), chunk_size=24)
    tokens, _ = flatten_tokens(request, torch.randint(V, (1, T + 1), generator=g).to(device))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in (hidden, kernel)]
        value, table = ChunkedHeadLoss.apply(*inputs, None, tokens, request, LogitTransform())
        found.append([table, *(x.float() for x in torch.autograd.grad(value, inputs))])
    return found


def assert_logits_were_not_rounded(rounded, exact):
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-4, atol=1e-4)
    for x, y in zip(rounded[1:], exact[1:], strict=True):
        assert (x - y).norm() < 5e-3 * y.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.skipif(not hasattr(torch.ops.aten.mm, "dtype_out"), reason="needs torch 2.8")
def test_logits_are_not_rounded_to_bfloat16_on_cuda():
    assert_logits_were_not_rounded(*statistics("cuda"))


def test_logits_are_not_rounded_where_products_come_in_float32(monkeypatch):
    """The same branch on a CPU, whose products are made wide here."""
    mm, addmm = torch.mm, torch.addmm

    def wide_mm(a, b, out, out_dtype=None):
        return mm(a, b, out=out) if out_dtype is None else mm(a.to(out_dtype), b.to(out_dtype), out=out)

    def wide_addmm(c, a, b, beta, out_dtype, out):
        return addmm(c, a.to(out_dtype), b.to(out_dtype), beta=beta, out=out)

    monkeypatch.setattr(torch, "mm", wide_mm)
    monkeypatch.setattr(torch, "addmm", wide_addmm)
    monkeypatch.setattr(chunked, "_wide_products", lambda x, dtype: x.dtype == torch.bfloat16)
    assert_logits_were_not_rounded(*statistics("cpu"))


def test_the_divisor_divides():
    exact = gradients(torch.float64, 1.0)
    for x, y in zip(gradients(torch.float64, 1.0, torch.tensor(7)), exact, strict=True):
        torch.testing.assert_close(7 * x, y, rtol=1e-6, atol=1e-9)
