"""One chunk of logits: the student's statistics, the loss, and its gradient with respect to the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.base import closed_form_plan
from ..losses.vocabulary.token_rows import LogitGradient, TokenFormPlan, TokenLabel, TokenRows, split_rows
from .by_autograd import loss_by_autograd
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


def chunk_rows(
    logits: Tensor,
    tokens: Tokens,
    span: slice,
    request: WeakHeadRequest,
    needs_grad: bool,
    gradient_dtype: torch.dtype | None = None,
) -> RowResult:
    """
    Everything about the tokens of `span`, from their logits `(n, V)`, float32 or float64, which are overwritten.

    A loss with a closed form (`token_form`) is evaluated through it. Rows with a logit beyond its limit, and any other
    callable, take autograd, a few rows at a time. Passes that write the gradient to other memory do so in
    `gradient_dtype`, all others in the dtype of the logits.
    """
    loss, ids, weights, total = request.loss, tokens.ids[span], tokens.weights[span].double(), tokens.totals[span]
    hard = tokens.unit_logps is None
    plan = closed_form_plan(loss, hard, logits.dtype)
    rows = split_rows(logits, ids, plan, request.kernels, gradient_dtype)
    probs, mean = tokens.label_probs(span, rows.top_probs, rows.table)
    label = (mean, total) if probs is None or loss.linear_in_targets else (probs, weights)
    apart, inside = None, rows
    if rows.others is None:
        apart, kept, inside = _set_apart(logits, rows, plan, request.kernels)
    if inside is None:
        values, gradient = torch.zeros_like(total), LogitGradient(logits) if needs_grad else None
    else:
        values, gradient = loss.token_form(inside, _token_labels(hard, *label), request.progress, needs_grad)
    if apart is not None:
        label = [x[apart] for x in label]
        # labels in float32 would lose 1 - y, which the evidence beyond a limit multiplies
        dtype = logits.dtype if plan is None else torch.float64
        values[apart] = loss_by_autograd(request, kept, ids[apart], *label, needs_grad, dtype)
        if needs_grad and inside is not None:
            gradient = LogitGradient(gradient.full())
            gradient.dense[apart] = kept.to(gradient.dense.dtype)
    return RowResult(
        loss=values,
        log_probs=rows.log_prob,
        entropy=rows.entropy,
        is_top1=rows.is_top1,
        target_probs=mean,
        top_probs=rows.top_probs,
        gradient=gradient,
    )


def top_probs(logits: Tensor, tokens: Tokens, span: slice, request: WeakHeadRequest) -> Tensor:
    """The largest probability after each token of `span`, `(n,)`, from their logits, which `chunk_rows` sees again."""
    return split_rows(logits, tokens.ids[span], None, request.kernels).top_probs


def _set_apart(
    logits: Tensor, rows: TokenRows, plan: TokenFormPlan | None, kernels: bool
) -> tuple[Tensor, Tensor, TokenRows | None]:
    """Rows that the closed form cannot do, their logits, and the split of the logits with zeros in their place."""
    everything = torch.arange(len(logits), device=logits.device)
    if plan is None:
        return everything, logits, None
    apart = everything[~(rows.rest_max <= plan.limit)]
    if len(apart) == len(logits):
        return everything, logits, None
    kept = logits[apart]
    logits[apart] = -plan.offset  # evidence of 1: within any limit
    return apart, kept, split_rows(logits, rows.ids, plan, kernels, rows.gradient_dtype)


def _token_labels(hard: bool, probs: Tensor, weights: Tensor) -> list[TokenLabel]:
    """Labels for a closed form, from `(n,)` or, one label per supervisor, `(n, S)`."""
    if hard:
        return [TokenLabel(weights)]
    if weights.dim() == 1:
        return [TokenLabel(weights, probs)]
    # a GPU is waited for, so it is asked once
    used = weights.any(0).tolist() if weights.shape[1] > 1 else [True]
    labels = [TokenLabel(w, p) for w, p, one in zip(weights.T, probs.T, used, strict=True) if one]
    return labels or [TokenLabel(weights[:, 0], probs[:, 0])]
