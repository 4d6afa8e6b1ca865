"""Every registered loss and pooling, every preference loss and the alarm: with LoRA, accumulation, two processes, and
resumed; what is registered later is tried too."""

import functools
import json
from pathlib import Path

import field_runs
import numpy as np
import processes
import pytest
import torch
from field_runs import ALARM, CASES, SAVED, UPDATES, build, changed, learned, transforms


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(kind, name) -> the folder of a run, its trainer, and what it learned; each is trained once."""

    @functools.cache
    def run(kind, name):
        folder = tmp_path_factory.mktemp("whole")
        trainer = build(kind, name, folder)
        trainer.train()
        return folder, trainer, learned(trainer)

    return run


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda one: one)
def test_a_resumed_lora_run_ends_bit_identical(kind, name, whole, tmp_path):
    folder, trainer, found = whole(kind, name)
    again = build(kind, name, tmp_path)
    again.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}"))
    assert len(found["curve"]) == UPDATES and learned(again) == found
    assert len({loss for loss, _ in found["curve"]}) == UPDATES
    weights = dict(again.model.named_parameters())
    trained = {key for key, value in weights.items() if value.requires_grad}
    assert trained and all("lora_" in key or "score" in key for key in trained)
    assert all(torch.equal(value, weights[key]) for key, value in trainer.model.named_parameters())
    if name == ALARM:
        assert found["alarmed_at"] is not None and len(found["points"]) == 2


@pytest.mark.parametrize(("kind", "row"), transforms(), ids=lambda one: getattr(one, "name", one))
def test_labels_made_with_a_lora_student_are_those_of_its_merged_weights(kind, row):
    made, merged = changed(kind, row), changed(kind, row, merged=True)
    assert made and [one["example_id"] for one in made] == [one["example_id"] for one in merged]
    for one, other in zip(made, merged, strict=True):
        for column, value in one.items():
            if column in ("weak_probs", "weak_weights", "weak_trust"):
                np.testing.assert_allclose(value, other[column], atol=1e-4, err_msg=column)
            elif column != "weak_logps":
                assert value == other[column], column


@pytest.mark.distributed
def test_two_processes_that_accumulate_learn_what_one_learns(whole, tmp_path):
    done = processes.run([Path(field_runs.__file__), tmp_path], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report.pop("labels")
    assert first == second, "every process trains on the same labels"
    assert [len(rows) for rows in first] == [len(changed(kind, row)) for kind, row in transforms()]
    assert set(report) == {f"{kind}, {name}" for kind, name in CASES}
    for kind, name in CASES:
        found, expected = report[f"{kind}, {name}"], json.loads(json.dumps(whole(kind, name)[2]))
        assert found.keys() == expected.keys()
        assert found.pop("alarmed_at", None) == expected.pop("alarmed_at", None)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=2e-4, err_msg=f"{kind}, {name}: {key}")
