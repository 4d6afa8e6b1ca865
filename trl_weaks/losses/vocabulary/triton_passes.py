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
from types import ModuleType

import torch
from torch import Tensor

from .row_reductions import Reduction

logger = logging.getLogger(__name__)

OVERWRITES, WITHOUT_SUMS = False, True  # see token_rows.Kernels
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Columns of a block, and warps of a program: 16 and 8 elements for each thread. Neither is measured on a GPU yet. They
# are fixed rather than tuned at run time, which would let the same run end in other bits.
_REDUCING = {"BLOCK": 4_096, "num_warps": 8}
_EVIDENTIAL = {"BLOCK": 2_048, "num_warps": 8}
_failures: list[str] = []


@functools.cache
def find_kernels() -> ModuleType | None:
    """The kernels; None, and once a line in the log, where Triton cannot be imported."""
    try:
        from . import triton_kernels
    except Exception as error:  # not installed, or at odds with this Python or NumPy
        _give_up(f"Triton cannot be imported: {error}")
        return None
    return triton_kernels


def load_kernels(device: torch.device) -> ModuleType:
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
    if not _launch("reduce_rows", (n,), *given, RIVAL=rival, **_fitting(_REDUCING, logits)):
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
    ids = torch.stack([i for i, _ in columns], -1) if columns else None
    values = torch.stack([v.float() for _, v in columns], -1) if columns else None
    options = _fitting(_REDUCING, logits)
    given = (logits, out, tops.float(), scales.float(), ids, values, logits.shape[1], logits.stride(0), out.stride(0))
    grid = (len(logits), -(-logits.shape[1] // options["BLOCK"]))
    if _launch("scaled_exponentials", grid, *given, COLUMNS=len(columns), **options):
        return out
    exact = torch.exp(logits.float() - tops.float()[:, None]).mul_(scales.float()[:, None])
    for at, value in columns:
        exact.scatter_add_(-1, at[:, None], value.float()[:, None])
    return out.copy_(exact)


def compiled_evidential_rows(
    logits: Tensor, offset: float, keeps: Tensor, columns: Tensor, shares: Tensor, out: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """
    `cpu_kernels.compiled_evidential_rows`, whose gradient goes to `out`, `(n, V)` of any float type, the logits
    themselves or other memory; None where it fails, before it wrote anything. The sum of `e ln(1 + e)` is there where
    a mass is.
    """
    n, groups = keeps.shape
    keeps, columns, shares = (x.float().contiguous() for x in (keeps, columns, shares))
    sums = logits.new_empty(n, groups + 1, dtype=torch.float64)
    target, soft = logits if out is None else out, shares.shape[1] == 2
    shares = shares if soft else torch.cat([shares, torch.zeros_like(shares)], -1)
    options = _fitting(_EVIDENTIAL, logits) | {"SOFT": soft, "SLOTS": 1 << max(0, groups - 1).bit_length()}
    given = (logits, target, keeps, columns, shares, sums, logits.shape[1], logits.stride(0), target.stride(0))
    if not _launch("evidential_rows", (n,), *given, float(offset), groups, int(out is not None), **options):
        return None
    return sums[:, :-1], sums[:, -1]


def _fitting(options: dict, logits: Tensor) -> dict:
    """No more columns than a short row has."""
    return options | {"BLOCK": min(options["BLOCK"], max(16, 1 << (logits.shape[1] - 1).bit_length()))}


def _launch(name: str, grid: tuple[int, ...], *given, **options) -> bool:
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
            getattr(find_kernels(), name)[grid](*given, **options)
    except Exception as error:
        _give_up(f"{name}: {type(error).__name__}: {error}")
        return False
    return True


def _give_up(cause: str) -> None:
    _failures.append(cause)
    logger.warning("The losses use PyTorch's operations, since Triton's kernels do not run here (%s).", cause)
