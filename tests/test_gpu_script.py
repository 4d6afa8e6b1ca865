"""`benchmarks/gpu.py` before there is a GPU: its arithmetic by hand, what it leaves out, and the whole on a CPU."""

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def tiny(load):
    return argparse.Namespace(**load("gpu").TINY)


def test_parts_that_no_longer_fit_are_left_out_and_none_takes_what_the_later_need(load):
    gpu = load("gpu")
    names = list(gpu.PARTS)
    needs, most = ([pair[i] for pair in gpu.PARTS.values()] for i in (0, 1))
    assert gpu.plan(names, sum(needs)) == ("", needs[0])
    assert gpu.plan(names, sum(needs) + 7) == ("", needs[0] + 7)
    assert gpu.plan(names, 1e4) == ("", most[0])
    assert gpu.plan(names[-1:], needs[-1] + 1) == ("", needs[-1] + 1)
    assert gpu.plan(names[-1:], needs[-1] - 1) == (
        f"left out: needs about {needs[-1]} s, and {needs[-1] - 1} s were left", None,
    )  # fmt: skip
    assert sum(needs) + 60 <= 8 * 60  # a minute to load libraries and to end


def test_a_part_that_fails_or_outlasts_the_minutes_says_so(load):
    gpu = load("gpu")

    def fails():
        raise ValueError("no such thing")

    def rings():
        try:
            raise gpu.OutOfTime
        except Exception:  # as libraries do
            return {}

    assert gpu.run_part(fails)["error"] == "ValueError: no such thing"
    assert "minutes were over" in gpu.run_part(rings)["error"]
    assert "no such thing" in gpu.of_part("one", gpu.run_part(fails), False)


def test_goals_are_met_missed_or_not_measured(load):
    gpu, goal = load("gpu"), load("chip").goal
    goals = [goal("a", [1.0, 1.1, 5.0], 1.10), goal("b", [1.0, 1.2, 1.3], 1.10), goal("c", [], 1.10)]
    part = {"columns": ["x"], "rows": [["1"]], "goals": goals, "compiled passes": False}
    lines = gpu.of_part("heads", part, False).splitlines()
    assert lines[-3:] == [
        "| a | 1.1 | 1.1 | met |", "| b | 1.2 | 1.1 | **missed** |", "| c | not measured | 1.1 | not measured |",
    ]  # fmt: skip
    assert any("did not run" in line for line in lines)
    assert all(line.endswith("| rehearsal |") for line in gpu.of_part("heads", part, True).splitlines()[-3:])


def test_ways_run_there_and_back_and_one_that_fails_does_not_end_the_others(load):
    chip = load("chip")
    order = []

    def broken():
        raise RuntimeError("out of memory\nand more")

    ways = {name: lambda name=name: order.append(name) for name in "ab"} | {"c": broken}
    found = chip.in_turns(chip.Chip(rehearse=True), ways, 3, math.inf)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert found["c"] == {"error": "RuntimeError: out of memory", "seconds": []}
    assert [len(found[name]["seconds"]) for name in "ab"] == [3, 3]
    assert len(chip.in_turns(chip.Chip(rehearse=True), ways, 3, 0.0)["a"]["seconds"]) == 1
    given = {"a": {"seconds": [3.0, 8.0]}, "b": {"seconds": [2.0, 4.0]}, "c": {"error": "none", "seconds": []}}
    assert chip.ratios(given, "a", "b") == [1.5, 2.0] and chip.ratios(given, "a", "c") == []
    assert chip.spread([2.0, 1.0, 4.0], 1) == "2.0 [1.0, 4.0]"


def test_a_way_that_fails_later_or_without_a_word_ends_none_of_the_others(load):
    """Too little memory in a round, or a library whose arguments have changed: no ratio is made of what was left."""
    chip, calls = load("chip"), []

    def twice():
        calls.append(1)
        if len(calls) > 2:
            raise TypeError("takes 3 arguments")

    def silent():
        raise AssertionError

    found = chip.in_turns(chip.Chip(rehearse=True), {"a": int, "b": twice, "c": silent}, 4, math.inf)
    assert found["b"]["error"] == "TypeError: takes 3 arguments" and len(calls) == 3
    assert found["c"]["error"] == "AssertionError: "
    assert len(found["a"]["seconds"]) == 4 and chip.ratios(found, "b", "a") == chip.ratios(found, "a", "b") == []


def test_the_peak_of_a_device_is_that_of_its_own_form(load):
    peak, names = load("chip").peak, ("H100 80GB HBM3", "H100 PCIe", "H100 NVL", "H200", "A100-SXM4-80GB")
    assert [peak(f"NVIDIA {name}") for name in names] == [989e12, 756e12, 835e12, 989e12, 312e12]
    assert peak("CPU (rehearsal)") is None


