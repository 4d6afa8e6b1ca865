"""Two processes on token trees reach the weights of one process on rows."""

import pytest
from checks import check_active, check_equal
from launches import distance, launch, references, runnable, seen


@pytest.mark.distributed
@pytest.mark.parametrize("strategies", [["ddp", "zero3"], pytest.param(["fsdp2", "zero2"], marks=pytest.mark.matrix)])
def test_trees_on_two_processes_are_rows_on_one(tmp_path, strategies):
    cells = runnable([f"{strategy}/evidential/trees" for strategy in strategies])
    launch(tmp_path, [*references(cells), "single/soft/trees"], 1)
    launch(tmp_path, cells, 2)
    assert seen(tmp_path, "single/evidential/trees")["trees"] == 0
    for cell in cells:
        check_active(tmp_path, cell)
        assert seen(tmp_path, cell)["trees"] == seen(tmp_path, cell)["batches"] > 0
        check_equal(tmp_path, cell)
    assert distance(tmp_path, "single/evidential/trees", "single/soft/trees") > 1e-3  # the comparison has power
