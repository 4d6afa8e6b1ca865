"""Benchmarks that only print: their arithmetic against the same by hand, and that what they import exists."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    def by_path(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look for their module
        spec.loader.exec_module(module)
        return module

    return by_path


def test_hours_of_scale_are_flops_over_what_the_gpus_do(load):
    scale = load("scaling_model")
    given = {name: one.value for name, one in scale.CONSTANTS.items()} | {
        "supervisors": 2, "supervisor": 1e9, "student": 2e9, "prompt": 10, "generated": 20, "scored": 30, "rows": 2,
        "row": 5, "epochs": 3, "peak": 1e12, "mfu_score": 0.5, "mfu_decode": 0.1, "mfu_train": 0.25,
        "scaling_label": 1.0, "scaling_train": 0.5, "check": 1e-3, "store": 4e-3, "consolidate": 2e-3,
        "prepare": 8e-3, "processes": 4,
    }  # fmt: skip
    constants = {name: scale.Constant(value, "", "") for name, value in given.items()}
    hours = {name: value * 3600 / 1000 for name, value in scale.hours(constants, 1000, 4).items()}  # s per prompt
    assert hours["answer"] == pytest.approx(2 * 2 * 1e9 * (20 / 0.1 + 10 / 0.5) / 4e12)
    assert hours["score"] == pytest.approx(2 * 2 * 1e9 * 30 / 0.5 / 4e12)
    assert hours["train"] == pytest.approx(6 * 2e9 * 2 * 5 * 3 / 0.25 / (4e12 * 0.25))  # two doublings at a half each
    assert hours["read, store"] == pytest.approx(1e-3 + 4e-3 / 4)  # every process reads all prompts
    assert (hours["consolidate"], hours["prepare"]) == pytest.approx((2e-3, 2 * 8e-3 / 4))


def test_stages_are_summed_by_kind_and_stages_side_by_side_are_told(tmp_path, load):
    stages = load("stage_seconds")
    seconds = {"student, pre-training": 1.0, "weak supervisor a": 2.0, "weak supervisor b": 3.0, "weak labels": 4.0,
               "student on gold, half_a": 5.0, "student, cDPO": 6.0, "student, Naive": 7.0,
               "evaluate naive": 8.0}  # fmt: skip
    results = {"stage_seconds": seconds, "environment": {"date": "today", "machine": "one"}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    rows = [line.split(" | ") for line in stages.table(tmp_path, 30.0, 28.0).splitlines()[4:]]
    found = {cells[0].removeprefix("| "): (cells[1], cells[2]) for cells in rows}
    assert found["weak supervisors"] == ("2", "5.0") and found["students on weak labels"] == ("1", "7.0")
    assert found["students on gold"] == ("1", "5.0") and found["preference students"] == ("1", "6.0")
    assert found["all stages"] == ("8", "36.0") and found["by the clock"] == ("", "30.0")
    assert found["of the processor, all processes"] == ("", "28.0")
    assert stages.table(tmp_path / "results.json").splitlines()[1:] == stages.table(tmp_path).splitlines()[1:]


def test_peers_are_compared_round_by_round(load):
    peers = load("labelling_peers")

    def times(ours: float, vllm: float) -> dict:
        """The processor's time of ours is half of the clock's: it waited for another process."""
        one = {"ours": {"seconds": ours, "cpu": ours / 2}, "vllm": {"seconds": vllm, "cpu": vllm}}
        return dict.fromkeys(peers.STAGES, one)

    rounds = [
        {"times": times(a, b), "error": e, "same greedy answers": 1.0, "our best beam among theirs": 0.5}
        for a, b, e in ((1.0, 2.0, 1e-4), (2.0, 10.0, 3e-4), (4.0, 12.0, 2e-4))
    ]
    lines = peers.table({"alone": rounds}, peers.parse(["--prompts", "8"])).splitlines()
    assert lines[2] == "| alone | beams | 4 | 0.8 | 3.00 [2.00, 5.00] | 6.00 [4.00, 10.00] | 50% |  |"
    assert lines[3] == "| alone | scoring | 4 | 0.8 | 3.00 [2.00, 5.00] | 6.00 [4.00, 10.00] |  | 3e-04 |"


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_package_exists(script):
    """Also what it imports inside of functions, hours into a run."""
    nodes = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        if node.module.split(".")[0] == "trl_weaks":
            module = importlib.import_module(node.module)
            lacking = [one.name for one in node.names if not hasattr(module, one.name)]
            lacking = [name for name in lacking if importlib.util.find_spec(f"{node.module}.{name}") is None]
            assert not lacking, f"{script.name}, line {node.lineno}: {node.module} has no {lacking}"


def test_a_row_of_the_field_is_charged_with_what_the_naive_student_does_not_need(load):
    def stage(*after):
        return type("Stage", (), {"after": after})()

    base, votes = stage(), stage()
    naive, half = stage(base, votes), stage(base, votes)
    own = stage(votes)  # labels of one row
    students = {"naive": naive, "surer_half": half, "two_stage": stage(half, base), "mbr": stage(own, base)}
    seconds = {base: 100.0, votes: 50.0, naive: 8.0, half: 4.0, own: 2.0, students["two_stage"]: 6.0,
               students["mbr"]: 8.0}  # fmt: skip
    found = load("field_cost").ratios(students, seconds)
    assert found == {"naive": 1.0, "surer_half": 0.5, "two_stage": 1.25, "mbr": 1.25}


SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called_and_the_page_says_what_it_measures(script):
    """`--help` is the text at the top, but where the settings are those of a study."""
    text = script.read_text()
    assert f"python benchmarks/{script.name}" in ast.get_docstring(ast.parse(text))
    assert "description=__doc__" in text or "pipeline.launch import parse" in text
    assert f"benchmarks/{script.name}" in (FOLDER.parent / "docs" / "benchmarks.md").read_text()


def test_stage_seconds_names_a_folder_without_results(load, tmp_path):
    with pytest.raises(SystemExit, match="results.json: not there; name the folder of a finished run"):
        load("stage_seconds").table(tmp_path)
