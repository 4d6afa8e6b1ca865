"""The maths of one number per token by Triton, for CUDA: the kernels of `triton_token_kernels`, around the passes of
`triton_passes`, with which they fail or run.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...dirichlet import stirling_remainder
from .row_reductions import Reduction
from .triton_passes import evidential_rows, launch, side_by_side

if TYPE_CHECKING:
    from .evidential_parts import Penalty
    from .token_rows import TokenLabel, TokenRows

# What a table holds of a token: numbers and properties of `TokenRows` by their names.
COLUMNS = (
    *("target_logits", "rest_max", "rest_sum", "sum_without_rival", "squares_without_rival"),
    *("log_prob", "log_rest_prob", "rest_entropy", "entropy", "top_probs"),
)
_HEAD = 6  # see triton_token_kernels
# One warp for 32 tokens: a chunk keeps as many processors busy as it can. Not measured.
_TOKENS = {"BLOCK": 32, "num_warps": 1}


def statistics(target: Tensor, reduced: Reduction, offset: float) -> tuple[Tensor, Tensor] | None:
    """The table of the rows, `(n, len(COLUMNS))` float64, and `is_top1`; None where the kernel fails."""
    n = len(target)
    table = target.new_empty(n, len(COLUMNS), dtype=torch.float64)
    is_top1 = target.new_empty(n, dtype=torch.bool)
    given = (target, reduced.top, reduced.first, reduced.sums.T, table, is_top1, n, float(offset))
    done = launch("token_statistics", _grid(n), *given, RIVAL=reduced.rivals is not None, **_TOKENS)
    return (table, is_top1) if done else None


def label_probs(
    table: Tensor,
    span: slice,
    bounds: tuple[Tensor, Tensor],
    segments: Tensor,
    cut_totals: Tensor | None,
    logps: Tensor,
    weights: Tensor,
    divisors: Tensor,
    split: str,
) -> tuple[Tensor, Tensor] | None:
    """
    `heads.tokens.Tokens.label_probs` of the tokens of `span`, whose table is given; all else is of all tokens. `None`
    where the kernel fails.

    Args:
        bounds: First token of the unit of each token, and the one after its last, `(T,)` each.
        segments, cut_totals, split: See `Tokens`.
        logps, weights: `(T, S)`.
        divisors: Of the means, `(T,)`.
    """
    given = [x[span].contiguous() for x in (*bounds, segments, logps, weights, divisors)]
    n, supervisors = given[3].shape
    probs, means = weights.new_empty(n, supervisors), weights.new_empty(n)
    given.insert(3, divisors if cut_totals is None else cut_totals)
    options = {"SPLIT": split, "CUT": cut_totals is not None, "BLOCK": 64, "num_warps": 2}
    done = launch("label_probs", (n,), table, *given, probs, means, span.start, n, supervisors, **options)
    return (probs, means) if done else None


def soft_label_numbers(rows: "TokenRows", labels: Sequence["TokenLabel"]) -> tuple[Tensor, Tensor, Tensor] | None:
    """
    `NaiveLoss.token_form`: the loss, `(n,)`, the factors of the exponentials, `(n,)`, and the gradient at the emitted
    token and, where there is one, the rival, `(n, 1 or 2)`; None where the kernel fails.
    """
    n, rival = len(rows.ids), rows.rival_ids is not None
    scales, probs, own = _stacked(labels)
    loss, factors = scales.new_empty(n), scales.new_empty(n, dtype=torch.float32)
    values = scales.new_empty(n, 1 + rival, dtype=torch.float32)
    given = (rows.table, rows.is_top1, scales, scales if probs is None else probs, loss, factors, values)
    options = {"SOFT": probs is not None, "RIVAL": rival} | _TOKENS
    done = launch("soft_label_tokens", _grid(n), *given, n, len(labels), own, **options)
    return (loss, factors, values) if done else None


def evidential_form(
    rows: "TokenRows", labels: Sequence["TokenLabel"], penalty: "Penalty", offset: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None] | None:
    """
    `evidential_tokens.evidential_token_form`, whose gradient, `(n, V)`, is written over the logits where those are of
    the type that is asked for; None, and nothing has changed, where a kernel fails at first.

    Raises:
        RuntimeError: one of them ran, and failed when it was started again.

    Nothing waits for the device. Rows that may reach the clamp are read twice, and no others.
    """
    (n, width), rival = rows.others.shape, rows.rival_ids is not None
    scales, probs, own = _stacked(labels)
    soft, single = probs is not None, torch.float32
    groups = (len(labels) if soft else 1) if penalty.coefficient else 0
    record, loss = scales.new_empty(n, _HEAD + 4 * len(labels)), scales.new_empty(n)
    keeps, columns = scales.new_empty(n, groups, dtype=single), scales.new_empty(n, groups, 3, dtype=single)
    shares, near = scales.new_empty(n, 2, dtype=single), scales.new_empty(n, dtype=torch.int32)
    sums, out = scales.new_empty(n, groups + 1), rows.others
    if needs_grad and out.dtype != rows.gradient_dtype:
        out = torch.empty_like(out, dtype=rows.gradient_dtype)
    values = scales.new_empty(n, 1 + rival, dtype=single)
    given = (
        rows.table,
        rows.is_top1,
        scales,
        scales if probs is None else probs,
        record,
        keeps,
        columns,
        shares,
        near,
    )
    small = width < 16
    bounds = (
        stirling_remainder(float(width)),
        math.lgamma(width) if small else 0.0,
        *map(float, vars(penalty).values()),
    )
    options = {"SOFT": soft, "RIVAL": rival, "SMALL": small} | _TOKENS

    def tokens(after: bool) -> bool:
        counts = (n, width, len(labels), groups, own, int(after))
        return launch("evidential_tokens", _grid(n), *given, sums, loss, values, *counts, *bounds, **options)

    def sweep(write: int) -> bool:
        return evidential_rows(rows.others, offset, keeps, columns, shares, near, sums, out, soft, write)

    if not tokens(False) or (groups or soft or needs_grad) and not sweep(int(needs_grad)):
        return None
    _finish(tokens(True))
    if not needs_grad:
        return loss, None
    if groups and penalty.clamp < math.inf:
        _finish(sweep(2))
    ids = side_by_side([rows.ids, rows.rival_ids] if rival else [rows.ids])
    return loss, out.scatter_(-1, ids, values.to(out.dtype))


def _finish(started: bool) -> None:
    """Raises RuntimeError where a kernel that has run no longer starts: the logits may be overwritten by then, and
    what it would have written is memory of any content."""
    if not started:
        raise RuntimeError(
            "A kernel of Triton that had run for this batch did not start again (the log says why): too little memory "
            "of the GPU, or a fault of it. Take smaller batches, or `use_triton_kernels=False`."
        )


def _stacked(labels: Sequence["TokenLabel"]) -> tuple[Tensor, Tensor | None, int]:
    """Scales and, where any label is soft, probabilities, `(n, labels)`; the place of the student's own, or -1."""
    scales = side_by_side([label.scales for label in labels])
    soft = any(label.probs is not None for label in labels)
    probs = side_by_side([x.scales if x.probs is None else x.probs for x in labels]) if soft else None
    return scales, probs, next((place for place, label in enumerate(labels) if label.own), -1)


def _grid(n: int) -> tuple[int]:
    return (-(-n // _TOKENS["BLOCK"]),)
