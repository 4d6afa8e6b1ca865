"""Supervisors are whole on every process whatever the launch says, and labelling does not load DeepSpeed."""

import json

import processes
import pytest
from launches import DEEPSPEED, HERE


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[dict]:
    from preference_runs import model

    folder = tmp_path_factory.mktemp("whole")
    model().save_pretrained(folder)
    done = processes.run([HERE / "whole.py", folder, *(["deepspeed"] if DEEPSPEED else [])], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]


def test_processes_find_each_other_without_deepspeed(seen):
    assert [s["rank"] for s in seen] == [0, 1] and all(s["processes"] == 2 for s in seen)
    assert not any(s["deepspeed"] for s in seen)
    assert all(s["mark"] == "true" for s in seen), "a trainer made later still finds the launch's mark"


def test_whole_under_fsdp(seen):
    """FSDP's economical loading makes what a checkpoint lacks, such as a new head, on the first process alone."""
    one, two = seen
    assert one["fsdp whole"] == two["fsdp whole"] == one["fsdp plain"] is not None
    assert any(one["fsdp whole"]) and one["fsdp kept"] == "true"
    assert two["fsdp plain"] != one["fsdp plain"], "transformers makes it everywhere now: the context can forget FSDP"


@pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed")
def test_whole_under_zero3_and_pieces_are_refused(seen):
    for s in seen:
        assert s["zero3 whole"] and not s["zero3 whole refusal"] and s["zero3 kept"]
        assert not s["zero3 plain"]
        assert "in pieces" in s["zero3 refusal"] and "whole_weights()" in s["zero3 refusal"]
