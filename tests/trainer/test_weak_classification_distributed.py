"""Two processes train what one process trains, and share one prediction window."""

import json
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("classification_runs.py")


def run(folder: Path, world: int):
    folder.mkdir()
    done = processes.run([SCRIPT, folder], world)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "logs.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    (one, weights_one), (two, weights_two) = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    assert (one["world"], two["world"]) == (1, 2)
    steps = [[log for log in report["logs"] if "grad_norm" in log] for report in (one, two)]
    assert len(steps[0]) == 8
    for a, b in zip(*steps, strict=True):
        for name in ("loss", "grad_norm", "accuracy", "weak/agreement", "weak/gamma", "weak/vacuity", "num_tokens"):
            assert b[name] == pytest.approx(a[name], abs=1e-4), name
    torch.testing.assert_close(torch.tensor(two["window"]), torch.tensor(one["window"]), rtol=1e-3, atol=1e-4)
    for name, weight in weights_one.items():
        torch.testing.assert_close(weights_two[name], weight, rtol=1e-3, atol=1e-4)