def test_a_step_is_compared_with_nothing_where_the_trainer_to_beat_had_too_little_memory(load):
    models = load("gpu_models")
    ours = {"seconds": [0.5, 0.25], "mib": 90.0}
    rows, goals = models.step_table(
        {models.SFT: {"error": "none", "seconds": []}, "ours: evidential": ours}, 1e12, 100, None
    )
    assert rows[1][0] == "ours: evidential" and rows[1][-2:] == ["", ""]
    assert [(one["value"], one["met"]) for one in goals] == [(None, None)] * 2
    found = {models.SFT: {"seconds": [0.5, 0.5], "mib": 100.0}, "ours: evidential": ours}
    rows, goals = models.step_table(found, 1e12, 100, 8e12)
    assert rows[1][3:] == ["300 [200, 400]", "0.375 [0.250, 0.500]", "0.750 [0.500, 1.000]", "0.900"]
    assert [(one["value"], one["met"]) for one in goals] == [(0.75, True), (0.9, True)]


def test_labelling_by_three_is_no_sum_of_two(load, tiny, monkeypatch):
    models, chip = load("gpu_models"), load("chip").Chip(rehearse=True)
    monkeypatch.setattr(models, "on_device", lambda config, chip: config)
    tiny.supervisors = {name: torch.nn.Linear(1, 1) for name in "abc"}
    good = {side: {"seconds": [seconds], "mib": 1.0} for side, seconds in (("ours", 2.0), ("theirs", 6.0))}
    found = iter([(good, {"best beams": 1.0, "nats": 0.0})] * 5 + [({"ours": {"error": "none"}}, {})])
    monkeypatch.setattr(models, "one_model", lambda *given: next(found))
    assert models.labelling(chip, tiny, math.inf)["rows"][-1][:4] == ["all three", "0.7", "0.2", "3.00"]
    assert [row[0] for row in models.labelling(chip, tiny, math.inf)["rows"]] == ["a", "b", "c"]


def test_flops_of_a_step_are_those_that_pytorch_counts(load, tiny):
    """PyTorch counts all pairs of tokens in attention, of which a causal model sees half."""
    models = load("gpu_models")
    config = models.SEVEN["rehearsal"]
    whole, lora = (models.step_flops(config, tiny, lora=lora) for lora in (False, True))
    products = (whole - lora) / 2
    attention = (whole - 6 * products) / 3
    model = models.on_device(config, SimpleNamespace(device=torch.device("cpu")), torch.float32)
    ids = torch.zeros(3 * tiny.step_prompts, tiny.step_prompt + tiny.step_completion, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.set_attn_implementation("eager")
        model(ids, logits_to_keep=tiny.step_completion)
    assert counter.get_total_flops() == 2 * products + 2 * attention


def test_heads_and_their_agreement_on_a_cpu(load, tiny):
    heads, chip = load("gpu_heads"), load("chip").Chip(rehearse=True)
    found = heads.agreement(chip, tiny, math.inf)
    assert len(found["rows"]) == 28 and [one["what"] for one in found["goals"] if not one["met"]] == []
    part = heads.heads(chip, tiny, math.inf, vocabulary=320)
    missing = {name for name, one in part["measured"].items() if "error" in one}
    assert missing <= {"Liger's fused head"} and len(part["goals"]) == 4
    assert all(len(row) == len(part["columns"]) for row in part["rows"])


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path):
    """Every part as on a GPU: what a lent one must not be the first to find."""
    log = tmp_path / "log.json"
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    run = lambda *given: subprocess.run(  # noqa: E731
        [sys.executable, FOLDER / "gpu.py", *given], env=environment, capture_output=True, text=True
    )
    done = run("--rehearse", "--minutes", "20", "--output", log)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = json.loads(log.read_text())["parts"]
    assert all(part.get("rows") for part in parts.values()), parts.keys()
    errors = {row[0]: row[1] for part in parts.values() for row in part["rows"] if "Error" in row[1]}
    assert set(errors) <= {"Liger's fused head"}, errors
    assert len(parts["labelling"]["rows"]) == 4 and len(parts["step, LoRA"]["rows"]) == 5
    shown = run("--show", log).stdout
    assert shown.strip() and all(line in done.stdout for line in shown.splitlines())
    late = run("--rehearse", "--minutes", "0.1")
    assert late.returncode == 0 and late.stdout.count("left out: needs about") == len(parts)
