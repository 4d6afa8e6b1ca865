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

import torch
from torch import Tensor

from ...dirichlet import NO_EVIDENCE, class_term, kl_strength_term
from . import triton_tokens
from .evidential_kernels import compiled_passes
from .evidential_parts import DenseLabel, Penalty, parts_of
from .evidential_passes import dense_passes
from .token_rows import LogitGradient, TokenLabel, TokenRows


def evidential_token_form(
    rows: TokenRows, labels: list[TokenLabel], penalty: Penalty, offset: float, needs_grad: bool
) -> tuple[Tensor, LogitGradient | None]:
    """Sum over labels of scale times loss, `(n,)` float64; the gradient is written over `rows.others`, or beside."""
    if rows.table is not None:
        found = triton_tokens.evidential_form(rows, labels, penalty, offset, needs_grad)
        if found is not None:
            return found[0], None if found[1] is None else LogitGradient(found[1])
    width = rows.others.shape[1]
    log_strength = torch.logaddexp(rows.log_normaliser, torch.full_like(rows.rest_max, width).log())
    prepared = _prepare(rows, labels, width, penalty)
    total_scale = sum(label.scales for label in labels)
    loss = total_scale * log_strength - sum(label.scales * _log_alpha_of_token(rows, label) for label in labels)
    share = total_scale * (-log_strength).exp()
    parts = parts_of(rows, prepared, share, penalty)
    done = compiled_passes(rows, parts, share, offset, needs_grad)
    if done is None:
        rows = rows.for_pytorch()
        done = dense_passes(rows, parts, share, offset, needs_grad)
    if not needs_grad:
        return loss + done, None
    for ids, values in _columns(rows, prepared, log_strength):
        rows.others.scatter_(-1, ids[:, None], values.to(rows.others.dtype)[:, None])
    return loss + done, LogitGradient(rows.others)


def _prepare(rows: TokenRows, labels: list[TokenLabel], width: int, penalty: Penalty) -> list[DenseLabel]:
    """The scalars of every label; the special functions are called once for all of them."""
    kept = [_kept(rows, label) for label in labels]
    log_totals = torch.stack([log_total for *_, log_total in kept])
    strengths, pulls = _with_slope(lambda log_e: kl_strength_term(log_e, width), log_totals)
    at = [_log_kept(rows.target_logits, keep_target) for keep_target, *_ in kept]
    if rows.rival_ids is not None:
        at += [
            _log_kept(rows.rest_max, torch.ones_like(keep) if label.probs is None else keep)
            for label, (_, keep, _) in zip(labels, kept, strict=True)
        ]
    values, slopes = (found.unflatten(0, (-1, len(labels))) for found in _with_slope(_term, torch.stack(at)))
    prepared = []
    for i, label in enumerate(labels):
        keep_target, keep_rival, log_total = kept[i]
        strength, rival_slope = strengths[i] + values[0, i], None
        if rows.rival_ids is not None:
            dropped = keep_rival == 0 if label.own else torch.zeros_like(rows.is_top1)
            strength = strength + torch.where(dropped, 0, values[1, i])
            rival_slope = torch.where(dropped, 0, slopes[1, i])
        slope, weight = pulls[i] * (-log_total).exp(), penalty.coefficient * label.scales
        prepared.append(
            DenseLabel(
                label, keep_target, keep_rival, log_total, strength, pulls[i], slope, slopes[0, i], rival_slope, weight
            )
        )
    return prepared


def _kept(rows: TokenRows, label: TokenLabel) -> tuple[Tensor, Tensor, Tensor]:
    """1 - y of the emitted token and of the rival, and the logarithm of all kept evidence."""
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
    return keep_target, keep_rival, log_total.clamp(min=NO_EVIDENCE)


def _columns(rows: TokenRows, labels: list[DenseLabel], log_strength: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The gradient at the rival, if there is one, and at the emitted token, from float64 scalars."""
    columns = [(rows.ids, rows.target_logits, "target")]
    if rows.rival_ids is not None:
        columns.insert(0, (rows.rival_ids, rows.rest_max, "rival"))
    found = []
    for ids, log_e, name in columns:
        total = torch.zeros_like(log_strength)
        for p in labels:
            keep, slope = getattr(p, f"keep_{name}"), getattr(p, f"{name}_slope")
            total += p.label.scales * ((log_e - log_strength).exp() - (1 - keep) * torch.sigmoid(log_e))
            total += p.weight * (slope + p.pull * (_log_kept(log_e, keep) - p.log_total).exp())
        found.append((ids, total))
    return found


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
