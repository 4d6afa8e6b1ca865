"""Rows of vocabulary logits, reduced to what closed-form token losses read. T supervised tokens, V vocabulary."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Stands for "no logit" at the emitted token: far below any logit, and 0 times its exponential is still 0.
_NOWHERE = -1e30
# On a CPU, dense passes run over blocks of about this many logits: 0.5 MiB, so that a few temporaries fit beside it
# into a second-level cache of 2 MiB; measured best of 0.1 to 1 MiB.
_BLOCK = 131_072
_SEGMENT = 1_024


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
            for b in blocks(*self.dense.shape, self.dense.device):
                self.dense[b].mul_(self.scales[b, None].to(self.dense.dtype))
        for ids, values in self.columns:
            self.dense.scatter_add_(-1, ids[:, None], values[:, None].to(self.dense.dtype))
        return self.dense


@dataclass(frozen=True)
class TokenFormPlan:
    """
    What a closed form asks for.

    Args:
        limit: Largest logit (other than the emitted token's) up to which it is exact.
        rival: Whether it reads `rival_ids` and the sums without the rival.
        offset: Added to all logits; the limit is for their sum.
    """

    limit: float
    rival: bool
    offset: float = 0.0


@dataclass(frozen=True)
class TokenRows:
    """
    Logits z `(n, V)` split at the emitted token t, so that nothing is ever computed as "1 minus almost 1".

    Args:
        ids: Emitted tokens t, `(n,)`.
        rest: `exp(z_j - rest_max)`, 0 at t, `(n, V)`; a closed form makes its gradient from it, in place. `None`
            where the logits were kept instead.
        target_logits: z_t, `(n,)` float64, as are the next three.
        rest_max: Largest of the other logits.
        rest_sum: Sum of `rest`, at least 1.
        rest_dot: Sum of `rest (z - rest_max)`, at most 0.
        is_top1: Whether t is the first of the largest logits, `(n,)` bool.
        rival_ids: The first largest of the other tokens, `(n,)`; `None` unless asked for.
        sum_without_rival: `rest_sum` without the rival's 1, summed afresh; `None` unless asked for.
        squares_without_rival: Likewise the sum of the squares of `rest`.
    """

    ids: Tensor
    rest: Tensor | None
    target_logits: Tensor
    rest_max: Tensor
    rest_sum: Tensor
    rest_dot: Tensor
    is_top1: Tensor
    rival_ids: Tensor | None
    sum_without_rival: Tensor | None
    squares_without_rival: Tensor | None

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


def blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Row blocks of a dense pass: cache-sized on a CPU, everything at once (fewest kernels) elsewhere."""
    size = max(1, _BLOCK // width) if device.type == "cpu" else max(1, rows)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def split_rows(logits: Tensor, ids: Tensor, plan: TokenFormPlan | None) -> TokenRows:
    """
    Reduce `(n, V)` float32 or float64 logits.

    Args:
        logits: Overwritten by the `rest` of the result, unless there is no plan or a logit (not the target's) exceeds
            its limit, in which case `rest` is `None` and the logits are left as they were.
        ids: Emitted tokens, `(n,)`.
        plan: What the closed form asks for; `None` if there is none.
    """
    n, width = logits.shape
    target = logits.gather(-1, ids[:, None])
    logits.scatter_(-1, ids[:, None], _NOWHERE)
    top = logits.new_empty(n)
    closed = plan is not None
    if closed and plan.limit < torch.inf:  # one more pass over all rows, before the first of them is overwritten
        for b in blocks(n, width, logits.device):
            torch.amax(logits[b], -1, out=top[b])
        closed = bool((top + plan.offset <= plan.limit).all())
    if closed and plan.offset:
        logits.add_(plan.offset)
        target += plan.offset
    rivals = torch.empty_like(ids) if closed and plan.rival else None
    is_top1 = torch.empty_like(ids, dtype=torch.bool)
    sums = [torch.empty(n, dtype=torch.float64, device=logits.device) for _ in range(4)]
    scratch = None
    for b in blocks(n, width, logits.device):
        torch.amax(logits[b], -1, out=top[b])
        if rivals is not None:
            rivals[b] = _argmax(logits[b])
        is_top1[b] = _is_first(logits[b], target[b, 0], top[b], ids[b])
        scratch = torch.empty_like(logits[b]) if scratch is None else scratch
        own = None if rivals is None else rivals[b]
        _reduce(logits[b], top[b], own, [s[b] for s in sums], scratch[: len(logits[b])], closed)
    if not closed:
        logits.scatter_(-1, ids[:, None], target)
    return TokenRows(
        ids=ids,
        rest=logits if closed else None,
        target_logits=target[:, 0].double(),
        rest_max=top.double(),
        rest_sum=sums[0],
        rest_dot=sums[1],
        is_top1=is_top1,
        rival_ids=rivals,
        sum_without_rival=None if rivals is None else sums[2],
        squares_without_rival=None if rivals is None else sums[3],
    )


def _is_first(others: Tensor, target: Tensor, top: Tensor, ids: Tensor) -> Tensor:
    """Whether the emitted token is the first of the largest; only ties need a second look."""
    first = target > top
    tied = torch.nonzero(target == top).flatten()
    if len(tied):
        first[tied] = ids[tied] < others[tied].argmax(-1)
    return first


def _reduce(
    logits: Tensor, top: Tensor, rivals: Tensor | None, sums: list[Tensor], scratch: Tensor, overwrite: bool
) -> None:
    shifted = torch.sub(logits, top[:, None], out=scratch)
    rest = torch.exp(shifted, out=logits) if overwrite else shifted.exp()
    sums[0].copy_(rest.sum(-1))
    sums[1].copy_(torch.linalg.vecdot(rest, shifted))
    if rivals is not None:
        rest.scatter_(-1, rivals[:, None], 0)
        sums[2].copy_(rest.sum(-1))
        sums[3].copy_(torch.linalg.vecdot(rest, rest))
        rest.scatter_(-1, rivals[:, None], 1)


def _argmax(logits: Tensor) -> Tensor:
    """`argmax(-1)`, first of equals, by way of segment maxima: several times as fast on a CPU."""
    whole = logits.shape[1] // _SEGMENT * _SEGMENT
    if not whole or logits.device.type != "cpu":
        return logits.argmax(-1)
    segments = logits[:, :whole].unflatten(1, (-1, _SEGMENT))
    best, segment = segments.amax(-1).max(-1)
    inside = segments[torch.arange(len(logits)), segment].argmax(-1)
    found = segment * _SEGMENT + inside
    if whole == logits.shape[1]:
        return found
    tail, at = logits[:, whole:].max(-1)
    return torch.where(tail > best, whole + at, found)
