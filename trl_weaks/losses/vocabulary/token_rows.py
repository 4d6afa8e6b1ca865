"""Rows of vocabulary logits, reduced to what closed-form token losses read. T supervised tokens, V vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cpu_kernels import can_run, compiled_reduce_rows
from .row_reductions import NOWHERE, reduce_rows


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
    """

    dense: Tensor
    scales: Tensor | None = None
    columns: tuple[tuple[Tensor, Tensor], ...] = ()

    def full(self) -> Tensor:
        """The gradient itself, written over `dense`."""
        if self.scales is not None:
            self.dense.mul_(self.scales[:, None].to(self.dense.dtype))
        for ids, values in self.columns:
            self.dense.scatter_add_(-1, ids[:, None], values[:, None].to(self.dense.dtype))
        return self.dense


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
            rival. `None` where there is no plan or a logit exceeds its limit: the logits are what they were then.
        target_logits: z_t with the offset, `(n,)` float64, as are the next three.
        rest_max: Largest of the other logits.
        rest_sum: Sum over the others of `exp(z - rest_max)`, at least 1.
        rest_dot: Sum of `exp(z - rest_max) (z - rest_max)`, at most 0.
        is_top1: Whether t is the first of the largest logits, `(n,)` bool.
        rival_ids: The first largest of the other tokens, `(n,)`; `None` unless asked for.
        sum_without_rival: `rest_sum` without the rival's 1, summed afresh; `None` unless asked for.
        squares_without_rival: Likewise the sum of the squares of the exponentials.
        compiled: Whether dense passes over `others` are to be the compiled ones.
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
    compiled: bool = False

    @property
    def log_rest(self) -> Tensor:
        """Logarithm of the sum of the other exponentials."""
        return self.rest_max + self.rest_sum.log()

    @property
    def log_normaliser(self) -> Tensor:
        return torch.logaddexp(self.log_rest, self.target_logits)

    @property
    def log_prob(self) -> Tensor:
        """log p_t."""
        return -torch.logaddexp(torch.zeros_like(self.rest_max), self.log_rest - self.target_logits)

    @property
    def log_rest_prob(self) -> Tensor:
        """log(1 - p_t), exact where p_t rounds to 1."""
        return -torch.logaddexp(torch.zeros_like(self.rest_max), self.target_logits - self.log_rest)

    @property
    def rest_entropy(self) -> Tensor:
        """Entropy of the distribution over the other tokens, nats."""
        return (self.rest_sum.log() - self.rest_dot / self.rest_sum).clamp(min=0)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the whole distribution: that of "t or not t", and of what else it may be."""
        log_p, log_r = self.log_prob, self.log_rest_prob
        return log_r.exp() * (self.rest_entropy - log_r) - log_p.exp() * log_p

    @property
    def top_probs(self) -> Tensor:
        """The largest probability."""
        return torch.maximum(self.log_prob, self.rest_max - self.log_normaliser).exp()


def split_rows(logits: Tensor, ids: Tensor, plan: TokenFormPlan | None, cpu_kernels: bool = False) -> TokenRows:
    """
    Reduce `(n, V)` float32 or float64 logits.

    Args:
        logits: Become the `others` of the result, or stay what they were where that is `None`.
        ids: Emitted tokens, `(n,)`.
        plan: What the closed form asks for; `None` if there is none.
        cpu_kernels: Whether to use compiled passes where they take such rows.
    """
    asked, plan = plan is not None, plan or TokenFormPlan(-torch.inf)
    target = logits.gather(-1, ids[:, None])[:, 0]
    logits.scatter_(-1, ids[:, None], NOWHERE)
    overwrite = plan.limit == torch.inf and not plan.logits
    compiled = cpu_kernels and can_run(logits)
    if compiled:
        reduced = compiled_reduce_rows(logits, ids, plan.rival, overwrite)
    else:
        reduced = reduce_rows(logits, ids, target, plan.rival, plan.squares, plan.logits, overwrite)
    top, rivals = reduced.top, reduced.rivals
    closed = asked and (overwrite or bool((top.double() + plan.offset <= plan.limit).all()))
    if not closed:
        logits.scatter_(-1, ids[:, None], target[:, None])
        if rivals is not None:
            logits.scatter_(-1, rivals[:, None], top[:, None])
    return TokenRows(
        ids=ids,
        others=logits if closed else None,
        target_logits=target.double() + plan.offset,
        rest_max=top.double() + plan.offset,
        rest_sum=reduced.sums[0] + (rivals is not None),
        rest_dot=reduced.sums[1],
        is_top1=(target > top) | (target == top) & reduced.first,
        rival_ids=rivals,
        sum_without_rival=None if rivals is None else reduced.sums[0],
        squares_without_rival=reduced.sums[2] if plan.squares else None,
        compiled=compiled,
    )
