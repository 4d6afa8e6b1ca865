"""The device that `gpu.py` measures on: its clock, its memory, and ways timed in turns."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable

import torch
from process_memory import mebibytes

# Dense bfloat16 FLOP/s, of the data sheets; the first name that a device's holds.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


class Chip:
    """A CUDA device, or the CPU in its place, whose figures then say nothing."""

    def __init__(self, rehearse: bool):
        if not (rehearse or torch.cuda.is_available()):
            raise SystemExit("PyTorch finds no CUDA device here; `--rehearse` tries the script on the CPU.")
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.cuda = not rehearse
        self.name = torch.cuda.get_device_name() if self.cuda else "CPU (rehearsal)"
        self.gibibytes = torch.cuda.get_device_properties(0).total_memory / 2**30 if self.cuda else 0.0
        self.peak_flops = peak(self.name)

    def now(self) -> float:
        """Seconds by the clock, once all work that was given is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def clear(self) -> None:
        """Give back what nothing refers to, and start anew to look for the most that is held."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    def held(self) -> float:
        """MiB held now."""
        return torch.cuda.memory_allocated() / 2**20 if self.cuda else mebibytes("VmRSS")

    def most(self) -> float:
        """MiB held at most since `clear`."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.cuda else mebibytes("VmHWM")


def peak(device: str) -> float | None:
    """FLOP/s of a device by its name; None of one that is not known."""
    return next((flops for name, flops in PEAKS.items() if name in device), None)


def in_turns(chip: Chip, ways: dict[str, Callable[[], object]], rounds: int, until: float) -> dict[str, dict]:
    """
    Name -> seconds of each round, most MiB held, and MiB above what was held before; a way that fails says why.

    Each runs once before (libraries load, kernels are compiled, memory is mapped), where its memory is measured. The
    rounds then go through all ways, there and back. They end early where the next one would be over after `until`.
    """
    found = {name: _first(chip, way) for name, way in ways.items()}
    ready = [name for name in ways if "error" not in found[name]]
    for number in range(rounds):
        start = chip.now()
        for name in ready[:: -1 if number % 2 else 1]:
            before = chip.now()
            try:
                ways[name]()
                found[name]["seconds"].append(chip.now() - before)
            except Exception as error:
                found[name]["error"] = said(error)
        ready = [name for name in ready if "error" not in found[name]]
        if time.perf_counter() + (time.perf_counter() - start) > until:
            break
    return found


def _first(chip: Chip, way: Callable[[], object]) -> dict:
    chip.clear()
    before = chip.held()
    try:
        way()
        chip.now()
    except Exception as error:  # too little memory; a library that is missing, too old, or takes other arguments
        return {"error": said(error), "seconds": []}
    finally:
        gc.collect()
    return {"seconds": [], "mib": chip.most(), "above": chip.most() - before}


def said(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def ratios(found: dict[str, dict], over: str, under: str) -> list[float]:
    """Of each round, one way's seconds over those of another; none where either did not run, or failed."""
    both = [found.get(name, {"error": "left out"}) for name in (over, under)]
    if any("error" in one for one in both):
        return []
    pairs = zip(*(one["seconds"] for one in both), strict=True)
    return [a / b for a, b in pairs]


def spread(values: list[float], digits: int = 3) -> str:
    """Median and range."""
    if not values:
        return ""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def goal(what: str, values: list[float], limit: float) -> dict:
    """What is asked of the median of ratios, and whether it is so; None where it was not measured."""
    value = statistics.median(values) if values else None
    return {"what": what, "value": value, "at most": limit, "met": None if value is None else value <= limit}
