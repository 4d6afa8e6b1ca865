"""Dense reductions of rows of vocabulary logits, and what dense passes over such rows share. n rows, V vocabulary.

A pass runs over blocks of rows: on a CPU of a size that stays in the cache, on a GPU of one that bounds the memory.
"""

import functools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

# Stands for "no logit" at a token treated apart: far below any logit, and 0 times its exponential is still 0.
NOWHERE = -1e30
# On a CPU, dense passes run over blocks of about this many logits: 0.25 MiB, so that five temporaries fit beside it
# into a second-level cache of 2 MiB. Half of it costs more calls, twice of it leaves the cache.
_BLOCK = 65_536
# Elsewhere: large, since each block costs the start of some thirty kernels, but five temporaries of 128 MiB at most.
_LARGE_BLOCK = 2**25
# Classes that are added up in float32; what they come to, in float64: a divergence of 1e4 nats is the difference of
# sums as large as itself, and a sum in float32 ends in rounding to 1e-3.
_RUN = 256


@dataclass(frozen=True)
class Reduction:
    """
    What one sweep over rows found.

    Args:
        top: Largest logit of each row, `(n,)`, in the dtype of the logits.
        rivals: The first token that has it, `(n,)`; `None` unless asked for.
        first: Whether the emitted token stands before that one, `(n,)` bool; right where its logit is as large.
        sums: `(3, n)` float64, sums over tokens, without the rival where one was asked for, of `r = exp(z - top)`,
            of `r (z - top)`, and, if asked for, of `r r`.
    """

    top: Tensor
    rivals: Tensor | None
    first: Tensor
    sums: Tensor


class RunSums:
    """Sums over the classes of `(n, V)` planes that are there one block at a time, in float64 from short runs on."""

    def __init__(self, like: Tensor) -> None:
        self.parts = like.new_zeros(len(like), -(-like.shape[1] // _RUN))

    def collect(self, plane: Tensor, b: slice, *more: Tensor) -> None:
        """Take in the rows `b`, `(block, up to V)`; and more terms of them, `(block, 1)` each."""
        parts, whole = self.parts[b], plane.shape[1] // _RUN
        torch.sum(plane[:, : whole * _RUN].unflatten(1, (whole, _RUN)), -1, out=parts[:, :whole])
        if whole * _RUN < plane.shape[1]:
            torch.sum(plane[:, whole * _RUN :], -1, out=parts[:, whole])
        for term in more:
            parts[:, :1] += term

    def total(self, b: slice) -> Tensor:
        """`(block,)`."""
        return self.parts[b].sum(-1, dtype=torch.float64)


def blocks(rows: int, width: int, device: torch.device) -> list[slice]:
    """Row blocks of a dense pass."""
    size = max(1, (_BLOCK if device.type == "cpu" else _LARGE_BLOCK) // width)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def scratch(count: int, like: Tensor) -> Tensor:
    """`count` planes, each of the size of one block of `like`, `(n, V)`, which all its blocks share."""
    first = next(iter(blocks(*like.shape, like.device)), slice(0, 0))
    return like.new_empty(count, first.stop, like.shape[1])


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Sum over classes of a product, `(n, V)` twice -> `(n,)`; on a GPU not as a matrix product, which may round."""
    return torch.linalg.vecdot(one, other) if one.device.type == "cpu" else (one * other).sum(-1)


def reduce_rows(
    logits: Tensor, ids: Tensor, target: Tensor, rival: bool, squares: bool, precise: bool, overwrite: bool
) -> Reduction:
    """
    Reduce `(n, V)` logits that hold `NOWHERE` at the emitted tokens.

    Args:
        logits: Keep what they hold, but for `NOWHERE` at the rivals; or become `exp(z - top)`.
        ids: Emitted tokens, `(n,)`.
        target: Their logits, `(n,)`.
        rival: Whether to look for the rivals.
        squares: Whether to add up squares.
        precise: Whether the first sum is to be better than float32.
        overwrite: Whether to leave the exponentials behind.
    """
    n = len(ids)
    top, rivals = logits.new_empty(n), torch.empty_like(ids) if rival else None
    sums, runs = logits.new_zeros(3, n), RunSums(logits) if precise else None
    first = torch.zeros_like(ids, dtype=torch.bool)
    planes, known = scratch(1 if overwrite else 2, logits), target.tolist()
    for b in blocks(n, logits.shape[1], logits.device):
        block, top_b = logits[b], top[b]
        if rivals is None:
            torch.amax(block, -1, out=top_b)
            if any(map(operator.eq, top_b.tolist(), known[b])):
                first[b] = ids[b] < block.argmax(-1)
        else:
            _first_largest(block, top_b, rivals[b])
            block.scatter_(-1, rivals[b, None], NOWHERE)
        planes = planes if len(block) == planes.shape[1] else planes[:, : len(block)]
        shifted = torch.sub(block, top_b[:, None], out=planes[0])
        rest = torch.exp(shifted, out=block if overwrite else planes[1])
        if runs is None:
            torch.sum(rest, -1, out=sums[0, b])
        else:
            runs.collect(rest, b)
        sums[1, b] = dot(rest, shifted)
        if squares:
            sums[2, b] = dot(rest, rest)
        if rivals is not None and overwrite:
            block.scatter_(-1, rivals[b, None], 1)
    sums = sums.double()
    if runs is not None:
        sums[0] = runs.total(slice(0, n))
    return Reduction(top, rivals, first if rivals is None else ids < rivals, sums)


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
    return next((size for size in range(1024, 255, -1) if width % size == 0 and width > size), 0)
