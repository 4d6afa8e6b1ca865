"""The loss of a language-model head in chunks of tokens, gradients made in the forward pass."""

import torch
from torch import Tensor

from ..losses.vocabulary.token_rows import LogitGradient
from .projection import LogitTransform
from .request import WeakHeadRequest
from .rows import RowResult, chunk_rows, top_probs
from .tokens import Tokens

_ROWS_AT_ONCE = 1_024  # whose gradient is raised to float32 for a moment
STATISTICS = ("loss", "log_probs", "entropy", "is_top1", "target_probs", "top_probs")


class ChunkedHeadLoss(torch.autograd.Function):
    """
    `(T, H)` hidden states, `(V, H)` weight, bias -> the summed loss and `(T, 6)` statistics.

    Per chunk of n tokens: `z = h W'`, the gradient `g = dloss/dz` over it, then `dh = g W` and `dW += g' h`: three
    matrix products, one buffer of `(n, V)` logits. The weight's gradient is accumulated in float32 (float64 for
    float64 models) and handed over in `backward`, which can therefore run once only.

    On CUDA (torch 2.8 or newer) the logits of a bfloat16 model are products in float32. Elsewhere they are rounded to
    bfloat16 first, as in TRL and transformers: they are up to 0.03 off from 8 on, and 0.125 from 32 on.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tokens,
        request: WeakHeadRequest,
        transform: LogitTransform,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        device = hidden.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        # a loss scaler comes after these gradients are made, which float16 would round to 0
        compute = torch.float32 if compute == torch.float16 else compute
        grads = _empty_gradients((hidden, weight, bias), ctx.needs_input_grad, compute, exact)
        statistics = torch.zeros(len(hidden), len(STATISTICS), dtype=exact, device=hidden.device)
        with torch.autocast(device, enabled=False):
            kernel, offset = weight.detach().to(compute), None if bias is None else _finite(bias.detach().to(exact))
            spans = tokens.chunks(request.chunk_size)
            longest = max((span.stop - span.start for span in spans), default=0)
            wide = _wide_products(kernel, exact)
            buffer = torch.empty(longest, len(weight), dtype=exact if wide else compute, device=hidden.device)
            asked = {"out_dtype": exact} if wide else {}

            def logits_of(h: Tensor) -> Tensor:
                logits = torch.mm(h, kernel.t(), out=buffer[: len(h)], **asked).to(exact)
                return transform.forward(logits if offset is None else logits.add_(offset))

            tokens = tokens.with_totals(
                spans, lambda span: top_probs(logits_of(hidden[span].detach().to(compute)), tokens, span, request)
            )
            for span in spans:
                h = hidden[span].detach().to(compute)
                logits = logits_of(h)
                slope = transform.slope(logits) if any(ctx.needs_input_grad) else None
                held = compute if wide and slope is None else exact  # what the products below take
                rows = chunk_rows(logits, tokens, span, request, any(ctx.needs_input_grad), held)
                statistics[span] = statistic_columns(rows)
                if rows.gradient is not None:
                    _accumulate(grads, span, _raw(rows.gradient, slope, held, compute), h, kernel)
        ctx.grads, ctx.dtypes = grads, [None if x is None else x.dtype for x in (hidden, weight, bias)]
        ctx.mark_non_differentiable(statistics)
        return statistics[:, 0].sum(), statistics

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _):
        return *hand_over(ctx, grad_loss), None, None, None


class ChunkedLogitsLoss(torch.autograd.Function):
    """The same from `(T, V)` logits, for models whose head cannot be separated from their forward."""

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: Tokens, request: WeakHeadRequest) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
        needs_grad = ctx.needs_input_grad[0]
        held = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient = torch.zeros_like(logits, dtype=held) if needs_grad else None
        statistics = torch.zeros(len(logits), len(STATISTICS), dtype=exact, device=logits.device)
        spans = tokens.chunks(request.chunk_size)

        def logits_of(span: slice) -> Tensor:
            return _finite(logits[span].detach().to(exact))

        tokens = tokens.with_totals(spans, lambda span: top_probs(logits_of(span), tokens, span, request))
        for span in spans:
            rows = chunk_rows(logits_of(span), tokens, span, request, needs_grad, held)
            statistics[span] = statistic_columns(rows)
            if needs_grad:
                gradient[span] = rows.gradient.full(held)
        ctx.grads, ctx.dtypes = [gradient], [logits.dtype]
        ctx.mark_non_differentiable(statistics)
        return statistics[:, 0].sum(), statistics

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _):
        return *hand_over(ctx, grad_loss), None, None


def hand_over(ctx, grad_loss: Tensor) -> list[Tensor | None]:
    """Scale the stored gradients in place and let go of them: a second copy of a `(V, H)` tensor is what costs."""
    if ctx.grads is None:
        raise RuntimeError("the weak head's gradients were handed over by an earlier backward; run forward again")
    grads, ctx.grads = ctx.grads, None
    return [None if g is None else _times(g, grad_loss).to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)]


def _times(gradient: Tensor, factor: Tensor) -> Tensor:
    # Most often it is 1, and a pass over the weight's gradient is 1 % of the work. A GPU would have to be asked.
    if factor.device.type == "cpu" and float(factor) == 1.0:
        return gradient
    # the factor, at least, is not rounded: a loss scaler's 65536 is infinite in float16, and 1/257 in bfloat16 1/256
    if gradient.dtype in (torch.float32, torch.float64):
        return gradient.mul_(factor.to(gradient.dtype))
    for block in gradient.split(_ROWS_AT_ONCE):
        block.copy_(block.float().mul_(factor.float()))
    return gradient


def _finite(logits: Tensor) -> Tensor:
    """A copy in which tokens that are ruled out by minus infinity have a number that is as good: it times 0 is 0."""
    return logits.clamp(min=-1e30)


def statistic_columns(rows: RowResult) -> Tensor:
    """`(n, 6)` float64, in the order of `STATISTICS`."""
    return torch.stack([getattr(rows, name).double() for name in STATISTICS], -1)


def _empty_gradients(
    inputs: tuple[Tensor | None, ...], needs: tuple[bool, ...], compute: torch.dtype, exact: torch.dtype
) -> list[Tensor | None]:
    # each row of the hidden states' gradient is written once, the weight's gradient by the first chunk
    make = (torch.empty, torch.empty if len(inputs[0]) else torch.zeros, torch.zeros)
    return [
        new(x.shape, dtype=dtype, device=x.device) if need else None
        for new, x, dtype, need in zip(make, inputs, (compute, exact, exact), needs[:3], strict=True)
    ]


def _raw(gradient: LogitGradient, slope: Tensor | None, held: torch.dtype, compute: torch.dtype) -> LogitGradient:
    """With respect to the raw logits; in one piece where it has to be rounded, which is once then."""
    if slope is not None:
        return LogitGradient(gradient.full().mul_(slope))
    whole = gradient.tops is not None or gradient.dense.dtype != compute
    return LogitGradient(gradient.full(held)) if whole else gradient


def _wide_products(factor: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of such bfloat16 matrices can be had in float32, unrounded."""
    known = hasattr(torch.ops.aten.mm, "dtype_out")
    return known and factor.device.type == "cuda" and factor.dtype == torch.bfloat16 and dtype == torch.float32


