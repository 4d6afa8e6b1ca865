"""One supervisor who is always right is plain fine-tuning: other architectures, adapters, packing, and bfloat16."""

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from shapes import one_step, relative_error, shape, watch_gradients
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

PLAIN = {"weak_loss": "naive", "gamma_max": 0.0}
VARIANTS = {
    "tied GPT-2": ("gpt2", {}, None),
    "untied GPT-NeoX": ("gpt_neox", {}, None),
    "OPT": ("opt", {}, None),
    "LoRA": ("llama", {}, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])),
    "AdaLoRA": (
        "llama",
        {},
        AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_r=4, total_step=100, tinit=10, tfinal=10),
    ),
    "packing": ("llama", {"packing": True, "max_length": 64}, None),
    "padding-free": ("llama", {"padding_free": True, "max_length": None}, None),
    "checkpointing": ("gpt2", {"gradient_checkpointing": True}, None),
}


def both(variant, perfect, gold, tokenizer, arguments, **changes):
    """Our trainer and TRL's on the same student, rows and settings."""
    name, settings, adapter = VARIANTS[variant]
    given = arguments | {"max_grad_norm": 0.0} | settings | changes
    ours = WeakSupervisionTrainer(
        model=shape(name, tokenizer),
        args=WeakSupervisionConfig(**given, **PLAIN),
        train_dataset=perfect,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    theirs = SFTTrainer(
        model=shape(name, tokenizer),
        args=SFTConfig(**given),
        train_dataset=gold,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    return ours, theirs


@pytest.mark.parametrize("cut", [(4, 1), (1, 4)], ids=["whole", "accumulated"])
def test_penalties_that_peft_adds_to_losses_are_no_part_of_either(perfect, gold, tokenizer, arguments, cut):
    """AdaLoRA's, which came once for each micro-batch, and with every evaluation."""
    sizes = dict(zip(("per_device_train_batch_size", "gradient_accumulation_steps"), cut, strict=True))
    runs = both("AdaLoRA", perfect, gold, tokenizer, arguments, max_steps=1, **sizes)
    losses = [run.evaluate(rows)["eval_loss"] for run, rows in zip(runs, (perfect, gold), strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)
    (loss, gradients, _), (other, others, _) = (one_step(watch_gradients(run)) for run in runs)
    assert loss == pytest.approx(other, rel=2e-6)
    assert relative_error(gradients, others) <= 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_gradients_and_metrics(variant, perfect, gold, tokenizer, arguments):
    runs = both(variant, perfect, gold, tokenizer, arguments, max_steps=1)
    (loss, gradients, log), (other, others, their_log) = (one_step(watch_gradients(run)) for run in runs)
    assert loss == pytest.approx(other, rel=2e-6)
    assert relative_error(gradients, others) <= 1e-5
    for metric in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert log[metric] == pytest.approx(their_log[metric], rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_run(variant, perfect, gold, tokenizer, arguments, trajectory):
    runs = both(variant, perfect, gold, tokenizer, arguments, optim="sgd", learning_rate=0.1)
    paths = [trajectory(run) for run in runs]
    assert len(paths[0]) >= 2 and paths[0][-1][0] < paths[0][0][0]
    torch.testing.assert_close(torch.tensor(paths[0]), torch.tensor(paths[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["tied GPT-2", "LoRA", "packing"])
def test_bfloat16_is_as_near_to_float32_as_trls(variant, perfect, gold, tokenizer, arguments):
    """Autocast, the default of the settings: our gradient is no farther from the float32 one than TRL's is."""
    exact = one_step(watch_gradients(both(variant, perfect, gold, tokenizer, arguments, max_steps=1)[0]))
    runs = both(variant, perfect, gold, tokenizer, arguments, max_steps=1, bf16=True)
    ours, theirs = (one_step(watch_gradients(run)) for run in runs)
    assert ours[0] == pytest.approx(exact[0], rel=5e-3)
    error = relative_error(ours[1], exact[1])
    assert 0 < error <= max(1.2 * relative_error(theirs[1], exact[1]), 1e-3)
    assert error < 0.05
