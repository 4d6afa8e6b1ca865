"""Metrics of an evaluation are named after their set, are exact over unequal batches, and end with it."""

import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from shapes import shape
from transformers import TrainingArguments
from trl import SFTConfig

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer


def build(tokenizer, arguments, rows, eval_dataset=None, **settings):
    return WeakSupervisionTrainer(
        model=shape("llama", tokenizer),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )


def by_hand(trainer, rows, tokenizer):
    """Agreement over all tokens of the rows, one row at a time."""
    right = total = 0.0
    for row in rows:
        text = row["prompt"] + row["completion"] + tokenizer.eos_token
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        start = len(tokenizer(row["prompt"])["input_ids"])
        with torch.no_grad():
            top = trainer.model.eval()(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
        weight = sum(row["weak_weights"])
        right += weight * float((top == ids[0, start:]).sum())
        total += weight * (ids.shape[1] - start)
    return right / total


@pytest.mark.parametrize("batch", [{}, {"padding_free": True, "max_length": None}], ids=["rows", "padding-free"])
def test_sets_keep_their_metrics_apart_and_exact(tokenizer, arguments, weak_rows, batch):
    """Batches of 5 leave 2 of 12 rows for the last: a mean of the batches' means would be another number."""
    few, many = weak_rows[:2], copy.deepcopy(weak_rows)
    sets = {"a": Dataset.from_list(few), "b": Dataset.from_list(many)}
    settings = {"per_device_eval_batch_size": 5, "confidence_split": "uniform"} | batch
    trainer = build(tokenizer, arguments | {"learning_rate": 0.05}, weak_rows, sets, **settings)
    trainer.train()
    found = trainer.evaluate()
    for name, rows in (("a", few), ("b", many)):
        assert found[f"eval_{name}_weak/agreement"] == pytest.approx(by_hand(trainer, rows, tokenizer), abs=1e-6)
        assert {f"eval_{name}_{m}" for m in ("entropy", "mean_token_accuracy", "weak/confidence")} <= set(found)
    assert found["eval_a_weak/agreement"] != found["eval_b_weak/agreement"]
    assert "eval_weak/agreement" not in found
    logs = [log for log in trainer.state.log_history if "eval_b_weak/agreement" in log]
    assert len(logs) == 1 and "eval_a_weak/agreement" not in logs[0]


def test_the_best_model_can_be_chosen_by_a_set(tokenizer, arguments, weak_rows):
    sets = {"a": Dataset.from_list(weak_rows[:2]), "b": Dataset.from_list(weak_rows)}
    best = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = build(
        tokenizer, arguments, weak_rows, sets, metric_for_best_model="eval_a_weak/agreement", **best
    )  # a KeyError where the name of the set is missing
    trainer.train()
    seen = [log["eval_a_weak/agreement"] for log in trainer.state.log_history if "eval_a_weak/agreement" in log]
    assert trainer.state.best_metric == max(seen)


def test_a_prediction_does_not_leak_into_the_next_evaluation(tokenizer, arguments, weak_rows):
    few, many = Dataset.from_list(weak_rows[:2]), Dataset.from_list(weak_rows)
    trainer = build(tokenizer, arguments, weak_rows)
    expected = trainer.evaluate(many)
    predicted = trainer.predict(few).metrics
    assert predicted["test_weak/agreement"] == trainer.evaluate(few)["eval_weak/agreement"]
    again = trainer.evaluate(many)
    for name in ("eval_weak/agreement", "eval_weak/confidence", "eval_entropy", "eval_mean_token_accuracy"):
        assert again[name] == expected[name]
    trainer.predict(few)
    trainer.train()
    first = next(log for log in trainer.state.log_history if "weak/agreement" in log)
    fresh = build(tokenizer, arguments, weak_rows)
    fresh.train()
    assert first["weak/agreement"] == next(
        log["weak/agreement"] for log in fresh.state.log_history if "weak/agreement" in log
    )


def test_tokens_are_counted_on_after_resuming(tokenizer, arguments, weak_rows):
    settings = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 3, "logging_steps": 2}
    whole = build(tokenizer, arguments, weak_rows, **settings)
    whole.train()
    counts = [log["num_tokens"] for log in whole.state.log_history if "num_tokens" in log]
    checkpoint = Path(arguments["output_dir"], "checkpoint-3")
    again = build(tokenizer, arguments, weak_rows, **settings)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert [log["num_tokens"] for log in again.state.log_history if "num_tokens" in log] == counts
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["trl_weaks.tokens"]  # as an earlier version left it: what was logged last
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    old = build(tokenizer, arguments, weak_rows, **settings)
    old.train(resume_from_checkpoint=str(checkpoint))
    assert counts[0] < old._total_train_tokens < counts[-1]


@pytest.mark.parametrize("kind", [TrainingArguments, SFTConfig])
def test_settings_of_trl_and_transformers_are_taken(tokenizer, arguments, weak_rows, kind):
    args = kind(**arguments | {"weight_decay": 0.125, "hub_token": "secret"})
    trainer = WeakSupervisionTrainer(
        model=shape("llama", tokenizer),
        args=args,
        train_dataset=Dataset.from_list(weak_rows),
        processing_class=tokenizer,
    )
    assert isinstance(trainer.args, WeakSupervisionConfig)
    for name in ("weight_decay", "hub_token", "learning_rate", "bf16", "seed", "logging_steps"):
        assert getattr(trainer.args, name) == getattr(args, name)
    trainer.train()
    assert trainer.state.global_step == 6
