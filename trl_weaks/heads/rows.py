"""One chunk of logits: the student's statistics, the loss, and its gradient with respect to the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .request import WeakHeadRequest
from .tokens import Tokens


@dataclass(frozen=True)
class RowResult:
    """Per token of the chunk, `(n,)` each; `gradient` is `(n, V)`, of the weighted loss, or `None` without grad."""

    loss: Tensor
    log_probs: Tensor
    entropy: Tensor
    is_top1: Tensor
    target_probs: Tensor
    top_probs: Tensor
    gradient: Tensor | None


def soft_labels(logits: Tensor, ids: Tensor, target_probs: Tensor) -> Tensor:
    """
    The paper's token soft label (Sec. 4.2, stage 3): P on the emitted token, the rest in proportion to the student's
    own distribution, detached: `(n, V)`, `(n,)`, `(n,)` -> `(n, V)`.

    The others are renormalised among themselves rather than divided by 1 - p_t, which may round to 0.
    """
    others = logits.detach().scatter(-1, ids[:, None], -torch.inf)
    labels = torch.softmax(others, -1).mul_((1 - target_probs)[:, None])
    return labels.scatter_(-1, ids[:, None], target_probs[:, None].to(labels.dtype))


def chunk_rows(logits: Tensor, tokens: Tokens, span: slice, request: WeakHeadRequest, needs_grad: bool) -> RowResult:
    """Everything about the tokens of `span`, from their logits `(n, V)`; any loss, by autograd on this chunk alone."""
    ids, weights = tokens.ids[span], tokens.weights[span].to(logits.dtype)
    log_probs = torch.log_softmax(logits, -1)
    probs = log_probs.exp()
    top_probs, top_ids = probs.max(-1)
    target_logps = tokens.target_logps(span, top_probs)
    targets, owners, scales = _targets(target_logps.exp(), weights, request.loss.linear_in_targets)
    total = weights.sum(-1)
    mean = (weights * target_logps.exp()).sum(-1) / torch.where(total == 0, 1, total)
    loss, gradient = _weighted_loss(logits, ids, targets, owners, scales, request, needs_grad)
    return RowResult(
        loss=loss,
        log_probs=log_probs.gather(-1, ids[:, None])[:, 0],
        entropy=-(probs * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1),
        is_top1=top_ids == ids,
        target_probs=mean,
        top_probs=top_probs,
        gradient=gradient,
    )


def _targets(probs: Tensor, weights: Tensor, linear: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Target probability, token and weight of each evaluation of the loss: one per token, or one per supervisor."""
    if linear:
        total = weights.sum(-1)
        merged = (weights * probs).sum(-1) / torch.where(total == 0, 1, total)
        return merged, torch.arange(len(probs), device=probs.device), total
    owners, supervisors = weights.nonzero(as_tuple=True)
    return probs[owners, supervisors], owners, weights[owners, supervisors]


def _weighted_loss(
    logits: Tensor,
    ids: Tensor,
    targets: Tensor,
    owners: Tensor,
    scales: Tensor,
    request: WeakHeadRequest,
    needs_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    with torch.set_grad_enabled(needs_grad):
        leaf = logits.detach().requires_grad_(needs_grad)
        rows = leaf[owners]
        losses = scales * request.loss(rows, soft_labels(rows, ids[owners], targets), request.progress)
        gradient = torch.autograd.grad(losses.sum(), leaf)[0] if needs_grad else None
    return logits.new_zeros(len(ids)).index_add_(0, owners, losses.detach().to(logits.dtype)), gradient
