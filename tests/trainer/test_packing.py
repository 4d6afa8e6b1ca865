"""Texts packed into one row train exactly as texts in rows of their own."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from shapes import one_step, relative_error, shape, watch_gradients
from tiny import causal_lm

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.completions.packing_checks import refuse_packing

PACKED = [{"packing": True, "max_length": 64}, {"padding_free": True, "max_length": None}]
LOSSES = [
    {"weak_loss": "naive", "gamma_max": 0.0, "soft_labels": False},
    {"weak_loss": "naive", "gamma_max": 0.25, "gamma_warmup": 0.0},
    {"weak_loss": "bayesian", "gamma_max": 0.25, "gamma_warmup": 0.0, "kl_anneal": 0.0, "kl_coef": 1e-2},
    {"weak_loss": "bayesian", "confidence_split": "uniform", "gamma_max": 0.0},
]


def squared_error(logits, targets, progress):
    return (logits.softmax(-1) - targets).square().sum(-1)


def trainer(model, rows, tokenizer, arguments, loss=None, eval_dataset=None, **settings):
    given = arguments | {"max_grad_norm": 0.0, "max_steps": 1, "per_device_train_batch_size": 64} | settings
    return watch_gradients(
        WeakSupervisionTrainer(
            model=model,
            args=WeakSupervisionConfig(**given),
            loss=loss,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
        )
    )


def close_run(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=2e-6)
    assert relative_error(ours[1], theirs[1]) <= 2e-6
    for name in ("entropy", "mean_token_accuracy", "num_tokens", "weak/confidence", "weak/agreement"):
        assert ours[2][name] == pytest.approx(theirs[2][name], rel=1e-5), name


@pytest.mark.parametrize("packed", PACKED, ids=["packing", "padding_free"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_packed_rows_are_separate_rows(name, attention, packed, weak_rows, tokenizer, arguments):
    runs = []
    for settings in ({}, packed):
        model = shape(name, tokenizer, attn_implementation=attention)
        runs.append(trainer(model, weak_rows, tokenizer, arguments, **settings))
    assert len(runs[1].train_dataset) < len(runs[0].train_dataset) or "padding_free" in packed
    close_run(one_step(runs[1]), one_step(runs[0]))


@pytest.mark.parametrize("loss", [*LOSSES, squared_error])
def test_every_loss_is_exact_on_packed_rows(loss, weak_rows, tokenizer, arguments):
    weak_rows[1]["weak_weights"] = [1.0]  # unequal weights, and one row with more supervisors than the others
    weak_rows[0]["weak_weights"] = [0.0]
    given = {"loss": loss} if callable(loss) else loss
    runs = [
        one_step(trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, **given, **settings))
        for settings in ({}, PACKED[0])
    ]
    close_run(*runs)


def test_units_of_texts_that_share_a_row_stay_apart(tokenizer, arguments, perfect):
    """Two completions of one word each: both are unit 0, one after the other, and neither shares with the other."""
    rows = [perfect[1], perfect[5]]
    for row, logp in zip(rows, (-0.2, -0.9), strict=True):
        row["weak_logps"] = [[logp] * len(row["weak_logps"][0])]
    settings = {"weak_loss": "naive", "gamma_max": 0.0, "confidence_split": "uniform"}
    runs = [
        one_step(trainer(shape("llama", tokenizer), copy.deepcopy(rows), tokenizer, arguments, **settings, **packed))
        for packed in ({}, PACKED[1])
    ]
    close_run(*runs)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_every_column_of_a_packed_row_belongs_to_its_token(strategy, weak_rows, tokenizer, arguments):
    plain = trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments).train_dataset
    settings = PACKED[0] | {"packing_strategy": strategy}
    packed = trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, **settings).train_dataset
    assert max(map(len, packed["input_ids"])) <= 64
    known = {tuple(row["input_ids"]): row for row in plain}
    seen = 0
    for row in packed:
        start = 0
        for length in row["seq_lengths"]:
            part = slice(start, start + length)
            source = known[tuple(row["input_ids"][part])]
            assert row["labels"][part] == source["labels"]
            assert row["weak_unit_ids"][part] == source["weak_unit_ids"]
            assert row["weak_unit_logps"][part] == source["weak_unit_logps"]
            assert row["weak_row_weights"][part] == [source["weak_row_weights"]] * length
            start, seen = start + length, seen + 1
    assert seen == len(plain)


def test_packed_evaluation_gives_the_loss_of_separate_rows(weak_rows, gold, tokenizer, arguments):
    """One batch holds everything, so that the mean over batches is the mean over tokens in both layouts."""
    losses = []
    for settings in ({}, PACKED[0]):
        run = trainer(
            shape("gpt2", tokenizer),
            weak_rows,
            tokenizer,
            arguments,
            per_device_eval_batch_size=64,
            eval_dataset={"weak": Dataset.from_list(weak_rows), "gold": gold},
            **settings,
        )
        losses.append(run.evaluate())
    for name in ("eval_weak_loss", "eval_gold_loss"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=2e-6)


def test_a_packed_run_saves_a_card_and_resumes_bit_identical(weak_rows, tokenizer, arguments):
    """Packed rows know neither supervisors nor examples; every checkpoint writes them into the card."""
    settings = PACKED[0] | {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    runs = []
    for checkpoint in (None, f"{arguments['output_dir']}/checkpoint-2"):
        run = trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, **settings)
        run.train(resume_from_checkpoint=checkpoint)
        runs.append(dict(run.model.named_parameters()))
        card = Path(arguments["output_dir"], "README.md").read_text(encoding="utf-8")
        assert "| weak supervisors | `ann`, `bob` |" in card
        assert "| examples, distinct completions | 8, 12 |" in card
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_a_batch_of_prompts_alone_changes_nothing(weak_rows, tokenizer, arguments):
    """Cutting can leave packed rows without a token to learn, as TRL's."""
    settings = {"packing": True, "max_length": 6, "per_device_train_batch_size": 1, "max_steps": 12}
    run = trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, **settings)
    bare = [all(label == -100 for label in row["labels"]) for row in run.train_dataset]
    assert any(bare) and not all(bare)
    run.train()
    losses = [log["loss"] for log in run.state.log_history if "loss" in log]
    assert min(losses) == 0.0 < max(losses) and all(loss == loss for loss in losses)


