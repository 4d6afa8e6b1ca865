"""What the evidential loss adds up over a vocabulary, and its gradient there, in numbers per token; see
`evidential_tokens` for the notation and the formulas. The passes themselves are in `evidential_passes` (PyTorch) and
`evidential_kernels` (compiled).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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

    def __init__(self, labels: list[DenseLabel], share: Tensor, penalty: Penalty, dtype: torch.dtype) -> None:
        self.labels, self.share, self.penalty, self.dtype = labels, share, penalty, dtype
        self.soft = labels[0].label.probs is not None
        self.loss = torch.zeros_like(share)

    def settle(self, b: slice, values: Tensor) -> None:
        """Scale times the clamped divergence of the rows `b`, given their sums of c(e~), `(block,)`."""
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


class Likelihood:
    """
    `-sum_(j != t) y_j ln(1 + e_j)` of soft labels, whose y_j / e_j is the same for all j.

    Attributes:
        per_evidence: y_j / e_j of each label, negative, `(n, 1)`: it keeps the evidence `e (1 + per_evidence e)`.
        negative: Their sum with the scales, `(n, 1)`.
        share: Sum of the scales over S, `(n, 1)`. The gradient is `e (share + negative x)`.
    """

    def __init__(self, rows: TokenRows, labels: list[DenseLabel], share: Tensor) -> None:
        dtype = rows.dtype
        # evidence below exp(-80) counts for nothing, whatever its label
        per_evidence = (-rows.log_rest.clamp(min=-80)).exp()
        self.per_evidence = {id(p): ((p.label.probs - 1) * per_evidence).to(dtype)[:, None] for p in labels}
        self.total = sum(p.label.scales * (1 - p.label.probs) for p in labels) * per_evidence
        self.negative, self.share = (v.to(dtype)[:, None] for v in (-self.total, share))
        self.rival = rows.rest_max.exp() * torch.logaddexp(rows.rest_max, torch.zeros_like(share))

    def loss(self, dots: Tensor) -> Tensor:
        """The term, `(n,)`, given the sums of `e ln(1 + e)` over all tokens but the emitted one and the rival."""
        return -self.total * (dots.double() + self.rival)


@dataclass(frozen=True)
class Parts:
    """
    What the dense passes have to do.

    Args:
        groups: Divergences, one for all hard labels and one for each soft one; none where their weight is 0.
        likelihood: That of soft labels, if there are any.
        near: Whether a row may reach the clamp, so that its sums have to be known before its gradient. Every c(e) is
            at most 0: most often none can.
    """

    groups: list[Divergences]
    likelihood: Likelihood | None
    near: bool


def parts_of(rows: TokenRows, labels: list[DenseLabel], share: Tensor, penalty: Penalty) -> Parts:
    """Sort labels by the evidence they keep; `share` is the sum of the scales divided by S, `(n,)`."""
    soft = [p for p in labels if p.label.probs is not None]
    hard = [p for p in labels if p.label.probs is None]
    groups = []
    if penalty.coefficient:
        alone = torch.zeros_like(share) if soft else share
        kept = [hard] * bool(hard) + [[p] for p in soft]
        groups = [Divergences(same, alone, penalty, rows.dtype) for same in kept]
    near = any(bool((penalty.coefficient * p.strength > penalty.clamp).any()) for g in groups for p in g.labels)
    return Parts(groups, Likelihood(rows, soft, share) if soft else None, near)
