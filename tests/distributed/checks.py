"""What every cell is held to, whichever test launched it."""

from pathlib import Path

import torch
from launches import reference, rounding, seen, weights

ENGINES = {"single": "Llama", "ddp": "DistributedDataParallel", "zero": "DeepSpeedEngine", "fsdp2": "FSDPLlama"}


def check_active(folder: Path, cell: str) -> None:
    """The strategy that the cell names is the one that trained: engine, stage, processes, what each rank holds."""
    found, (strategy, *options) = seen(folder, cell), cell.split("/")
    kind = "zero" if strategy.startswith("zero") else strategy
    wrapped = found["engine"]
    assert wrapped.startswith(ENGINES[kind]) or (kind == "single" and "lora" in options and "Peft" in wrapped) or (
        kind == "fsdp2" and wrapped.startswith("FSDPPeft")
    ), wrapped  # fmt: skip
    processes = 1 if strategy == "single" else 2
    assert (found["processes"], found["group"]) == (processes, processes)
    total, local = found["total"], found["local"]
    assert found["moments"] == 0 if "sgd" in options else 0 < found["moments"] <= total
    if kind == "zero":
        assert found["stage"] == int(strategy[4])
        assert ("cpu" in str(found["offload"])) == strategy.endswith("_offload")
    if strategy.startswith("zero3") or kind == "fsdp2":
        assert local < 0.6 * total, "each rank holds about half"
    else:
        assert local == total
    if "lora" not in options:
        share = 0.6 if kind in ("zero", "fsdp2") else 1.0
        assert found["moments"] <= share * total, "the optimizer's states are shared out"


def check_equal(folder: Path, cell: str) -> None:
    """Two processes reach the weights of one: they are no farther from float64's, and so from one another, than an
    order of magnitude more than one process is. The ratio was 0.5 to 3 where it was measured."""
    one = rounding(folder, reference(cell))
    assert 0 < one < 1e-4, "float32, and nothing worse, lies between the two"
    assert rounding(folder, cell) <= 10 * one
    logs, expected = (
        [(log["step"] if "step" in log else i, log["loss"]) for i, log in enumerate(seen(folder, c)["logs"])]
        for c in (cell, reference(cell))
    )
    assert len(logs) == len(expected) == 6
    for (_, loss), (_, other) in zip(logs, expected, strict=True):
        assert abs(loss - other) <= 1e-4 * max(1.0, abs(other))


def check_near(folder: Path, cell: str, start: dict) -> None:
    """bfloat16 on two processes makes the updates that float32 makes on one: as long in their direction, to 3 %, and
    not much beside it, where the rounding of the weights lies."""
    found, exact = weights(folder, cell), weights(folder, reference(cell))
    ours, theirs = (
        torch.cat([(w[name].double() - start[name].detach().double()).flatten() for name in start])
        for w in (found, exact)
    )
    along = float(ours @ theirs / (theirs @ theirs))
    assert abs(along - 1) <= 0.03
    assert 0 < float((ours - theirs).norm() / theirs.norm()) <= 0.2


def check_moved(folder: Path, cell: str, start: dict) -> None:
    """Training moved the weights by far more than the tolerance: equality says something."""
    found = weights(folder, cell)
    assert max(float((found[name] - start[name].detach()).abs().max()) for name in start) > 1e-3
