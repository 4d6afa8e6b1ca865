"""Two CPU processes train what one process trains, under every strategy and objective; each proves first that it is
on."""

import math

import pytest
import torch
from checks import check_active, check_equal, check_moved, check_near
from launches import COMPILED, CORE, DEEPSPEED, OBJECTIVES, REST, STRATEGIES, distance, place, reference, seen, weights


def marks(cell: str) -> list:
    return [] if cell in CORE else [pytest.mark.matrix]


CELLS = [pytest.param(cell, marks=marks(cell)) for cell in CORE + REST + COMPILED]
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed")


@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_equal_one(folder_of, cell):
    folder = folder_of(cell)
    check_active(folder, cell)
    check_active(folder, reference(cell))
    if "bf16" not in cell:
        check_equal(folder, cell)


def test_one_process_learns_and_the_objectives_differ(folder_of):
    """Otherwise every cell would equal every other."""
    from preference_runs import model

    folder = folder_of("ddp/soft")
    check_moved(folder, "single/soft", dict(model().named_parameters()))
    for one, other in (("soft", "soft/uneven"), ("evidential", "evidential/silent"), ("soft", "evidential")):
        assert distance(folder, f"single/{one}", f"single/{other}") > 1e-4


@pytest.mark.parametrize("cell", [pytest.param(c, marks=marks(c)) for c in CORE + REST if c.endswith("/bf16/sgd")])
def test_bfloat16_on_two_processes_is_near_float32_on_one(folder_of, cell):
    from preference_runs import model

    start = dict(model().named_parameters())
    check_near(folder_of(cell), cell, start)
    check_moved(folder_of(cell), reference(cell), start)


@pytest.mark.parametrize("cell", ["zero3/soft/bf16", pytest.param("zero2/soft/bf16", marks=pytest.mark.matrix)])
def test_confidences_are_not_rounded(folder_of, cell):
    """bfloat16 training hands the losses float32 confidences: 0.9985 stays below 1."""
    folder = folder_of(cell)
    found = seen(folder, cell)
    assert found["control"] > 1e-4, "every other float input is rounded, so this test can fail"
    assert found["rounding"] == 0.0
    assert any("weak_unit_logps torch.float32" in name for name in found["floats"]), found["floats"]
    exact = cell.removesuffix("/bf16")
    for log, expected in zip(found["logs"], seen(folder_of(exact), exact)["logs"], strict=True):
        assert math.isclose(log["weak/confidence"], expected["weak/confidence"], abs_tol=1e-6)


@pytest.mark.parametrize("cell", [pytest.param(c, marks=marks(c)) for c in CORE + REST if c.endswith("/generate")])
def test_the_student_answers_as_on_one_process(folder_of, cell):
    """In the middle of training and for preferences, though each process has another number of prompts; and
    training goes on to the same weights (`test_two_processes_equal_one`)."""
    folder = folder_of(cell)
    found, expected = seen(folder, cell), seen(folder, reference(cell))
    assert len(found["answers"]) == 5 and found["answers"] == expected["answers"]
    assert len(found["pairs"]) >= 3 and found["pairs"] == expected["pairs"]
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)


def loads_as(folder, cell: str, kind: type) -> None:
    """One safetensors file that stock transformers reads whole, with the logits of the one-process model."""
    weights(folder, cell)  # exactly one file
    model, info = kind.from_pretrained(place(folder, cell), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    other = kind.from_pretrained(place(folder, reference(cell)))
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model(ids).logits, other(ids).logits, rtol=0, atol=1e-4)


PLAIN = [f"{strategy}/{objective}" for strategy in STRATEGIES for objective in OBJECTIVES]


@pytest.mark.parametrize("cell", [pytest.param(cell, marks=marks(cell)) for cell in PLAIN])
def test_save_model_leaves_one_model_that_loads(folder_of, cell):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if "classification" in cell else AutoModelForCausalLM
    loads_as(folder_of(cell), cell, kind)


@pytest.mark.matrix
@pytest.mark.parametrize("objective", ["evidential", "classification", "cdpo"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_save_model_leaves_an_adapter_that_loads(folder_of, strategy, objective):
    from classification_runs import classifier
    from peft import PeftModel
    from preference_runs import model

    cell = f"{strategy}/{objective}/lora"
    folder = folder_of(cell)
    build = (lambda: classifier(num_labels=3)) if objective == "classification" else model
    one, other = (PeftModel.from_pretrained(build(), place(folder, c)) for c in (cell, reference(cell)))
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(one(ids).logits, other(ids).logits, rtol=0, atol=1e-4)
    assert max(float(w.abs().max()) for name, w in weights(folder, cell).items() if "lora_B" in name) > 0


@pytest.mark.matrix
@pytest.mark.parametrize("cell", COMPILED)
def test_offload_uses_deepspeeds_own_optimizer(folder_of, cell):
    folder = folder_of(cell)
    assert seen(folder, cell)["optimizer"] == "DeepSpeedCPUAdam"


@needs_deepspeed
def test_a_head_in_pieces_is_refused_where_backward_could_not_gather_it(monkeypatch):
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    from trl_weaks.heads.projection import gathered

    head = torch.nn.Linear(2, 3, bias=False)
    monkeypatch.setattr("transformers.integrations.deepspeed.is_deepspeed_zero3_enabled", lambda: True)
    head.weight.ds_status = ZeroParamStatus.AVAILABLE
    with gathered(head):
        pass
    head.weight.ds_status = ZeroParamStatus.NOT_AVAILABLE
    with pytest.raises(RuntimeError, match="pieces outside of the engine's forward"):
        gathered(head)
