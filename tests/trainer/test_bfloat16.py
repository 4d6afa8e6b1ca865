"""bfloat16, the default of the settings: near to float32 with every term of the loss, and unrounded confidences."""

import pytest
import torch
from datasets import Dataset
from shapes import one_step, relative_error, shape, watch_gradients

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

EVERYTHING = {"gamma_max": 0.25, "gamma_warmup": 0.0, "kl_coef": 0.01, "kl_anneal": 0.0, "evidence_offset": 2.0}
# the student has no say in how these are shared among its tokens, so that they are the same to the last digit
LOSSES = [
    {"weak_loss": "naive", "gamma_max": 0.0, "confidence_split": "uniform"},
    {"weak_loss": "bayesian", "confidence_split": "uniform"} | EVERYTHING,
]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def trainer(model, rows, tokenizer, arguments, **settings):
    args = WeakSupervisionConfig(**arguments | {"max_grad_norm": 0.0} | settings)
    return WeakSupervisionTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "weights too"])
@pytest.mark.parametrize("loss", LOSSES, ids=["naive", "everything"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_one_step_is_near_that_of_float32(name, loss, whole, device, weak_rows, tokenizer, arguments):
    for row in weak_rows:  # what bfloat16 would round to 1
        row["weak_logps"] = [[-0.0013] * len(logps) for logps in row["weak_logps"]]
    runs = []
    for bf16 in (False, True):
        model = shape(name, tokenizer)
        run = trainer(model.to(torch.bfloat16) if bf16 and whole else model, weak_rows, tokenizer, arguments,
                      max_steps=1, bf16=bf16, use_cpu=device == "cpu" or not bf16, **loss)  # fmt: skip
        assert run.accelerator.device.type == (device if bf16 else "cpu")
        step = one_step(watch_gradients(run))
        runs.append((step[0], {name: gradient.float().cpu() for name, gradient in step[1].items()}, step[2]))
    exact, found = runs
    assert found[0] == pytest.approx(exact[0], rel=5e-3)
    # a backbone of rounded weights moves the student's own predictions, which the auxiliary loss trains on
    assert 0 < relative_error(found[1], exact[1]) < (0.15 if whole else 0.05)
    assert found[2]["weak/confidence"] == pytest.approx(exact[2]["weak/confidence"], abs=1e-6)
    assert found[2]["weak/confidence"] < 0.9999


def test_a_run_learns_as_in_float32(weak_rows, tokenizer, arguments, trajectory):
    runs = [trajectory(trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, bf16=bf16, **LOSSES[1],
                               optim="sgd", learning_rate=0.1)) for bf16 in (False, True)]  # fmt: skip
    assert runs[1][-1][0] < runs[1][0][0] - 0.2
    torch.testing.assert_close(torch.tensor(runs[1]), torch.tensor(runs[0]), rtol=0.03, atol=0)
