"""The passes of the evidential loss over a vocabulary; see `evidential_tokens` for the notation and the formulas.

On a CPU a call takes as long as a pass over thousands of classes: per block there are as few as can be, and what has
one number per token is done before and after for all blocks at once.
"""

import torch
from torch import Tensor

from .class_terms import Sums, Workspace, collect
from .evidential_parts import Columns, Likelihood, Parts
from .row_reductions import blocks, dot, scratch
from .token_rows import TokenRows


def dense_passes(rows: TokenRows, parts: Parts, share: Tensor, offset: float, needs_grad: bool) -> Tensor:
    """
    What all tokens but the emitted one and the rival contribute to the loss, `(n,)` float64; to the likelihood of soft
    labels also the rival.

    Args:
        rows: Their logits, over which the gradient is written.
        parts: What to do; the weights of labels are changed where the clamp holds.
        share: Sum of the scales divided by S, `(n,)`.
        offset: Added to the logits.
        needs_grad: Without it, the rows are left in an undefined state.
    """
    logits, groups, soft = rows.others, parts.groups, parts.likelihood
    everything, sums = slice(0, len(share)), [Sums(logits) for _ in groups]
    columns = [None if parts.near else g.columns(everything) for g in groups]
    planes, work = scratch(5 if soft else 3 if groups else 0, logits), None
    largest = float(rows.rest_max.clamp(min=0).max()) + 0.7  # of ln(1 + e)
    dots = logits.new_empty(len(share))
    for b in blocks(*logits.shape, logits.device):
        block = logits[b]
        if offset:
            block += offset
        if len(planes) and (work is None or len(block) != len(work.x)):
            planes = planes[:, : len(block)]
            work = Workspace(planes[:3], largest)
        evidence = torch.exp(block, out=planes[3] if soft else block)
        if soft:
            dots[b] = _likelihood_pass(soft, evidence, work, planes[4], block, b, needs_grad)
        elif not groups:
            block.mul_(share[b, None].to(block.dtype))
        for g, of_group, whole in zip(groups, sums, columns, strict=True):
            kept = evidence
            if g.soft:  # the evidence (1 - y_j) e_j that the label leaves to each token
                per_evidence = soft.per_evidence[id(g.labels[0])][b]
                kept = torch.mul(evidence, per_evidence, out=planes[4]).add_(1).mul_(evidence)
            bend = _bend(kept, work, of_group, b)
            if whole is None:
                g.settle(b, of_group.values(b))
            if needs_grad:
                asked = g.columns(b) if whole is None else tuple(c[b] for c in whole)
                _gradient(bend, kept, work.x, asked, block, bool(soft))
    for g, of_group in zip(groups, sums, strict=True) if not parts.near else ():
        g.settle(everything, of_group.values(everything))
    return sum((g.loss for g in groups), soft.loss(dots) if soft else torch.zeros_like(share))


def _bend(evidence: Tensor, work: Workspace, sums: Sums, b: slice) -> Tensor:
    """The sums of one block, and its n(x)."""
    torch.div(evidence, torch.add(evidence, 1, out=work.x), out=work.x)
    return collect(evidence, work, sums, b)


def _gradient(bend: Tensor, evidence: Tensor, x: Tensor, columns: Columns, out: Tensor, add: bool) -> None:
    """`x (weight x n + lift + pull e)` of one block, added or written."""
    weight, lift, pull = columns
    torch.addcmul(lift, bend.mul_(weight), x, out=bend).addcmul_(evidence, pull)
    if add:
        out.addcmul_(bend, x)
    else:
        torch.mul(bend, x, out=out)


def _likelihood_pass(
    soft: Likelihood, e: Tensor, work: Workspace, plane: Tensor, gradient: Tensor, b: slice, needs_grad: bool
) -> Tensor:
    """One block: its sums of `e ln(1 + e)`, and its gradient, written."""
    dots = dot(e, torch.log1p(e, out=plane))
    if needs_grad:
        torch.div(e, torch.add(e, 1, out=work.x), out=work.x)
        torch.mul(work.x, soft.negative[b], out=gradient).add_(soft.share[b]).mul_(e)
    return dots
