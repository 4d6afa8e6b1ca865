"""Every trainer takes a path, a loaded model and a wrapped one, with and without `peft_config`: one step trains it."""

import classification_runs as classification
import preference_runs as preference
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from trl_weaks import (
    WeakClassificationTrainer,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
)

TARGETS = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
TRAINERS = ("supervision", "classification", "preference")
FORMS = ("path", "loaded", "PeftModel")


def lora_of(which):
    """New each time: PEFT writes into it."""
    return LoraConfig(task_type="SEQ_CLS" if which == "classification" else "CAUSAL_LM", **TARGETS)


@pytest.fixture
def parts(tokenizer, student, weak_rows, arguments):
    """Trainer -> its class, settings, dataset, tokenizer and a fresh model."""

    def of(which, **changes):
        if which == "supervision":
            args = WeakSupervisionConfig(**arguments | {"max_steps": 1} | changes)
            return WeakSupervisionTrainer, args, Dataset.from_list(weak_rows), tokenizer, student()
        if which == "classification":
            args = classification.settings(arguments["output_dir"], max_steps=1, **changes)
            rows, model = classification.weak_dataset(), classification.classifier()
            return WeakClassificationTrainer, args, rows, classification.tokenizer(), model
        args = WeakPreferenceConfig(**preference.settings(arguments["output_dir"], max_steps=1, **changes))
        return WeakPreferenceTrainer, args, preference.pairs(), preference.tokenizer(), preference.model()

    return of


def build(parts, which, form, adapters, folder, **changes):
    trainer, args, rows, tokenizer, model = parts(which, **changes)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    if form == "path":
        model, tokenizer = str(folder), None
    else:
        model = type(model).from_pretrained(folder)  # the reference of a loaded policy is read from its path
    if form == "PeftModel":
        model = get_peft_model(model, lora_of(which))
    peft_config = lora_of(which) if adapters else None
    return trainer(model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)


def moved(trainer):
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    return {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("which", TRAINERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("adapters", [False, True], ids=["alone", "with peft_config"])
def test_one_step(parts, tmp_path, which, form, adapters):
    if form == "PeftModel" and adapters:  # as in TRL, which tells how to go on
        with pytest.raises(ValueError, match="(?i)merge"):
            build(parts, which, form, adapters, tmp_path / "model")
        return
    trainer = build(parts, which, form, adapters, tmp_path / "model")
    trained = moved(trainer)
    assert trainer.state.global_step == 1 and torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
    if form == "PeftModel" or adapters:
        heads = {name for name in trained if "modules_to_save" in name}
        assert bool(heads) == (which == "classification")
        assert all("lora_" in name and ".ref." not in name for name in trained - heads)
        assert {layer for layer in (0, 1) if any(f"layers.{layer}." in name for name in trained)} == {0, 1}
    else:
        assert any("q_proj" in name for name in trained)


@pytest.mark.parametrize("which", TRAINERS)
@pytest.mark.parametrize("form, adapters", [("PeftModel", False), ("loaded", True)], ids=["wrapped", "peft_config"])
def test_reentrant_checkpointing_trains_adapters_however_they_came(parts, tmp_path, which, form, adapters):
    """Without gradients of the embeddings' output, reentrant checkpointing trains nothing below the head."""
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    trained = moved(build(parts, which, form, adapters, tmp_path / "model", **options))
    assert any("lora_" in name for name in trained)


def test_a_wrapped_model_steps_as_the_trainers_own_wrapping(parts, tmp_path):
    """Losses and adapters of a `PeftModel` equal those of the same model with `peft_config`."""
    steps = []
    for form, adapters in (("PeftModel", False), ("loaded", True)):
        torch.manual_seed(0)
        trainer = build(parts, "classification", form, adapters, tmp_path / form)
        torch.manual_seed(0)
        for name, p in trainer.model.named_parameters():
            if "lora_A" in name:
                torch.nn.init.normal_(p)
        trainer.train()
        steps.append((trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]))
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)
