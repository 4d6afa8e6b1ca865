"""The cells that are proven, how they are launched, what they leave behind; as a script, the table of what passed.

`pytest tests/distributed --basetemp FOLDER`, then `python tests/distributed/launches.py FOLDER`.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import processes
from safetensors.torch import load_file

from trl_weaks.losses.vocabulary.cpu_kernels import find_kernels

HERE = Path(__file__).parent
SCRIPT = HERE / "cells.py"
LIMIT = float(os.environ.get("TRL_WEAKS_TIMEOUT", 300)) * 3  # seconds

OBJECTIVES = ("soft", "evidential", "classification", "cdpo")
VARIANTS = ("soft/uneven", "evidential/silent", "classification/balanced")
ADAPTERS = ("evidential/lora", "classification/lora", "cdpo/lora")
STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
COMPILER = bool(shutil.which("g++") and shutil.which("ninja"))
KERNELS = find_kernels() is not None

# The default tests: the plainest and the most cut strategy with every objective, the two between with two each, and
# the variants where they differ most.
CORE = [f"{strategy}/{objective}" for strategy in ("ddp", "zero3") for objective in OBJECTIVES]
CORE += ["fsdp2/evidential", "fsdp2/classification", "zero2/soft", "zero2/cdpo"]
CORE += ["ddp/evidential/sgd", "zero3/evidential/sgd"]
CORE += ["ddp/soft/uneven", "zero3/evidential/silent", "zero3/soft/bf16", "zero3/evidential/generate"]
CORE += ["zero3/evidential/bf16/sgd"]
# The rest, behind `make test-distributed`.
REST = [f"{strategy}/{objective}" for strategy in STRATEGIES for objective in (*OBJECTIVES, *VARIANTS, *ADAPTERS)]
REST += [
    "ddp/soft/after",
    "zero3/evidential/born",
    "zero3/soft/shifted/born",
    "ddp/soft/shifted",
    "fsdp2/soft/shifted",
]
REST += [f"{strategy}/{objective}/sgd" for strategy in STRATEGIES for objective in OBJECTIVES]
REST += ["zero2/evidential/bf16/sgd"]
REST += ["ddp/evidential/sgd/kernels", "zero3/evidential/sgd/kernels"]
REST += ["zero3/evidential/checkpointing", "zero2/soft/bf16", "zero1/evidential"]
REST += ["ddp/evidential/generate", "zero2/evidential/generate", "zero3/evidential/lora/generate"]
REST += ["zero2_offload/evidential", "zero3_offload/evidential", "zero3_offload/cdpo"]
REST = [cell for cell in REST if cell not in CORE]
# DeepSpeed's own optimizer in host memory, which is compiled at its first use.
COMPILED = ["zero2_offload/evidential/cpuadam", "zero3_offload/evidential/cpuadam"]
# Options that change how a cell runs, never what it trains: its reference is the cell without them.
HOW = ("after", "born", "checkpointing", "bf16", "cpuadam", "kernels", "die", "resume")


def references(cells: list[str]) -> list[str]:
    """The cells of one process that these are compared with, and what those would have been without rounding."""
    ones = [reference(cell) for cell in cells]
    exacts = [exact(cell) for cell in cells if "bf16" not in cell]
    return list(dict.fromkeys(ones + exacts))


def runnable(cells: list[str]) -> list[str]:
    """Those whose libraries are installed; the others' tests are skipped with the reason."""
    cells = [cell for cell in cells if KERNELS or not cell.endswith("/kernels")]
    return [cell for cell in cells if DEEPSPEED or not (cell.startswith("zero") or cell.endswith("/after"))]


def torchrun(arguments: list, world: int) -> subprocess.CompletedProcess:
    """Run a script through the launcher on so many CPU processes, in an environment of its own."""
    # With ACCELERATE_USE_CPU, accelerate turns DeepSpeed off and says nothing.
    environment = processes.plain_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=LIMIT
    )


def launch(folder: Path, cells: list[str], world: int, check: bool = True) -> subprocess.CompletedProcess:
    """Run the cells on CPU processes of their own, one launch for all of them; where a failure is expected, through
    torchrun, whose message is looked at."""
    arguments = [SCRIPT, folder, *cells]
    done = processes.run(arguments, world, timeout=LIMIT) if check else torchrun(arguments, world)
    if check:
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    return done


def place(folder: Path, cell: str) -> Path:
    """Where a cell left its model; one that resumes goes on in the folder of the one that died."""
    strategy, *rest = cell.split("/")
    return folder / strategy / "-".join(rest).replace("-resume", "-die")


def reference(cell: str) -> str:
    """The cell of one process whose weights a cell must reach."""
    return "/".join(["single", *(part for part in cell.split("/")[1:] if part not in HOW)])


def exact(cell: str) -> str:
    """The same in float64; what is asked of the student in between changes no weights."""
    return reference(cell).removesuffix("/generate") + "/double"


def seen(folder: Path, cell: str) -> dict:
    return json.loads((place(folder, cell) / "seen.json").read_text())


def weights(folder: Path, cell: str, when: str = ".") -> dict:
    """The one safetensors file that `save_model` left: the whole model, or the adapter; of one process, also at the
    `"start"`."""
    files = list((place(folder, cell) / when).glob("*model*.safetensors"))
    assert len(files) == 1, files
    return load_file(files[0])


def distance(folder: Path, cell: str, other: str) -> float:
    """Largest difference of any weight of two cells, which must have the same weights."""
    one, two = weights(folder, cell), weights(folder, other)
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def rounding(folder: Path, cell: str) -> float:
    """How far a cell's weights are from those of float64: the norm over that of what training changed."""
    one, start = weights(folder, cell), weights(folder, exact(cell), "start")
    other = weights(folder, exact(cell))
    assert one.keys() == other.keys()
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in other)
    moved = sum(float((other[name].double() - start[name].double()).square().sum()) for name in other)
    return (apart / moved) ** 0.5


def table(folder: Path) -> str:
    """Markdown: each cell that ran below a folder, how far it is from one process, and how long it took."""
    lines = ["| cell | engine | processes | parameters held by rank 0 | largest weight difference | seconds |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    cells = {json.loads(file.read_text())["cell"]: file for file in sorted(folder.rglob("seen.json"))}
    for cell, file in sorted(cells.items()):
        found, root = json.loads(file.read_text()), file.parents[2]
        share = f"{found['local']:,} of {found['total']:,}"
        stage = f", stage {found['stage']}" if "stage" in found else ""
        far = "reference" if cell.startswith("single") else "not compared, bfloat16"
        if far != "reference" and "bf16" not in cell:
            far = f"{distance(root, cell, reference(cell)):.1e}"
        row = (f"`{cell}`", found["engine"] + stage, found["processes"], share, far, f"{found['seconds']:.1f}")
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
