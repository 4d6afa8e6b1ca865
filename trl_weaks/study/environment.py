"""Hardware and library versions behind the results."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trl_weaks._version import __version__

PACKAGES = ("trl", "transformers", "torch", "accelerate", "datasets", "peft", "numpy")


def describe_environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Versions, machine and date for the report; no host name, no user, no path.

    An accelerator is for the caller to add (`{**describe_environment(), "accelerator": ...}`).
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {len(_usable_cores())} usable cores, {_memory()}, {platform.system()}",
        "versions": {"trl-weaks": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB memory"
