"""One chunk of logits: the student's statistics, the loss, and its gradient with respect to the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.token_rows import LogitGradient, TokenLabel, split_rows
from .request import WeakHeadRequest
from .tokens import Tokens


@dataclass(frozen=True)
class RowResult:
    """Per token of the chunk, `(n,)` each; `gradient` that of the weighted loss, `(n, V)` in factors, or `None`."""

    loss: Tensor
    log_probs: Tensor
    entropy: Tensor
    is_top1: Tensor
    target_probs: Tensor
    top_probs: Tensor
    gradient: LogitGradient | None


def soft_labels(logits: Tensor, ids: Tensor, target_probs: Tensor) -> Tensor:
    """
    The paper's token soft label (Sec. 4.2, stage 3): P on the emitted token, the rest in proportion to the student's
    own distribution, detached: `(n, V)`, `(n,)`, `(n,)` -> `(n, V)`.

    The others are renormalised among themselves rather than divided by 1 - p_t, which may round to 0.
    """
    others = logits.detach().scatter(-1, ids[:, None], -torch.inf)
    labels = torch.softmax(others, -1).mul_((1 - target_probs)[:, None].to(logits.dtype))
    return labels.scatter_(-1, ids[:, None], target_probs[:, None].to(labels.dtype))


def chunk_rows(logits: Tensor, tokens: Tokens, span: slice, request: WeakHeadRequest, needs_grad: bool) -> RowResult:
    """
    Everything about the tokens of `span`, from their logits `(n, V)`, float32 or float64, which are overwritten.

    A loss with a closed form (`token_form`) is evaluated through it; any other callable by autograd on this chunk.
    """
    loss, ids, weights = request.loss, tokens.ids[span], tokens.weights[span].double()
    hard = tokens.unit_logps is None
    plan = getattr(loss, "token_form_plan", None)
    rows = split_rows(logits, ids, None if plan is None else plan(hard, logits.dtype))
    top_probs = rows.top_probs
    probs = tokens.target_logps(span, top_probs).exp()
    total = weights.sum(-1)
    mean = (weights * probs).sum(-1) / torch.where(total == 0, 1, total)
    if rows.rest is None:
        merged = hard or loss.linear_in_targets
        values, gradient = _by_autograd(
            logits, ids, (mean, total) if merged else (probs, weights), request, needs_grad
        )
    else:
        if hard:
            labels = [TokenLabel(total)]
        elif loss.linear_in_targets:
            labels = [TokenLabel(total, mean)]
        else:
            labels = [TokenLabel(w, p) for w, p in zip(weights.T, probs.T, strict=True) if bool(w.any())]
            labels = labels or [TokenLabel(total, mean)]
        values, gradient = loss.token_form(rows, labels, request.progress, needs_grad)
    return RowResult(
        loss=values,
        log_probs=rows.log_prob,
        entropy=rows.entropy,
        is_top1=rows.is_top1,
        target_probs=mean,
        top_probs=top_probs,
        gradient=gradient,
    )


def _by_autograd(
    logits: Tensor, ids: Tensor, label: tuple[Tensor, Tensor], request: WeakHeadRequest, needs_grad: bool
) -> tuple[Tensor, LogitGradient | None]:
    """Labels are probabilities and weights, `(n,)`, or `(n, S)`: then one evaluation per supervisor with a weight."""
    probs, weights = label
    owners = torch.arange(len(ids), device=ids.device)
    if weights.dim() == 2:
        owners, supervisors = weights.nonzero(as_tuple=True)
        probs, weights = probs[owners, supervisors], weights[owners, supervisors]
    with torch.set_grad_enabled(needs_grad):
        leaf = logits.detach().requires_grad_(needs_grad)
        rows = leaf if label[1].dim() == 1 else leaf[owners]
        losses = weights * request.loss(rows, soft_labels(rows, ids[owners], probs), request.progress).double()
        gradient = LogitGradient(torch.autograd.grad(losses.sum(), leaf)[0]) if needs_grad else None
    return torch.zeros_like(losses[:1].detach()).expand(len(ids)).clone().index_add_(
        0, owners, losses.detach()
    ), gradient
