"""The examples as a user starts them."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return processes.run(list(arguments), cwd=cwd)


@pytest.mark.parametrize(
    "name",
    [path.name for path in sorted((ROOT / "examples").glob("*.py"))],
)
def test_help(name, tmp_path):
    result = run(str(ROOT / "examples" / name), "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout
    assert ("--report_to" in result.stdout) == (name != "label.py"), "where it logs is for its user to say"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_header_says_what_the_script_needs(example):
    """PEP 723: `uv run examples/drop_in.py` and its like read it, and take the package from the clone they are in."""
    (block,) = re.findall(r"^# /// script\n((?:#.*\n)+?)# ///$", example.read_text(encoding="utf-8"), re.M)
    found = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["requires-python"] == project["requires-python"]
    (needed,) = found["dependencies"]
    name, *extras = re.split(r"[\[\],]+", needed.rstrip("]"))
    source = found["tool"]["uv"]["sources"][name]
    assert (example.parent / source["path"] / "pyproject.toml").is_file() and source["editable"]
    assert name == project["name"] and set(extras) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("script", ["plain", "weak"])
def test_drop_in(script, tmp_path):
    result = run(str(ROOT / "examples" / "drop_in.py"), script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "train_loss" in result.stdout
    assert ("weak/confidence" in result.stdout) == (script == "weak")


@pytest.mark.parametrize(
    "name, printed",
    [
        ("votes.py", "student in made, classes {0: 'alarm', 1: 'music', 2: 'weather'}"),
        ("api_answers.py", "confidences by source: {'samples': 8, 'stated': 8, 'None': 4}"),
        ("judges.py", '"one_sided": true'),
        ("server.py", "40 answers, 8 rows; confidences by source: {'logprobs': 8, 'samples': 8}"),
    ],
)
def test_each_source_of_supervision_trains_a_student(name, printed, tmp_path):
    result = run(str(ROOT / "examples" / name), "--max_steps", "2", "--output_dir", "made", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert printed in result.stdout and "student in made" in result.stdout
    assert (tmp_path / "made" / "model.safetensors").is_file()


def test_a_wrong_setting_is_one_clear_line(tmp_path):
    result = run(str(ROOT / "examples" / "slot_filling.py"), "--preset", "huge", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("trl-weaks: error: Unknown preset 'huge'")


@pytest.mark.parametrize("name", ["slot_filling.py", "classification.py", "dialogue_state.py"])
def test_a_missing_data_folder_is_one_clear_line(name, tmp_path):
    result = run(str(ROOT / "examples" / name), "--data_dir", "nowhere", cwd=tmp_path)
    assert result.returncode == 1
    assert "error:" in result.stderr and "nowhere" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("written", [["--output_dir", "here"], ["--output_dir=here"], ["--output=here"]])
def test_the_label_example_finds_its_folder(written):
    spec = importlib.util.spec_from_file_location("label_example", ROOT / "examples" / "label.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    arguments = ["--dataset", "p.jsonl", *written, "--supervisors", "a", "b"]
    assert example.output_dir(arguments) == Path("here")
