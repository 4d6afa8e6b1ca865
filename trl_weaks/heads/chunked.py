"""The loss of a language-model head in chunks of tokens, gradients made in the forward pass."""

import torch
from torch import Tensor

from .projection import LogitTransform
from .request import WeakHeadRequest
from .rows import RowResult, chunk_rows
from .tokens import Tokens

STATISTICS = ("loss", "log_probs", "entropy", "is_top1", "target_probs", "top_probs")


class ChunkedHeadLoss(torch.autograd.Function):
    """
    `(T, H)` hidden states, `(V, H)` weight, bias -> the summed loss and `(T, 6)` statistics.

    Per chunk of n tokens: `z = h W'`, the gradient `g = dloss/dz` on the spot, then `dh = g W` and `dW += g' h`. Only
    `(n, V)` logits exist at a time; the weight's gradient is accumulated in float32 (float64 for float64 models).
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
        needs = ctx.needs_input_grad[:3]
        grads = [
            torch.zeros(x.shape, dtype=exact, device=x.device) if need else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        statistics = torch.zeros(len(hidden), len(STATISTICS), dtype=exact, device=hidden.device)
        with torch.autocast(device, enabled=False):
            kernel = weight.detach().to(compute)
            for span in tokens.chunks(request.chunk_size):
                h = hidden[span].detach().to(compute)
                logits = transform.forward(_project(h, kernel, bias, exact))
                rows = chunk_rows(logits, tokens, span, request, any(needs))
                statistics[span] = _columns(rows, exact)
                if rows.gradient is not None:
                    slope = transform.slope(logits)
                    gradient = rows.gradient if slope is None else rows.gradient * slope
                    _accumulate(grads, span, gradient, h, kernel)
        ctx.save_for_backward(*grads)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        ctx.mark_non_differentiable(statistics)
        return statistics[:, 0].sum(), statistics

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _):
        grads = [
            None if g is None else (g * grad_loss.to(g.dtype)).to(dtype)
            for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None


def _project(h: Tensor, weight: Tensor, bias: Tensor | None, exact: torch.dtype) -> Tensor:
    raw = (h @ weight.t()).to(exact)
    return raw if bias is None else raw.add_(bias.detach().to(exact))


def _accumulate(grads: list[Tensor | None], span: slice, gradient: Tensor, h: Tensor, weight: Tensor) -> None:
    hidden_grad, weight_grad, bias_grad = grads
    narrow = gradient.to(h.dtype)
    if hidden_grad is not None:
        hidden_grad[span] = narrow @ weight
    if weight_grad is not None:
        weight_grad += narrow.t() @ h
    if bias_grad is not None:
        bias_grad += gradient.sum(0)


def _columns(rows: RowResult, dtype: torch.dtype) -> Tensor:
    return torch.stack([getattr(rows, name).to(dtype) for name in STATISTICS], -1)
