"""Tokens per second against a clock set by hand, FLOPs against a count of real ones, and all three trainers' logs."""

import itertools
import math

import classification_runs as classes
import preference_runs as runs
import pytest
import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from trl_weaks import (
    WeakClassificationConfig,
    WeakClassificationTrainer,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
)
from trl_weaks.trainer._compat import compute_flops_per_token
from trl_weaks.trainer.common import throughput as module
from trl_weaks.trainer.common.throughput import MFU, PER_DEVICE, PER_SECOND, Throughput, model_flops_utilisation


def test_the_clock_leaves_out_evaluation_and_saving(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    clock = Throughput()
    assert clock.read(0) == (0, 0.0, 0)
    clock = Throughput()
    nothing = (None, None, None)
    now = 100.0  # loading and skipping batches took 100 seconds
    clock.on_step_begin(*nothing)
    now, clock.rows = 104.0, 8
    clock.on_step_end(*nothing)
    now = 105.0  # the loss is logged once the device has caught up
    assert clock.read(600) == (600, 5.0, 8)
    now = 125.0
    clock.on_evaluate(*nothing)  # 20 seconds
    now = 126.0  # waiting for data counts
    clock.on_step_begin(*nothing)
    now = 129.0
    clock.on_step_end(*nothing)
    now = 139.0
    clock.on_save(*nothing)  # 10 seconds
    now, clock.rows = 141.0, 4
    clock.on_step_end(*nothing)
    now = 142.0
    assert clock.read(1000) == (400, (129 - 125) + (142 - 139), 4)
    clock.rows = 3
    clock.restart(1100)  # a second training, an hour later
    now = 3742.0
    clock.on_step_begin(*nothing)
    now, clock.rows = 3744.0, 4
    clock.on_step_end(*nothing)
    assert clock.read(1350) == (250, 2.0, 4)


SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=96)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flops_are_those_that_torch_counts(kv_heads):
    """TRL's formula against every matrix product of a forward and backward pass, counted as it runs."""
    config = LlamaConfig(**SHAPE, num_key_value_heads=kv_heads, attn_implementation="eager")
    student, ids = LlamaForCausalLM(config), torch.arange(2 * 24).reshape(2, 24)
    with FlopCounterMode(display=False) as counter:
        student(ids, use_cache=False).logits.sum().backward()
    assert counter.get_total_flops() == pytest.approx(48 * compute_flops_per_token(config, 24), rel=0.01)


def test_utilisation_by_hand():
    config = LlamaConfig(**SHAPE, num_key_value_heads=4)
    layer = 4 * 32 * 32 + 3 * 32 * 48  # weights that multiply each token
    flops = 3 * (2 * (3 * layer + 96 * 32) + 3 * 4 * 32 * 24)  # and, per layer, scores and sums over 24 tokens
    found = model_flops_utilisation(config, 1000.0, 24.3, devices=2, peak=1e9)
    assert found == pytest.approx(100 * flops * 1000 / (2 * 1e9))
    assert model_flops_utilisation(config, 1000.0, 24.0, 2, None) is None
    assert model_flops_utilisation(GPT2Config(), 1000.0, 24.0, 2, 1e9) is None  # TRL does not count its shape


def trainer_of(kind: str, folder, **settings):
    given = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "logging_steps": 1,
        "max_steps": 3, "per_device_train_batch_size": 2, "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True, "save_strategy": "no", "gradient_checkpointing": False,
    } | settings  # fmt: skip
    if kind == "preference":
        policy = runs.model()
        return WeakPreferenceTrainer(
            policy, runs.reference_of(policy), WeakPreferenceConfig(**given),
            train_dataset=runs.pairs(8), processing_class=runs.tokenizer(),
        )  # fmt: skip
    if kind == "classification":
        args = WeakClassificationConfig(**given)
        return WeakClassificationTrainer(
            classes.classifier(num_labels=3),
            args,
            classes.weak_dataset(8, classes=3),
            processing_class=classes.tokenizer(),
        )
    rows = [{"example_id": str(i), "prompt": p["prompt"], "completion": p["chosen"], "weak_supervisors": ["a"],
             "weak_weights": [1.0], "weak_offsets": [[[0, len(p["chosen"])]]], "weak_logps": [[-0.5]]}
            for i, p in enumerate(runs.pairs(8).to_list())]  # fmt: skip
    return WeakSupervisionTrainer(
        runs.model(),
        WeakSupervisionConfig(**given),
        train_dataset=Dataset.from_list(rows),
        processing_class=runs.tokenizer(),
    )


@pytest.mark.parametrize("kind", ["supervision", "classification", "preference"])
def test_every_trainer_logs_its_speed(kind, tmp_path, monkeypatch):
    """Tokens of a step over its seconds; and transformers' own count, which is TRL's, where it is asked for."""
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    trainer = trainer_of(kind, tmp_path)
    peak, asked = 1e9, []
    monkeypatch.setattr(trainer, "_peak_flops", lambda: asked.append(1) or peak)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == len(asked) == 3
    tokens = [0] + [log["num_tokens"] for log in logs]
    for log, before, after in zip(logs, tokens, tokens[1:], strict=False):
        assert 0 < after - before and log["num_input_tokens_seen"] == after
        # the clock ticks at each look: first step begin, step end, reading; later step end, reading
        assert log[PER_SECOND] == log[PER_DEVICE] == pytest.approx((after - before) / 2)
        length = (after - before) / (4 if kind == "preference" else 2)
        config = trainer.model.config
        assert log[MFU] == pytest.approx(model_flops_utilisation(config, log[PER_SECOND], length, 1, peak))
    assert "train_tokens_per_second" in logs[-1] and math.isfinite(logs[-1]["train_tokens_per_second"])


@pytest.mark.parametrize("kind", ["supervision", "classification", "preference"])
def test_no_utilisation_where_the_peak_is_not_known(kind, tmp_path):
    trainer = trainer_of(kind, tmp_path, max_steps=1)
    trainer.train()
    assert trainer._peak_flops() is None
    log = next(log for log in trainer.state.log_history if "loss" in log)
    assert log[PER_SECOND] > 0 and MFU not in log


def test_evaluation_logs_no_training_speed(tmp_path):
    trainer = trainer_of("supervision", tmp_path, max_steps=1)
    trainer.train()
    assert not any("perf/" in name for name in trainer.evaluate(trainer.train_dataset))


@pytest.mark.parametrize("kind", ["supervision", "classification", "preference"])
def test_every_trainer_counts_tokens_on_after_resuming(kind, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    whole = trainer_of(kind, tmp_path, **settings)
    whole.train()
    counts = [log["num_tokens"] for log in whole.state.log_history if "num_tokens" in log]
    again = trainer_of(kind, tmp_path, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [log["num_tokens"] for log in again.state.log_history if "num_tokens" in log] == counts
    assert counts == sorted(set(counts)) and len(counts) == 3
