"""Two CPU processes train what one process trains, under every strategy and objective; each proves first that it is
on."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
from checks import check_active, check_equal, check_moved  # noqa: E402
from launches import ADAPTERS, DDP, FSDP, ONE, ROUNDED, ZERO, distance, launch, place, seen, weights  # noqa: E402

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is missing")
FAST = ["ddp/soft", "ddp/evidential/silent"]
if importlib.util.find_spec("deepspeed") is not None:
    FAST.append("zero3/evidential/silent")


def both(folder: Path, cell: str) -> None:
    check_active(folder, cell)
    check_equal(folder, cell)


def test_representative_cells(tmp_path):
    """DDP, and ZeRO-3 where DeepSpeed is installed; the weak head's loss, and a rank with nothing to learn from."""
    launch(tmp_path, ["single/soft", "single/evidential/silent"], 1)
    launch(tmp_path, FAST, 2)
    for cell in FAST:
        both(tmp_path, cell)
    assert distance(tmp_path, "single/soft", "single/evidential/silent") > 1e-3  # the comparison has power


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    launch(folder, ONE, 1)
    return folder


@pytest.fixture(scope="module")
def ddp(folder) -> Path:
    launch(folder, DDP, 2)
    return folder


@pytest.fixture(scope="module")
def zero(folder) -> Path:
    launch(folder, ZERO + ROUNDED, 2)
    return folder


@pytest.fixture(scope="module")
def fsdp(folder) -> Path:
    launch(folder, FSDP, 2)
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("cell", DDP)
def test_ddp(ddp, cell):
    both(ddp, cell)


@pytest.mark.distributed
@needs_deepspeed
@pytest.mark.parametrize("cell", ZERO)
def test_zero(zero, cell):
    both(zero, cell)


@pytest.mark.distributed
@pytest.mark.parametrize("cell", FSDP)
def test_fsdp2(fsdp, cell):
    both(fsdp, cell)


@pytest.mark.distributed
def test_one_process_learns(folder):
    """Otherwise every cell would equal every other."""
    from preference_runs import model

    for cell in ONE:
        check_active(folder, cell)
    check_moved(folder, "single/soft", dict(model().named_parameters()))
    for one, other in (("soft", "soft/uneven"), ("evidential", "evidential/silent"), ("soft", "evidential")):
        assert distance(folder, f"single/{one}", f"single/{other}") > 1e-4


@pytest.mark.distributed
@needs_deepspeed
@pytest.mark.parametrize("cell", ROUNDED)
def test_confidences_are_not_rounded(zero, cell):
    """bfloat16 training hands the losses float32 confidences: 0.9985 stays below 1."""
    check_active(zero, cell)
    found = seen(zero, cell)
    assert found["control"] > 1e-4, "every other float input is rounded, so this test can fail"
    assert found["rounding"] == 0.0
    assert any("weak_unit_logps torch.float32" in name for name in found["floats"]), found["floats"]
    for log, expected in zip(found["logs"], seen(zero, cell.removesuffix("/bf16"))["logs"], strict=True):
        assert math.isclose(log["weak/confidence"], expected["weak/confidence"], abs_tol=1e-6)


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


@pytest.mark.distributed
@needs_deepspeed
def test_zero3_saves_one_model_that_loads(zero):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(place(zero, "zero3/evidential"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    other = AutoModelForCausalLM.from_pretrained(place(zero, "single/evidential"))
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model(ids).logits, other(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.distributed
@needs_deepspeed
@pytest.mark.parametrize("objective", [name for name in ADAPTERS if not name.startswith("classification")])
def test_zero3_saves_an_adapter_that_loads(zero, objective):
    from peft import PeftModel
    from preference_runs import model

    one, other = (PeftModel.from_pretrained(model(), place(zero, f"{s}/{objective}")) for s in ("zero3", "single"))
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(one(ids).logits, other(ids).logits, rtol=0, atol=1e-4)
    assert max(float(w.abs().max()) for name, w in weights(zero, f"zero3/{objective}").items() if "lora_B" in name) > 0
