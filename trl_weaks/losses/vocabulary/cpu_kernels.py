"""Passes over a vocabulary compiled for CPUs: `row_kernels.cpp`, built with the package where there is a compiler.

PyTorch makes a pass over the cache for every elementary operation; compiled, each of the two jobs of a token loss
reads its row once. They take float32 rows on a CPU. Anything else keeps the passes of `row_reductions` and
`evidential_passes`, which these reproduce but for rounding.

There is one library per instruction set, free of PyTorch's headers (`[[tool.setuptools.ext-modules]]` in
`pyproject.toml`). The one for the instructions that PyTorch itself uses is loaded (`ATEN_CPU_CAPABILITY` chooses
both), or the next simpler one.
"""

import ctypes
import functools
import logging
from ctypes import c_float, c_int32, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from .row_reductions import Reduction

logger = logging.getLogger(__name__)

OVERWRITES = True  # see token_rows.Kernels
_VERSION = 1  # of what the functions take and compute, as in row_kernels.cpp
_LIBRARIES = {"AVX512": ("avx512", "avx2", "plain"), "AVX2": ("avx2", "plain")}  # PyTorch's word -> in this order
_ARGUMENTS = {
    "reduce_rows": [c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_int32, c_int32, c_int32],
    "evidential_rows": [
        *(c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p, c_int64, c_void_p, c_void_p),
        *(c_int32, c_int32),
    ],
}


@functools.cache
def find_kernels(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The library for this CPU; None, and once a line in the log, where none was built or none loads."""
    capability, reasons = torch.backends.cpu.get_cpu_capability(), []
    names = _LIBRARIES.get(capability, ("plain",))
    for path in (folder / f"_row_kernels_{name}{suffix}" for name in names for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            try:
                return _opened(path)
            except (OSError, AttributeError) as error:  # no OpenMP in this process, or a file of another edition
                reasons.append(f"{path.name}: {error}")
    cause = "; ".join(reasons) or "none was built, for want of a C++ compiler"
    logger.info("The losses use PyTorch's operations, since no compiled passes load here (%s).", cause)
    return None


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    if (version := library.row_kernels_version()) != _VERSION:
        raise OSError(f"built from version {version} of row_kernels.cpp, not {_VERSION}")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def load_kernels() -> ctypes.CDLL:
    """
    The library for this CPU.

    Raises:
        RuntimeError: There is none.
    """
    if (library := find_kernels()) is None:
        raise RuntimeError(
            "use_cpu_kernels=True asks for passes that are compiled when trl_weaks is installed, and none load here. "
            "Install a C++ compiler (g++), then trl_weaks from source: `pip install --force-reinstall --no-deps "
            "--no-binary trl-weaks trl-weaks`, in a clone `pip install --editable .`; or leave use_cpu_kernels unset, "
            "which changes speed alone."
        )
    return library


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def can_run(rows: Tensor) -> bool:
    """Whether the kernels take these rows, `(n, V)`."""
    return rows.dtype == torch.float32 and rows.device.type == "cpu" and rows.is_contiguous()


def compiled_reduce_rows(logits: Tensor, ids: Tensor, rival: bool, overwrite: bool) -> Reduction:
    """`row_reductions.reduce_rows`; squares are there without `overwrite`."""
    n = len(ids)
    top, largest = logits.new_empty(n), torch.empty_like(ids)
    sums = torch.zeros(n, 3, dtype=torch.float64)
    pointers = [_address(x) for x in (top, largest, sums)]
    load_kernels().reduce_rows(_address(logits), *logits.shape, *pointers, rival, overwrite, torch.get_num_threads())
    return Reduction(top, largest if rival else None, ids < largest, sums.T)


def compiled_evidential_rows(
    logits: Tensor, offset: float, keeps: Tensor, columns: Tensor, shares: Tensor, write: bool
) -> tuple[Tensor, Tensor]:
    """
    The sums of an evidential loss over the tokens of `(n, V)` logits, and its gradient, written over them.

    Args:
        logits: Stay what they are, or become the gradient.
        offset: Added to the logits.
        keeps: a of each of G labels, which keeps the evidence `e~ = e (1 + a e)`, `(n, G)`; 0 for hard labels.
        columns: weight, lift and pull of the gradient `x~ (weight x~ n(x~) + lift + pull e~)`, `(n, G, 3)`.
        shares: share and m of the likelihood of soft labels, whose gradient is `e (share + m x)`, `(n, 2)`; `(n, 1)`
            where there are none.
        write: Whether the gradient is wanted.

    Returns:
        Sums of c(e~), `(n, G)`, and of `e ln(1 + e)`, `(n,)`, 0 where there are no soft labels; float64.
    """
    sums = torch.zeros(len(logits), keeps.shape[1] + 1, dtype=torch.float64)
    shares = shares if shares.shape[1] == 2 else None
    keeps, columns, shares = (None if x is None else x.float().contiguous() for x in (keeps, columns, shares))
    load_kernels().evidential_rows(
        *(_address(logits), *logits.shape, offset, _address(keeps), _address(columns), keeps.shape[1]),
        *(_address(shares), _address(sums), write, torch.get_num_threads()),
    )
    return sums[:, :-1], sums[:, -1]
