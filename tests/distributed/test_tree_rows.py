"""Two processes on token trees reach the weights of one process on rows."""

import importlib.util

import pytest
from checks import check_active, check_equal
from launches import distance, launch, references, seen

CELLS = ["ddp/evidential/trees", "fsdp2/evidential/trees"]
if importlib.util.find_spec("deepspeed") is not None:
    CELLS += ["zero2/evidential/trees", "zero3/evidential/trees"]


@pytest.mark.distributed
def test_trees_on_two_processes_are_rows_on_one(tmp_path):
    launch(tmp_path, [*references(CELLS), "single/soft/trees"], 1)
    launch(tmp_path, [cell for cell in CELLS if not cell.startswith("fsdp2")], 2)
    launch(tmp_path, [cell for cell in CELLS if cell.startswith("fsdp2")], 2)
    assert seen(tmp_path, "single/evidential/trees")["trees"] == 0
    for cell in CELLS:
        check_active(tmp_path, cell)
        assert seen(tmp_path, cell)["trees"] == seen(tmp_path, cell)["batches"] > 0
        check_equal(tmp_path, cell)
    assert distance(tmp_path, "single/evidential/trees", "single/soft/trees") > 1e-3  # the comparison has power
