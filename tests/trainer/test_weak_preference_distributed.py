"""Two processes train what one process trains, with each pair's own epsilon and weight, and make the same pairs."""

import json
from pathlib import Path

import processes
import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("preference_runs.py")


def run(task, folder, world):
    folder.mkdir()
    done = processes.run([SCRIPT, task, folder], world)
    assert done.returncode == 0, done.stderr[-3000:]


def read(path):
    with open(path) as file:
        return json.load(file)


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    for name, world in (("one", 1), ("two", 2)):
        run("train", tmp_path / name, world)
    one, two = (read(tmp_path / name / "logs.json") for name in ("one", "two"))
    assert (one["world"], two["world"]) == (1, 2)
    for a, b in zip(one["logs"][:4], two["logs"][:4], strict=True):
        for name in a:
            if not name.startswith("perf/"):
                assert b[name] == pytest.approx(a[name], abs=2e-5), name
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in weights.items():
        assert (weight - others[name]).abs().max() <= 1e-6, name


@pytest.mark.distributed
def test_two_processes_make_the_pairs_of_one(tmp_path):
    for name, world in (("one", 1), ("two", 2)):
        run("pairs", tmp_path / name, world)
    expected = read(tmp_path / "one" / "pairs-0.json")
    assert len(expected) >= 4
    assert read(tmp_path / "two" / "pairs-0.json") == read(tmp_path / "two" / "pairs-1.json") == expected
    assert len(list((tmp_path / "two" / "candidates").glob("shard-*"))) == 2  # both processes worked


@pytest.mark.distributed
def test_two_processes_with_uneven_shards_report_what_one_does(tmp_path):
    """The sampler repeats pairs to fill the last round of two processes: they are trained on, and evaluated once."""
    for name, world in (("one", 1), ("two", 2)):
        run("uneven", tmp_path / name, world)
    one, two = (read(tmp_path / name / "found.json") for name in ("one", "two"))
    assert (one["world"], two["world"]) == (1, 2)
    timing = ("runtime", "per_second", "num_tokens", "_time")
    names = {name for name in one["metrics"] if not any(part in name for part in timing)}
    wanted = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "entropy", "weak/epsilon")
    wanted += ("weak/effective_pairs", "weak/optimum_margin", "mean_token_accuracy", "logits/rejected")
    assert {f"{place}_{name}" for place in ("test", "eval_a", "eval_b") for name in wanted} <= names
    for name in sorted(names):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-5, abs=1e-6), name
    assert one["metrics"]["eval_a_weak/epsilon"] != one["metrics"]["eval_b_weak/epsilon"]
    assert one["num_tokens"] == one["seen"] and two["num_tokens"] == two["seen"]
