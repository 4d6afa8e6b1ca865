"""Rows of vocabulary logits, reduced to what closed-form token losses read. T supervised tokens, V vocabulary."""

import functools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

# Stands for "no logit" at the emitted token: far below any logit, and 0 times its exponential is still 0.
_NOWHERE = -1e30
# On a CPU, dense passes run over blocks of about this many logits: 0.25 MiB, so that five temporaries fit beside it
# into a second-level cache of 2 MiB. Half of it costs more calls, twice of it leaves the cache.
_BLOCK = 65_536


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
            where the plan asks for logits, those as they were given, without the offset, and -1e30 at t. `None` where
            there is no plan or a logit exceeds its limit: the logits are what they were then.
        target_logits: z_t with the offset, `(n,)` float64, as are the next three.
        rest_max: Largest of the other logits.
        rest_sum: Sum over the others of `exp(z - rest_max)`, at least 1.
        rest_dot: Sum of `exp(z - rest_max) (z - rest_max)`, at most 0.
        is_top1: Whether t is the first of the largest logits, `(n,)` bool.
        rival_ids: The first largest of the other tokens, `(n,)`; `None` unless asked for.
        sum_without_rival: `rest_sum` without the rival's 1, summed afresh; `None` unless asked for.
        squares_without_rival: Likewise the sum of the squares of the exponentials.
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


def blocks(rows: int, width: int, device: torch.device) -> list[slice]:
    """Row blocks of a dense pass: cache-sized on a CPU, everything at once (fewest kernels) elsewhere."""
    size = max(1, _BLOCK // width) if device.type == "cpu" else max(1, rows)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def scratch(count: int, like: Tensor) -> Tensor:
    """`count` planes, each of the size of one block of `like`, `(n, V)`, which all its blocks share."""
    first = next(iter(blocks(*like.shape, like.device)), slice(0, 0))
    return like.new_empty(count, first.stop, like.shape[1])


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum over classes of a product, `(n, V)` twice -> `(n,)`; on a GPU not as a matrix product, which may round."""
    return torch.linalg.vecdot(one, other) if one.device.type == "cpu" else (one * other).sum(-1)


def split_rows(logits: Tensor, ids: Tensor, plan: TokenFormPlan | None) -> TokenRows:
    """
    Reduce `(n, V)` float32 or float64 logits.

    Args:
        logits: Become the `others` of the result, or stay what they were where that is `None`.
        ids: Emitted tokens, `(n,)`.
        plan: What the closed form asks for; `None` if there is none.
    """
    n = len(ids)
    asked, plan = plan is not None, plan or TokenFormPlan(-torch.inf)
    target = logits.gather(-1, ids[:, None])[:, 0]
    logits.scatter_(-1, ids[:, None], _NOWHERE)
    top, rivals = logits.new_empty(n), torch.empty_like(ids) if plan.rival else None
    sums = logits.new_empty(3, n)
    first = torch.zeros_like(ids, dtype=torch.bool)  # of two equally large; read only where they are
    overwrite = plan.limit == torch.inf and not plan.logits
    planes, known = scratch(1 if overwrite else 2, logits), target.tolist()
    for b in blocks(n, logits.shape[1], logits.device):
        block, top_b = logits[b], top[b]
        if rivals is None:
            torch.amax(block, -1, out=top_b)
            if any(map(operator.eq, top_b.tolist(), known[b])):
                first[b] = ids[b] < block.argmax(-1)
        else:
            _first_largest(block, top_b, rivals[b])
            block.scatter_(-1, rivals[b, None], _NOWHERE)
        planes = planes if len(block) == planes.shape[1] else planes[:, : len(block)]
        _reduce(block, top_b[:, None], planes, sums[: 3 if plan.squares else 2, b], overwrite)
        if rivals is not None:
            block.scatter_(-1, rivals[b, None], torch.ones_like(top_b)[:, None] if overwrite else top_b[:, None])
    if rivals is not None:
        first = ids < rivals
    sums = sums.double()
    closed = asked and (overwrite or bool((top.double() + plan.offset <= plan.limit).all()))
    if not closed:
        logits.scatter_(-1, ids[:, None], target[:, None])
    return TokenRows(
        ids=ids,
        others=logits if closed else None,
        target_logits=target.double() + plan.offset,
        rest_max=top.double() + plan.offset,
        rest_sum=sums[0] + (rivals is not None),
        rest_dot=sums[1],
        is_top1=(target > top) | (target == top) & first,
        rival_ids=rivals,
        sum_without_rival=None if rivals is None else sums[0],
        squares_without_rival=sums[2] if plan.squares else None,
    )


def _reduce(logits: Tensor, top: Tensor, planes: Tensor, sums: Tensor, overwrite: bool) -> None:
    """Sum a block's rows up, and leave the exponentials behind if it is to be overwritten."""
    shifted = torch.sub(logits, top, out=planes[0])
    rest = torch.exp(shifted, out=logits if overwrite else planes[1])
    torch.sum(rest, -1, out=sums[0])
    sums[1] = dot(rest, shifted)
    if len(sums) == 3:
        sums[2] = dot(rest, rest)


def _first_largest(logits: Tensor, value: Tensor, at: Tensor) -> None:
    """`max(-1)`, the first of equals, by way of the maxima of segments, which a CPU finds several times as fast."""
    segment = _segment(logits.shape[1]) if logits.device.type == "cpu" else 0
    if not segment:
        torch.max(logits, -1, out=(value, at))
        return
    rows = logits.reshape(-1, segment)
    value_of, which = torch.amax(rows, -1).view(len(logits), -1).max(-1)
    value.copy_(value_of)
    first = torch.arange(0, len(rows), len(rows) // len(logits))
    torch.add(rows.index_select(0, first + which).argmax(-1), which, alpha=segment, out=at)


@functools.cache
def _segment(width: int) -> int:
    """A divisor of a vocabulary's size that is worth it, or 0."""
    return next((size for size in range(2048, 255, -1) if width % size == 0 and width > size), 0)
