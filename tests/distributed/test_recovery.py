"""A rank that dies ends the run with a clear error; the run goes on from its checkpoint to the same weights."""

import pytest
from launches import DEEPSPEED, distance, launch, place, seen

pytestmark = [pytest.mark.matrix, pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    return folder, launch(folder, ["zero2/soft/die"], 2, check=False)


def test_a_killed_rank_ends_the_run_with_its_name(killed):
    folder, done = killed
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr or "exitcode  : -9" in done.stderr, done.stderr[-3000:]
    assert "rank      : 1" in done.stderr, done.stderr[-3000:]
    assert (place(folder, "zero2/soft/die") / "checkpoint-2").is_dir()
    assert not (place(folder, "zero2/soft/die") / "model.safetensors").exists()


def test_the_run_goes_on_to_the_same_weights(killed):
    folder, _ = killed
    launch(folder, ["single/soft"], 1)
    launch(folder, ["zero2/soft/resume"], 2)
    found = seen(folder, "zero2/soft/resume")
    assert found["stage"] == 2 and found["processes"] == 2
    assert found["batches"] == 2 * 4, "two of six updates were not made again"
    assert distance(folder, "zero2/soft/resume", "single/soft") <= 1e-5


def test_another_number_of_processes_is_refused(killed):
    folder, _ = killed
    done = launch(folder, ["zero2/soft/resume"], 1, check=False)
    assert done.returncode != 0
    assert "was written by 2 processes and this run has 1" in done.stderr, done.stderr[-3000:]
    assert "--num_processes 2" in done.stderr
