"""Rows of vocabulary logits, reduced to what closed-form token losses read. T supervised tokens, V vocabulary."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from . import cpu_kernels, triton_passes, triton_tokens
from .row_reductions import NOWHERE, Reduction, reduce_rows


class Kernels(Protocol):
    """
    Compiled passes: a module of functions, `cpu_kernels` or `triton_passes`, with their own for the evidential loss.

    Attributes:
        OVERWRITES: Whether `compiled_reduce_rows` can leave exponentials behind. Otherwise it leaves the logits alone,
            and `triton_passes.scaled_exponentials` makes the gradient of them.
    """

    OVERWRITES: bool

    def can_run(self, rows: Tensor) -> bool: ...

    def compiled_reduce_rows(self, logits: Tensor, ids: Tensor, rival: bool, overwrite: bool) -> Reduction | None: ...


def kernels_for(logits: Tensor) -> Kernels | None:
    """The compiled passes that take these rows."""
    return next((module for module in (cpu_kernels, triton_passes) if module.can_run(logits)), None)


@dataclass(frozen=True)
class TokenLabel:
    """
    One label of every row, and the weight of its loss.

    Args:
        scales: Weight of the label's loss, `(n,)` float64.
        probs: Probability P of the emitted token, `(n,)` float64; the rest is shared among the other tokens in
            proportion to the student's own detached distribution (Cui et al., arXiv 2406.03199, Sec. 4.2).
            `None` is a hard label, P = 1.
        own: The label is not the emitted token but the student's own most likely one (hard).
    """

    scales: Tensor
    probs: Tensor | None = None
    own: bool = False


@dataclass(frozen=True)
class LogitGradient:
    """
    Gradient of a loss with respect to `(n, V)` logits, in factors: `scales dense + values at ids`.

    Whoever multiplies it by a matrix scales the `(n, H)` side and adds the few columns afterwards, which saves a pass
    over the vocabulary.

    Args:
        dense: `(n, V)`.
        scales: Factor of each row of `dense`, `(n,)`; `None` for 1.
        columns: Pairs of ids `(n,)` and values `(n,)` that are added, one column per row.
        tops: Where given, `(n,)`, `dense` holds logits and stands for `exp(dense - tops)`.
    """

    dense: Tensor
    scales: Tensor | None = None
    columns: tuple[tuple[Tensor, Tensor], ...] = ()
    tops: Tensor | None = None

    def full(self, dtype: torch.dtype | None = None) -> Tensor:
        """The gradient itself, written over `dense` where that is of the type asked for, or none is."""
        if self.tops is not None:
            scales = torch.ones_like(self.tops) if self.scales is None else self.scales
            asked = dtype or torch.float32
            return triton_passes.scaled_exponentials(self.dense, self.tops, scales, self.columns, asked)
        if self.scales is not None:
            self.dense.mul_(self.scales[:, None].to(self.dense.dtype))
        for ids, values in self.columns:
            self.dense.scatter_add_(-1, ids[:, None], values[:, None].to(self.dense.dtype))
        return self.dense.to(dtype or self.dense.dtype)


@dataclass(frozen=True)
class TokenFormPlan:
    """
    What a closed form asks for.

    Args:
        limit: Largest logit (other than the emitted token's) up to which it is exact.
        rival: Whether it reads `rival_ids` and `sum_without_rival`.
        squares: Whether it reads `squares_without_rival`; needs `rival`.
        logits: Whether it wants the other logits themselves, not their exponentials.
        offset: Added to all logits; the limit is for their sum.
    """

    limit: float
    rival: bool = False
    squares: bool = False
    logits: bool = False
    offset: float = 0.0


@dataclass(frozen=True)
class TokenRows:
    """
    Logits z `(n, V)` split at the emitted token t, so that nothing is ever computed as "1 minus almost 1".

    Args:
        ids: Emitted tokens t, `(n,)`.
        others: `(n, V)`, from which a closed form makes its gradient, in place: `exp(z_j - rest_max)`, 0 at t; or,
            where the plan asks for logits, those as they were given, without the offset, and -1e30 at t and the
            rival; or, where there are `tops`, logits that stand for their exponentials. `None` where there is no plan
            or a logit exceeds its limit: the logits are what they were then.
        target_logits: z_t with the offset, `(n,)` float64, as are the next three.
        rest_max: Largest of the other logits.
        rest_sum: Sum over the others of `exp(z - rest_max)`, at least 1.
        rest_dot: Sum of `exp(z - rest_max) (z - rest_max)`, at most 0.
        is_top1: Whether t is the first of the largest logits, `(n,)` bool.
        rival_ids: The first largest of the other tokens, `(n,)`; `None` unless asked for.
        sum_without_rival: `rest_sum` without the rival's 1, summed afresh; `None` unless asked for.
        squares_without_rival: Likewise the sum of the squares of the exponentials.
        tops: `rest_max` without the offset, `(n,)`, where the exponentials are still to be taken; see `LogitGradient`.
        kernels: The compiled passes that are to read `others`; `None` for PyTorch's.
        gradient_dtype: In which a gradient in other memory than that of `others` is wanted.
        table: These numbers and the properties below side by side, where `triton_tokens` made them and is to do what
            else there is to do with one number per token.
    """

    ids: Tensor
    others: Tensor | None
    target_logits: Tensor
    rest_max: Tensor
    rest_sum: Tensor
    rest_dot: Tensor
    is_top1: Tensor
    rival_ids: Tensor | None
    sum_without_rival: Tensor | None
    squares_without_rival: Tensor | None
    tops: Tensor | None = None
    kernels: Kernels | None = None
    gradient_dtype: torch.dtype = torch.float32
    table: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """In which the passes over `others` count."""
        return torch.float64 if self.others.dtype == torch.float64 else torch.float32

    def for_pytorch(self) -> "TokenRows":
        """The same for passes that count in the dtype of `others`."""
        return replace(self, others=_raised(self.others), kernels=None, table=None)

    @cached_property
    def log_rest(self) -> Tensor:
        """Logarithm of the sum of the other exponentials."""
        return self.rest_max + self.rest_sum.log()

    @cached_property
    def log_normaliser(self) -> Tensor:
        return torch.logaddexp(self.log_rest, self.target_logits)

    @cached_property
    def log_prob(self) -> Tensor:
        """log p_t."""
        return -torch.logaddexp(torch.zeros_like(self.rest_max), self.log_rest - self.target_logits)

    @cached_property
    def log_rest_prob(self) -> Tensor:
        """log(1 - p_t), exact where p_t rounds to 1."""
        return -torch.logaddexp(torch.zeros_like(self.rest_max), self.target_logits - self.log_rest)

    @cached_property
    def rest_entropy(self) -> Tensor:
        """Entropy of the distribution over the other tokens, nats."""
        return (self.rest_sum.log() - self.rest_dot / self.rest_sum).clamp(min=0)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy of the whole distribution: that of "t or not t", and of what else it may be."""
        log_p, log_r = self.log_prob, self.log_rest_prob
        return log_r.exp() * (self.rest_entropy - log_r) - log_p.exp() * log_p

    @cached_property
    def top_probs(self) -> Tensor:
        """The largest probability."""
        return torch.maximum(self.log_prob, self.rest_max - self.log_normaliser).exp()


def split_rows(
    logits: Tensor,
    ids: Tensor,
    plan: TokenFormPlan | None,
    kernels: bool = False,
    gradient_dtype: torch.dtype | None = None,
) -> TokenRows:
    """
    Reduce `(n, V)` logits.

    Args:
        logits: Become the `others` of the result, or stay what they were where that is `None`. Half precision is
            raised to float32 in new memory where no compiled passes take it.
        ids: Emitted tokens, `(n,)`.
        plan: What the closed form asks for; `None` if there is none.
        kernels: Whether to use compiled passes where they take such rows.
        gradient_dtype: See `TokenRows`; by default that of the logits, and at least float32.
    """
    asked, plan = plan is not None, plan or TokenFormPlan(-torch.inf)
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    target = logits.gather(-1, ids[:, None])[:, 0]
    logits.scatter_(-1, ids[:, None], _nowhere(logits))
    exponentials = plan.limit == torch.inf and not plan.logits
    others, reduced, compiled = _reduced(logits, ids, target, plan, exponentials, kernels)
    numbers, known = _numbers(target, reduced, plan, compiled)
    closed = asked and (exponentials or bool((numbers["rest_max"] <= plan.limit).all()))
    if not closed:
        logits.scatter_(-1, ids[:, None], target[:, None])
        if reduced.rivals is not None:
            logits.scatter_(-1, reduced.rivals[:, None], reduced.top[:, None].to(logits.dtype))
    rows = TokenRows(
        ids=ids,
        others=others if closed else None,
        rest_dot=reduced.sums[1],
        rival_ids=reduced.rivals,
        sum_without_rival=None if reduced.rivals is None else reduced.sums[0],
        squares_without_rival=reduced.sums[2] if plan.squares else None,
        tops=None if compiled is None or compiled.OVERWRITES or not exponentials else reduced.top,
        kernels=compiled,
        gradient_dtype=gradient_dtype or exact,
        **numbers,
    )
    vars(rows).update(known)  # as the properties would, once asked
    return rows


def _numbers(
    target: Tensor, reduced: Reduction, plan: TokenFormPlan, compiled: Kernels | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fields of `TokenRows`, and those of its properties that a kernel has computed."""
    found = triton_tokens.statistics(target, reduced, plan.offset) if compiled is triton_passes else None
    if found is not None:
        table, is_top1 = found
        known = dict(zip(triton_tokens.COLUMNS, table.unbind(-1), strict=True))
        fields = {name: known.pop(name) for name in ("target_logits", "rest_max", "rest_sum")}
        del known["sum_without_rival"], known["squares_without_rival"]
        return fields | {"is_top1": is_top1, "table": table}, known
    top = reduced.top
    return {
        "target_logits": target.double() + plan.offset,
        "rest_max": top.double() + plan.offset,
        "rest_sum": reduced.sums[0] + (reduced.rivals is not None),
        "is_top1": (target > top) | (target == top) & reduced.first,
    }, {}


def _reduced(
    logits: Tensor, ids: Tensor, target: Tensor, plan: TokenFormPlan, exponentials: bool, kernels: bool
) -> tuple[Tensor, Reduction, Kernels | None]:
    """What becomes of the logits, what the reduction found, and the compiled passes that found it."""
    if kernels and (compiled := kernels_for(logits)) is not None:
        reduced = compiled.compiled_reduce_rows(logits, ids, plan.rival, exponentials and compiled.OVERWRITES)
        if reduced is not None:
            if reduced.rivals is not None and not exponentials and not compiled.OVERWRITES:
                logits.scatter_(-1, reduced.rivals[:, None], _nowhere(logits))
            return logits, reduced, compiled
    others = _raised(logits)
    reduced = reduce_rows(others, ids, target.to(others.dtype), plan.rival, plan.squares, plan.logits, exponentials)
    return others, reduced, None


def _nowhere(logits: Tensor) -> float:
    """`NOWHERE`, of which float16 knows nothing: minus infinity there, which kernels read as the same."""
    return -torch.inf if logits.dtype == torch.float16 else NOWHERE


def _raised(logits: Tensor) -> Tensor:
    """For passes in PyTorch, which count in the dtype of what they are given."""
    if logits.dtype in (torch.float32, torch.float64):
        return logits
    return logits.float().clamp_(min=NOWHERE)