def _accumulate(grads: list[Tensor | None], span: slice, gradient: LogitGradient, h: Tensor, kernel: Tensor) -> None:
    hidden_grad, weight_grad, bias_grad = grads
    dense, scales = gradient.dense, gradient.scales
    scaled = h if scales is None else h * scales[:, None].to(h.dtype)
    if bias_grad is not None:
        bias_grad += dense.sum(0) if scales is None else torch.mv(dense.t(), scales.to(dense.dtype))
    if hidden_grad is not None:
        torch.mm(dense.to(h.dtype), kernel, out=hidden_grad[span])
        if scales is not None:
            hidden_grad[span] *= scales[:, None].to(h.dtype)
    if weight_grad is not None:
        first = 0.0 if span.start == 0 else 1.0
        if _wide_products(h, weight_grad.dtype):
            dense = dense.to(h.dtype).t()
            torch.addmm(weight_grad, dense, scaled, beta=first, out_dtype=weight_grad.dtype, out=weight_grad)
        else:
            weight_grad.addmm_(dense.t(), scaled.to(weight_grad.dtype), beta=first)
    for ids, values in gradient.columns:
        values = values.to(h.dtype)
        if bias_grad is not None:
            bias_grad.index_add_(0, ids, values)
        if hidden_grad is not None:
            hidden_grad[span].addcmul_(kernel[ids], values[:, None])
        if weight_grad is not None:
            weight_grad.index_add_(0, ids, h * values[:, None])
