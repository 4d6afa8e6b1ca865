"""Prompt tuning, prefix tuning and p-tuning train through the trainer, and only what they add."""

import pytest
import torch
from datasets import Dataset
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

KINDS = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16),
}


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("kind", KINDS)
def test_learned_tokens_learn(kind, soft, student, weak_rows, tokenizer, arguments):
    settings = {"gradient_checkpointing": False, "max_steps": 8, "learning_rate": 0.1, "soft_labels": soft}
    trainer = WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments | settings | {"per_device_train_batch_size": len(weak_rows)}),
        train_dataset=Dataset.from_list(weak_rows),
        processing_class=tokenizer,
        peft_config=KINDS[kind],
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("prompt_encoder" in name for name in moved)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
