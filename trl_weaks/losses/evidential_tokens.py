r"""The evidential loss over a vocabulary in closed form, exponential evidence.

Notation: e_j = exp(z_j), V tokens, S = V + sum e, x = e / (1 + e), t the emitted token, q the student's distribution
over the others, y the label (y_t = P, y_j = (1 - P) q_j; a hard label has P = 1), all labels detached.

The likelihood term is `ln S - sum y_j ln(1 + e_j)`, with gradient `e_j / S - y_j x_j`.

For the divergence, `alpha~ - 1 = (1 - y)(alpha - 1)`: only the evidence changes, e~ = (1 - y) e. With
E = sum e~, `KL = F(E) + sum_j c(e~_j)` (`dirichlet.strength_term`, `dirichlet.class_term`). As
de~_j/dz_j = e~_j,

    dKL/dz_j = e~_j (c'(e~_j) + F'(E)) = x~_j (x~_j n(x~_j) - (1 - F') + e~_j F')

where the second form (see `class_terms`) subtracts nothing large, neither for little evidence (c' -> -1, F' -> 1) nor
for much (e~ -> inf, F' -> V / S). Labels on one token share the dense passes; soft labels need one set each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dirichlet import NO_EVIDENCE, class_term, kl_strength_term
from .class_terms import value_and_slope
from .token_rows import TokenLabel, TokenRows, blocks


@dataclass(frozen=True)
class _Label:
    """A label and the scalars of its divergence, `(n,)` float64; keep is 1 - y at the two tokens treated apart."""

    label: TokenLabel
    keep_target: Tensor
    keep_rival: Tensor | None
    log_total: Tensor  # ln E
    strength: Tensor  # F(E) and c(e~) of the emitted token, less the c(e) of a dropped rival
    pull: Tensor  # F'(E) E
    slope: Tensor  # F'(E)
    weight: Tensor  # of the gradient: scale times coefficient, 0 where clamped; filled in by the dense passes


def evidential_token_form(
    rows: TokenRows, labels: list[TokenLabel], kl_weight: float, kl_clamp: float, needs_grad: bool
) -> Tensor:
    """Sum over labels of scale times loss, `(n,)` float64; the gradient is written over `rows.rest`."""
    width, dtype = rows.rest.shape[1], rows.rest.dtype
    log_strength = torch.logaddexp(rows.log_normaliser, torch.full_like(rows.rest_max, width).log())
    prepared = [_prepare(rows, label, width) for label in labels]
    total_scale = sum(label.scales for label in labels)
    loss = total_scale * log_strength - sum(label.scales * _log_alpha_of_token(rows, label) for label in labels)
    share = (total_scale * (-log_strength).exp()).to(dtype)[:, None]
    scale = rows.rest_max.exp().to(dtype)[:, None]
    hard = [p for p in prepared if p.label.probs is None and kl_weight]
    soft = [p for p in prepared if p.label.probs is not None]
    for b in blocks(*rows.rest.shape, rows.rest.device):
        # with soft labels the gradient grows while the evidence is still read
        evidence = torch.mul(rows.rest[b], scale[b], out=None if soft else rows.rest[b])
        gradient = torch.mul(evidence, share[b], out=rows.rest[b]) if soft else evidence
        x = torch.div(evidence, evidence + 1) if hard or soft else None
        log_alpha = torch.log1p(evidence) if soft else None
        for p in soft:
            loss[b] += _soft_likelihood(rows, p.label, evidence, x, log_alpha, gradient, b)
            if kl_weight:
                loss[b] += _soft_divergence(rows, p, evidence, gradient, b, kl_weight, kl_clamp)
        if hard:
            added, bracket = _divergences(hard, evidence, x, b, kl_weight, kl_clamp)
            loss[b] += added
        if not soft:
            gradient.mul_(share[b])
        if hard:
            gradient.addcmul_(x, bracket)
    if needs_grad:
        _write_columns(rows, prepared, log_strength)
    return loss


def _prepare(rows: TokenRows, label: TokenLabel, width: int) -> _Label:
    elsewhere = ~rows.is_top1 if label.own else torch.zeros_like(rows.is_top1)  # the label is the rival
    keep_target, keep_rival = elsewhere.double(), (~elsewhere).double()
    log_total = rows.log_rest
    if label.own:
        both = torch.logaddexp(rows.rest_max + rows.sum_without_rival.log(), rows.target_logits)
        log_total = torch.where(elsewhere, both, log_total)
    elif label.probs is not None:
        # the rival may hold nearly all of q: its 1 - y is P + (1 - P)(1 - q_a), never 1 - y_a
        keep_target = 1 - label.probs
        keep_rival = label.probs + keep_target * rows.sum_without_rival / rows.rest_sum
        others = rows.sum_without_rival - keep_target * rows.squares_without_rival / rows.rest_sum
        log_total = torch.logaddexp(
            rows.rest_max + (others + keep_rival).log(), keep_target.log() + rows.target_logits
        )
    log_total = log_total.clamp(min=NO_EVIDENCE)
    strength, pull = _with_slope(lambda log_e: kl_strength_term(log_e, width), log_total)
    strength = strength + _with_slope(_term, _log_kept(rows.target_logits, keep_target))[0]
    if label.own:
        strength = strength - torch.where(elsewhere, _with_slope(_term, rows.rest_max)[0], 0)
    slope = pull * (-log_total).exp()
    return _Label(label, keep_target, keep_rival, log_total, strength, pull, slope, torch.zeros_like(strength))


def _soft_likelihood(
    rows: TokenRows,
    label: TokenLabel,
    evidence: Tensor,
    x: Tensor,
    log_alpha: Tensor,
    gradient: Tensor,
    b: slice,
) -> Tensor:
    """`-scale sum_(j != t) y_j ln(1 + e_j)`, `(block,)`."""
    per_evidence = label.scales[b] * _share_per_evidence(rows, label, b)  # scale y_j / e_j
    gradient.addcmul_((evidence * x), -per_evidence.to(x.dtype)[:, None])
    return -per_evidence * torch.linalg.vecdot(evidence, log_alpha).double()


def _share_per_evidence(rows: TokenRows, label: TokenLabel, b: slice) -> Tensor:
    """y_j / e_j = (1 - P) / sum_(j != t) e_j; evidence below exp(-80) counts for nothing, whatever its label."""
    return (1 - label.probs[b]) * (-rows.log_rest[b].clamp(min=-80)).exp()


def _soft_divergence(
    rows: TokenRows, p: _Label, evidence: Tensor, gradient: Tensor, b: slice, kl_weight: float, kl_clamp: float
) -> Tensor:
    """The divergence of a label that leaves each token its own share 1 - y_j of the evidence."""
    dtype = evidence.dtype
    per_evidence = _share_per_evidence(rows, p.label, b).to(dtype)[:, None]
    kept = (evidence * -per_evidence).add_(1)
    kept.scatter_(-1, rows.rival_ids[b, None], p.keep_rival[b, None].to(dtype))
    kept.mul_(evidence)
    x = torch.div(kept, kept + 1)
    added, bracket = _divergences([p], kept, x, b, kl_weight, kl_clamp)
    gradient.addcmul_(x, bracket)
    return added


def _divergences(
    labels: list[_Label], evidence: Tensor, x: Tensor, b: slice, kl_weight: float, kl_clamp: float
) -> tuple[Tensor, Tensor]:
    """Weighted, clamped divergences of labels that keep the same evidence, and their gradient divided by x."""
    value, bracket = value_and_slope(evidence, x)
    loss = 0.0
    for p in labels:
        penalty = kl_weight * (p.strength[b] + value)
        loss = loss + p.label.scales[b] * penalty.clamp(max=kl_clamp)
        p.weight[b] = torch.where(penalty > kl_clamp, 0, kl_weight * p.label.scales[b])
    weight, pull = (sum(f(p) for p in labels) for f in (lambda p: p.weight[b], lambda p: p.weight[b] * p.slope[b]))
    bracket.mul_(weight.to(x.dtype)[:, None]).sub_((weight - pull).to(x.dtype)[:, None])
    return loss, bracket.addcmul_(evidence, pull.to(x.dtype)[:, None])


def _write_columns(rows: TokenRows, labels: list[_Label], log_strength: Tensor) -> None:
    """The gradient at the emitted token and at its rival, from float64 scalars."""
    columns = [(rows.ids, rows.target_logits, "keep_target")]
    if rows.rival_ids is not None:
        columns.insert(0, (rows.rival_ids, rows.rest_max, "keep_rival"))
    for ids, log_e, name in columns:
        total = torch.zeros_like(log_strength)
        for p in labels:
            keep = getattr(p, name)
            total += p.label.scales * ((log_e - log_strength).exp() - (1 - keep) * torch.sigmoid(log_e))
            kept = _log_kept(log_e, keep)
            total += p.weight * (_with_slope(_term, kept)[1] + p.pull * (kept - p.log_total).exp())
        rows.rest.scatter_(-1, ids[:, None], total.to(rows.rest.dtype)[:, None])


def _log_alpha_of_token(rows: TokenRows, label: TokenLabel) -> Tensor:
    """`y_k ln(1 + e_k)` of the one token a label names."""
    token = torch.maximum(rows.target_logits, rows.rest_max) if label.own else rows.target_logits
    log_alpha = torch.logaddexp(token, torch.zeros_like(token))
    return log_alpha if label.probs is None else label.probs * log_alpha


def _log_kept(log_e: Tensor, keep: Tensor) -> Tensor:
    return (log_e + keep.log()).clamp(min=NO_EVIDENCE)


def _term(log_e: Tensor) -> Tensor:
    return class_term(log_e.clamp(max=5).exp(), log_e)


def _with_slope(function, at: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise function."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope
