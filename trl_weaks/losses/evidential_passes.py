"""The passes of the evidential loss over a vocabulary; see `evidential_tokens` for the notation and the formulas.

On a CPU a call takes as long as a pass over thousands of classes: per block there are as few as can be, and what has
one number per token is done before and after for all blocks at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .class_terms import Sums, Workspace, collect
from .row_reductions import blocks, dot, scratch
from .token_rows import TokenLabel, TokenRows

Columns = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Penalty:
    """Weight of the divergence, and the bound of the weighted divergence in nats."""

    coefficient: float
    clamp: float


@dataclass(frozen=True)
class DenseLabel:
    """A label and the scalars of its divergence, `(n,)` float64; keep is 1 - y at the two tokens treated apart."""

    label: TokenLabel
    keep_target: Tensor
    keep_rival: Tensor | None
    log_total: Tensor  # ln E
    strength: Tensor  # F(E), and c(e~) of the emitted token and of the rival
    pull: Tensor  # F'(E) E
    slope: Tensor  # F'(E)
    target_slope: Tensor  # dc/dz of the emitted token, and of the rival
    rival_slope: Tensor | None
    weight: Tensor  # of the gradient: scale times coefficient; the dense passes put 0 where the clamp holds


class Divergences:
    """The divergences of labels that keep the same evidence but for columns, and their gradient."""

    def __init__(self, labels: list[DenseLabel], share: Tensor, penalty: Penalty, like: Tensor) -> None:
        self.labels, self.share, self.penalty, self.dtype = labels, share, penalty, like.dtype
        self.sums, self.loss = Sums(like), torch.zeros_like(share)

    def settle(self, b: slice) -> None:
        """Scale times the clamped divergence of the rows whose sums are there."""
        values = self.sums.values(b)
        for p in self.labels:
            nats = self.penalty.coefficient * (p.strength[b] + values)
            p.weight[b].masked_fill_(nats > self.penalty.clamp, 0)
            self.loss[b] += p.label.scales[b] * nats.clamp(max=self.penalty.clamp)

    def columns(self, b: slice) -> Columns:
        """
        The gradient `x (weight x n + lift + pull e)`, as `(block, 1)` each.

        As `e = x (1 + e)`, the likelihood's `share e` joins the divergence's `w x (x n - (1 - F') + e F')`:
        `x (w x n + share + w F' - w + (share + w F') e)`.
        """
        weight = sum(p.weight[b] for p in self.labels)
        pull = self.share[b] + sum(p.weight[b] * p.slope[b] for p in self.labels)
        return tuple(v.to(self.dtype)[:, None] for v in (weight, pull - weight, pull))


def dense_passes(
    rows: TokenRows, labels: list[DenseLabel], share: Tensor, penalty: Penalty, offset: float, needs_grad: bool
) -> Tensor:
    """
    What all tokens but the emitted one and the rival contribute to the loss, `(n,)` float64; to the likelihood of soft
    labels also the rival.

    Args:
        rows: Their logits, over which the gradient is written.
        labels: Labels; their weights are changed where the clamp holds.
        share: Sum of the scales divided by S, `(n,)`.
        penalty: The divergence's weight and bound.
        offset: Added to the logits.
        needs_grad: Without it, the rows are left in an undefined state.
    """
    logits, soft = rows.others, [p for p in labels if p.label.probs is not None]
    hard = [p for p in labels if p.label.probs is None]
    groups = []
    if penalty.coefficient:
        alone = torch.zeros_like(share) if soft else share
        groups = [Divergences(kept, alone, penalty, logits) for kept in [hard] * bool(hard) + [[p] for p in soft]]
    likelihood = _Likelihood(rows, soft, share) if soft else None
    # every c(e) is at most 0: most often no row can reach the clamp, and all are settled at once
    near = any(bool((penalty.coefficient * p.strength > penalty.clamp).any()) for g in groups for p in g.labels)
    everything = slice(0, len(share))
    columns = [None if near else g.columns(everything) for g in groups]
    planes, work = scratch(5 if soft else 3 if groups else 0, logits), None
    largest = float(rows.rest_max.clamp(min=0).max()) + 0.7  # of ln(1 + e)
    for b in blocks(*logits.shape, logits.device):
        block = logits[b]
        if offset:
            block += offset
        if len(planes) and (work is None or len(block) != len(work.x)):
            planes = planes[:, : len(block)]
            work = Workspace(planes[:3], largest)
        evidence = torch.exp(block, out=planes[3] if soft else block)
        if soft:
            likelihood.pass_over(evidence, work, planes[4], block, b, needs_grad)
        elif not groups:
            block.mul_(share[b, None].to(block.dtype))
        for g, whole in zip(groups, columns, strict=True):
            kept = evidence if g.labels is hard else likelihood.keep(g.labels[0], evidence, planes[4], b)
            _pass_over(g, kept, work, block, b, whole, bool(soft), needs_grad)
    for g in groups if not near else ():
        g.settle(everything)
    return sum((g.loss for g in groups), likelihood.loss if soft else torch.zeros_like(share))


def _pass_over(
    group: Divergences,
    evidence: Tensor,
    work: Workspace,
    gradient: Tensor,
    b: slice,
    columns: Columns | None,
    add: bool,
    needs_grad: bool,
) -> None:
    """One block: its sums, and its gradient, added or written."""
    torch.div(evidence, torch.add(evidence, 1, out=work.x), out=work.x)
    bend = collect(evidence, work, group.sums, b)
    if columns is None:
        group.settle(b)
    if not needs_grad:
        return
    weight, lift, pull = group.columns(b) if columns is None else (c[b] for c in columns)
    torch.addcmul(lift, bend.mul_(weight), work.x, out=bend).addcmul_(evidence, pull)
    if add:
        gradient.addcmul_(bend, work.x)
    else:
        torch.mul(bend, work.x, out=gradient)


class _Likelihood:
    """`-sum_(j != t) y_j ln(1 + e_j)` of soft labels, whose y_j / e_j is the same for all j."""

    def __init__(self, rows: TokenRows, labels: list[DenseLabel], share: Tensor) -> None:
        dtype = rows.others.dtype
        # evidence below exp(-80) counts for nothing, whatever its label
        per_evidence = (-rows.log_rest.clamp(min=-80)).exp()
        self.per_evidence = {id(p): ((p.label.probs - 1) * per_evidence).to(dtype)[:, None] for p in labels}
        self.total = sum(p.label.scales * (1 - p.label.probs) for p in labels) * per_evidence
        self.negative, self.share = (v.to(dtype)[:, None] for v in (-self.total, share))
        self.dots = rows.others.new_empty(len(share))
        self.rival = rows.rest_max.exp() * torch.logaddexp(rows.rest_max, torch.zeros_like(share))

    @property
    def loss(self) -> Tensor:
        return -self.total * (self.dots.double() + self.rival)

    def pass_over(
        self, e: Tensor, work: Workspace, plane: Tensor, gradient: Tensor, b: slice, needs_grad: bool
    ) -> None:
        """One block; the gradient is `e (share - sum of scale y_j / e_j x)`."""
        self.dots[b] = dot(e, torch.log1p(e, out=plane))
        if needs_grad:
            torch.div(e, torch.add(e, 1, out=work.x), out=work.x)
            torch.mul(work.x, self.negative[b], out=gradient).add_(self.share[b]).mul_(e)

    def keep(self, p: DenseLabel, evidence: Tensor, out: Tensor, b: slice) -> Tensor:
        """The evidence `(1 - y_j) e_j` that a label leaves to each token."""
        return torch.mul(evidence, self.per_evidence[id(p)][b], out=out).add_(1).mul_(evidence)
