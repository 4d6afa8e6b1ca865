"""Many prompts stream: memory grows by a small index, not by texts and labels."""

from pathlib import Path

import processes
import pytest

SCRIPT = Path(__file__).with_name("many_prompts_run.py")


def growth(folder: Path, prompts: int) -> tuple[int, int]:
    """Bytes that labelling so many prompts adds to the process at its peak, and rows of the dataset."""
    run = processes.run([SCRIPT, folder, prompts], timeout=3000, CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 0, run.stderr
    before, peak, rows = map(int, run.stdout.split()[-3:])
    return peak - before, rows


def per_prompt(tmp_path: Path, few: int, many: int) -> float:
    (less, _), (more, rows) = (growth(tmp_path / str(n), n) for n in (few, many))
    assert rows == many
    return (more - less) / (many - few)


def test_memory_grows_by_an_index(tmp_path):
    """The four labels of a prompt take 1.5 kB on disk here, and several times that as Python's objects."""
    assert per_prompt(tmp_path, 2_000, 8_000) < 600


@pytest.mark.slow
def test_memory_of_a_hundred_thousand_prompts(tmp_path):
    assert per_prompt(tmp_path, 10_000, 100_000) < 200
