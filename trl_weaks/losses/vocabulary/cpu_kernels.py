"""Passes over a vocabulary compiled for the CPU of this machine: `row_kernels.cpp`, built by PyTorch's own loader.

PyTorch makes a pass over the cache for every elementary operation; compiled, each of the two jobs of a token loss
reads its row once. They take float32 rows on a CPU. Anything else keeps the passes of `row_reductions` and
`evidential_passes`, which these reproduce but for rounding.
"""

import functools
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .row_reductions import Reduction

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("row_kernels.cpp")
# The last two let roundings and comparisons become vector instructions. Never -ffast-math: it hides what is not a
# number, and flushes tiny numbers to 0 in the whole process.
_FLAGS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
_BUILD_SECONDS = 600  # far more than a build takes
_INSTRUCTIONS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}


@functools.cache
def load_kernels() -> ModuleType:
    """
    Compile the kernels, about ten seconds, or load what an earlier run has compiled.

    They lie where PyTorch keeps its extensions (`TORCH_EXTENSIONS_DIR`), apart by what they were compiled for.

    Raises:
        RuntimeError: There is no C++ compiler, or no ninja.
    """
    from torch.utils.cpp_extension import get_default_build_root, load

    capability = torch.backends.cpu.get_cpu_capability()
    made_for = (capability, f"torch{torch.__version__}", f"python{platform.python_version()}")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    folder = root / "trl_weaks" / "-".join(made_for).replace(" ", "_")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _wait_for_nobody(folder / "lock")
        with _programs_of_this_environment():
            return load(
                name="row_kernels",
                sources=[str(_SOURCE)],
                extra_cflags=[*_FLAGS, *_INSTRUCTIONS.get(capability, [])],
                extra_ldflags=["-fopenmp"],
                build_directory=str(folder),
            )
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise RuntimeError(
            "use_cpu_kernels compiles a C++ file with this machine's compiler (g++ or clang) and ninja, which failed. "
            "Install a compiler and `pip install ninja`, or leave use_cpu_kernels off, which changes speed alone. "
            f"The cause: {error}"
        ) from error


def _wait_for_nobody(lock: Path) -> None:
    """PyTorch waits for its lock without end, and a process that was killed leaves it behind."""
    if not lock.exists():
        return
    if time.time() - lock.stat().st_mtime > _BUILD_SECONDS:
        logger.warning("Removing %s: who compiled the CPU kernels must have been killed.", lock)
        lock.unlink(missing_ok=True)
    else:
        logger.warning("Another process compiles the CPU kernels; if none does, remove %s.", lock)


@contextmanager
def _programs_of_this_environment() -> Iterator[None]:
    """Find ninja beside a Python that was called by its path, in an environment that was not activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def can_run(rows: Tensor) -> bool:
    """Whether the kernels take these rows, `(n, V)`."""
    return rows.dtype == torch.float32 and rows.device.type == "cpu" and rows.is_contiguous()


def compiled_reduce_rows(logits: Tensor, ids: Tensor, rival: bool, overwrite: bool) -> Reduction:
    """`row_reductions.reduce_rows`; squares are there without `overwrite`."""
    n = len(ids)
    top, largest = logits.new_empty(n), torch.empty_like(ids)
    sums = torch.zeros(n, 3, dtype=torch.float64)
    load_kernels().reduce_rows(logits, top, largest, sums, rival, overwrite)
    return Reduction(top, largest if rival else None, ids < largest, sums.T)


def compiled_evidential_rows(
    logits: Tensor, offset: float, keeps: Tensor, columns: Tensor, shares: Tensor | None, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    """
    The sums of an evidential loss over the tokens of `(n, V)` logits, and its gradient, written over them.

    Args:
        logits: Stay what they are without `needs_grad`.
        offset: Added to the logits.
        keeps: a of each of G labels, which keeps the evidence `e~ = e (1 + a e)`, `(n, G)`; 0 for hard labels.
        columns: weight, lift and pull of the gradient `x~ (weight x~ n(x~) + lift + pull e~)`, `(n, G, 3)`.
        shares: share and m of the likelihood of soft labels, whose gradient is `e (share + m x)`, `(n, 2)`.
        needs_grad: Whether to write the gradient.

    Returns:
        Sums of c(e~), `(n, G)`, and of `e ln(1 + e)`, `(n,)`, 0 without `shares`; float64.
    """
    sums = torch.zeros(len(logits), keeps.shape[1] + 1, dtype=torch.float64)
    given = [x.float().contiguous() for x in (keeps, columns, logits.new_empty(0, 2) if shares is None else shares)]
    load_kernels().evidential_rows(logits, offset, *given, sums, needs_grad)
    return sums[:, :-1], sums[:, -1]
