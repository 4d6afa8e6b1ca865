"""Passes over a vocabulary by Triton, for CUDA: the kernels of `triton_kernels`, and when they run.

They take float32, bfloat16 and float16 rows, and the trainers choose them by themselves on CUDA. Triton is imported
when rows on such a device are there, never before. Where it is missing, or one of its kernels fails to compile, the
losses keep PyTorch's operations, and the log says so once. Under Triton's interpreter (`TRITON_INTERPRET=1`), which
is how they are tested, they take rows on a CPU as well.
"""

import functools
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .row_reductions import Reduction

logger = logging.getLogger(__name__)

OVERWRITES = False  # see token_rows.Kernels
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Columns of a block, and warps of a program: 16 and 8 elements for each thread. Neither is measured on a GPU yet. They
# are fixed rather than tuned at run time, which would let the same run end in other bits.
_REDUCING = {"BLOCK": 4_096, "num_warps": 8}
_EVIDENTIAL = {"BLOCK": 2_048, "num_warps": 8}
_failures: list[str] = []


@functools.cache
def find_kernels() -> dict[str, Any] | None:
    """The kernels by name; None, and once a line in the log, where Triton cannot be imported."""
    try:
        from . import triton_kernels, triton_token_kernels
    except Exception as error:  # not installed, or at odds with this Python or NumPy
        _give_up(f"Triton cannot be imported: {error}")
        return None
    return vars(triton_kernels) | vars(triton_token_kernels)


def load_kernels(device: torch.device) -> dict[str, Any]:
    """
    The kernels, of which one is tried.

    Raises:
        RuntimeError: Triton is missing or does not compile it.
    """
    if (kernels := find_kernels()) is not None and not _failures:
        row = torch.zeros(1, 16, device=device)
        if compiled_reduce_rows(row, torch.zeros(1, dtype=torch.long, device=device), False) is not None:
            return kernels
    raise RuntimeError(
        f"use_triton_kernels=True asks for Triton's kernels, and they do not run here ({'; '.join(_failures)}). "
        "Install the edition of Triton that belongs to this PyTorch (`pip install 'trl-weaks[gpu]'`) and a C "
        "compiler, or leave use_triton_kernels unset, which changes speed alone."
    )


def can_run(rows: Tensor) -> bool:
    """Whether the kernels take these rows, `(n, V)`."""
    known = rows.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    fits = known and rows.dtype in _DTYPES and rows.dim() == 2 and (rows.stride(1) == 1 or rows.shape[1] == 1)
    return fits and find_kernels() is not None and not _failures


def compiled_reduce_rows(logits: Tensor, ids: Tensor, rival: bool, overwrite: bool = False) -> Reduction | None:
    """`row_reductions.reduce_rows`, squares and all, of logits that it leaves alone; None where it fails."""
    n = len(ids)
    top, largest = logits.new_empty(n, dtype=torch.float32), torch.empty_like(ids)
    sums = logits.new_empty(n, 3, dtype=torch.float64)
    given = (logits, top, largest, sums, logits.shape[1], logits.stride(0))
    if not launch("reduce_rows", (n,), *given, RIVAL=rival, **_fitting(_REDUCING, logits)):
        return None
    return Reduction(top, largest if rival else None, ids < largest, sums.T)


def scaled_exponentials(
    logits: Tensor, tops: Tensor, scales: Tensor, columns: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> Tensor:
    """
    `exp(logits - tops) scales` with values added at ids, in one pass.

    Args:
        logits: `(n, V)`; where they are of `dtype`, the result is written over them.
        tops: `(n,)`, as are the next.
        scales: Factor of each row.
        columns: Pairs of ids and values, as in `LogitGradient`.
        dtype: Of the result.
    """
    out = logits if logits.dtype == dtype else torch.empty_like(logits, dtype=dtype)
    ids = side_by_side([i for i, _ in columns]) if columns else None
    values = side_by_side([v.float() for _, v in columns]) if columns else None
    options = _fitting(_REDUCING, logits)
    given = (logits, out, tops.float(), scales.float(), ids, values, logits.shape[1], logits.stride(0), out.stride(0))
    grid = (len(logits), -(-logits.shape[1] // options["BLOCK"]))
    if launch("scaled_exponentials", grid, *given, COLUMNS=len(columns), **options):
        return out
    exact = torch.exp(logits.float() - tops.float()[:, None]).mul_(scales.float()[:, None])
    for at, value in columns:
        exact.scatter_add_(-1, at[:, None], value.float()[:, None])
    return out.copy_(exact)


def evidential_rows(
    logits: Tensor,
    offset: float,
    keeps: Tensor,
    columns: Tensor,
    shares: Tensor,
    near: Tensor,
    sums: Tensor,
    out: Tensor,
    soft: bool,
    write: int,
) -> bool:
    """
    `cpu_kernels.compiled_evidential_rows` into `sums` and `out`, `(n, V)` of any float type, the logits themselves or
    other memory; False where it fails, before it wrote anything.

    Args:
        keeps, columns, shares: float32; `shares` of two columns, whatever the labels.
        near: Rows whose gradient waits for their sums, `(n,)` int32.
        soft: Whether there are soft labels, whose sum of `e ln(1 + e)` is wanted.
        write: 0 for sums alone, 1 for sums and the gradient of the rows that do not wait, 2 for that of those that do.
    """
    groups = keeps.shape[1]
    options = _fitting(_EVIDENTIAL, logits) | {"SOFT": soft, "SLOTS": 1 << max(0, groups - 1).bit_length()}
    given = (logits, out, keeps, columns, shares, near, sums, logits.shape[1], logits.stride(0), out.stride(0))
    return launch("evidential_rows", (len(logits),), *given, float(offset), groups, write, **options)


def side_by_side(numbers: Sequence[Tensor]) -> Tensor:
    """`(n,)` each -> `(n, columns)`, contiguous; without a copy where it is one column."""
    return torch.stack(list(numbers), -1) if len(numbers) > 1 else numbers[0].contiguous()[:, None]


def _fitting(options: dict, logits: Tensor) -> dict:
    """No more columns than a short row has."""
    return options | {"BLOCK": min(options["BLOCK"], max(16, 1 << (logits.shape[1] - 1).bit_length()))}


def launch(name: str, grid: tuple[int, ...], *given, **options) -> bool:
    """
    Whether the kernel was started. What a kernel of Triton fails with before, of the compiler, the linker or the
    driver, has no common class; a fault of the GPU itself is met again by the operation that stands in.
    """
    if _failures:
        return False
    if grid[0] == 0:
        return True
    first = given[0]
    try:
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            find_kernels()[name][grid](*given, **options)
    except Exception as error:
        _give_up(f"{name}: {type(error).__name__}: {error}")
        return False
    return True


def _give_up(cause: str) -> None:
    _failures.append(cause)
    logger.warning("The losses use PyTorch's operations, since Triton's kernels do not run here (%s).", cause)