def test_opt_is_refused_with_the_reason(weak_rows, tokenizer, arguments):
    for settings in PACKED:
        with pytest.raises(ValueError, match="OPT builds its causal mask without the positions"):
            trainer(shape("opt", tokenizer), weak_rows, tokenizer, arguments, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"packing": True, "packing_strategy": "wrapped", "max_length": 64}, "cuts completions in two"),
        ({"packing": True, "max_length": None}, "needs `max_length`"),
        ({"eval_packing": True, "max_length": 64}, "needs `packing=True` or `padding_free=True`"),
        ({"packing": True, "max_length": 20, "overlong": "refuse"}, "longer than 20 tokens"),
        ({**PACKED[1], "accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
    ],
)
def test_settings_that_cannot_be_exact_are_refused(settings, message, weak_rows, tokenizer, arguments):
    with pytest.raises(ValueError, match=message):
        trainer(shape("llama", tokenizer), weak_rows, tokenizer, arguments, **settings)


def mistral(tokenizer):
    return causal_lm("mistral", len(tokenizer), width=32, inner=48, layers=2, kv_heads=1)


def test_another_architecture_is_tried_at_start(tokenizer, monkeypatch):
    model = mistral(tokenizer)
    refuse_packing(model)  # exact, and left as it was
    assert model.training
    backbone = model.base_model
    forward = type(backbone).forward

    def without_positions(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(backbone), "forward", without_positions)
    with pytest.raises(ValueError, match="another text shares the row"):
        refuse_packing(model)


def test_a_model_that_cannot_be_tried_is_refused(tokenizer):
    with pytest.raises(ValueError, match="not here to be tried"):
        refuse_packing(mistral(tokenizer).to("meta"))
