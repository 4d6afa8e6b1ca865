"""Two processes train what one process trains, with each pair's own epsilon and weight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("preference_runs.py")


def run(folder, processes):
    command = [sys.executable, str(SCRIPT), str(folder)]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *launch, str(SCRIPT), str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(folder / "logs.json") as file:
        return json.load(file), load_file(folder / "model.safetensors")


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    (one, weights_one), (two, weights_two) = (run(f, n) for f, n in zip(folders, (1, 2), strict=True))
    assert (one["world"], two["world"]) == (1, 2)
    for a, b in zip(one["logs"][:4], two["logs"][:4], strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, abs=2e-5), name
    for name, weight in weights_one.items():
        assert (weight - weights_two[name]).abs().max() <= 1e-6, name
