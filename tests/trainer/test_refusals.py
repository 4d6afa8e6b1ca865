"""What is refused beside weak labels is in one table, with reason and remedy; the documentation prints it."""

import logging
import re
from dataclasses import fields
from pathlib import Path

import classification_runs
import preference_runs
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny import causal_lm, classifier, encoder_decoder
from transformers import AutoConfig, BartConfig, T5Config

from trl_weaks import (
    WeakClassificationTrainer,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
)
from trl_weaks.losses import LOSSES
from trl_weaks.trainer.completions import refusals

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "refused_settings.md"
NOT_HERE = "no-such-model"  # a check that waited for the model would fail otherwise
SETTINGS = {  # one way to ask for each
    "`loss_type='dft'`": {"loss_type": "dft"},
    "`label_smoothing_factor`": {"label_smoothing_factor": 0.1},
    "`use_liger_kernel=True`": {"use_liger_kernel": True},
    "`completion_only_loss=False`": {"completion_only_loss": False},
    "`dataset_kwargs={'skip_prepare_dataset': True}`": {"dataset_kwargs": {"skip_prepare_dataset": True}},
    "`packing_strategy='wrapped'`": {"packing": True, "packing_strategy": "wrapped"},
    "`eval_packing=True` without `packing` or `padding_free`": {"eval_packing": True},
    "`dispatch_batches=True` with `packing` or `padding_free`": {
        "packing": True,
        "accelerator_config": {"dispatch_batches": True},
    },
}


@pytest.fixture
def config_alone(monkeypatch, student):
    """The student's configuration can be read, its weights cannot."""
    monkeypatch.setattr(
        AutoConfig, "from_pretrained", lambda *a, **k: student(architectures=["LlamaForCausalLM"]).config
    )


def build(arguments, rows, model=NOT_HERE, tokenizer=None, eval_dataset=None, given=None, **settings):
    return WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=rows if not isinstance(rows, list) else Dataset.from_list(rows),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        **given or {},
    )


@pytest.mark.parametrize("what", SETTINGS)
@pytest.mark.parametrize("where", ["train", "eval"])
def test_settings_are_refused_before_the_model_is_loaded(arguments, weak_rows, gold, config_alone, what, where):
    (refusal,) = [r for r, _ in refusals.SETTINGS if r.what == what]
    weak = Dataset.from_list(weak_rows)
    with pytest.raises(ValueError) as caught:
        build(arguments, *((weak,) if where == "train" else (gold,)), eval_dataset={"a": weak}, **SETTINGS[what])
    for part in (refusal.what, refusal.reason, refusal.remedy):
        assert part in str(caught.value)


def test_every_refused_setting_is_tried_and_is_fine_at_its_default():
    assert list(SETTINGS) == [refusal.what for refusal, _ in refusals.SETTINGS]
    args = WeakSupervisionConfig(output_dir="unused", use_cpu=True, bf16=False)
    assert not any(asked(args) for _, asked in refusals.SETTINGS)
    names = {field.name for field in fields(args)}
    assert {name for settings in SETTINGS.values() for name in settings} <= names


@pytest.mark.parametrize("name", refusals.ARGUMENTS)
def test_arguments_are_refused_before_the_model_is_loaded(arguments, weak_rows, config_alone, name):
    with pytest.raises(ValueError, match=f"`{name}` is not supported with weak labels"):
        build(arguments, weak_rows, given={name: lambda *a, **k: None})


def test_a_bad_row_is_found_before_the_model_is_loaded(arguments, weak_rows, config_alone):
    bad = [dict(row) for row in weak_rows]
    bad[1]["weak_weights"] = [-1.0]
    with pytest.raises(ValueError, match="Row 1 .*column 'weak_weights'"):
        build(arguments, bad)
    with pytest.raises(ValueError, match="Row 1 .*column 'weak_weights'"):
        build(arguments, weak_rows, eval_dataset={"a": Dataset.from_list(weak_rows), "b": Dataset.from_list(bad)})
    with pytest.raises(OSError):  # the rows are fine, and now the model is asked for
        build(arguments, weak_rows)


@pytest.mark.parametrize("config", [T5Config, BartConfig])
def test_an_encoder_decoder_is_refused_before_it_is_loaded(arguments, weak_rows, gold, monkeypatch, config):
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *a, **k: config())
    for rows in (Dataset.from_list(weak_rows), gold):
        with pytest.raises(ValueError, match=rf"{config.model_type}: an encoder-decoder student.*decoder-only"):
            build(arguments, rows)


def test_a_loaded_encoder_decoder_is_refused(arguments, weak_rows, tokenizer):
    model = encoder_decoder("t5", len(tokenizer), inner=16, d_kv=8)
    with pytest.raises(ValueError, match="t5: an encoder-decoder student"):
        build(arguments, weak_rows, model, tokenizer)


def test_a_tokenizer_that_splits_special_tokens_is_refused(arguments, weak_rows, tokenizer, config_alone):
    tokenizer.split_special_tokens = True
    try:
        with pytest.raises(ValueError, match="`split_special_tokens=True`.*letter by letter.*= False"):
            build(arguments, weak_rows, tokenizer=tokenizer)
    finally:
        tokenizer.split_special_tokens = False


@pytest.mark.parametrize("weak", [True, False])
def test_a_dataset_with_a_transform_is_refused(arguments, weak_rows, gold, student, tokenizer, weak):
    rows = (Dataset.from_list(weak_rows) if weak else gold).with_transform(lambda batch: batch)
    message = r"Dataset\.with_transform\(\).*skip_prepare_dataset.*trainer-ready"
    with pytest.raises(ValueError, match=message):
        build(arguments, rows, student(), tokenizer)
    trainer = build(arguments, weak_rows, student(), tokenizer)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(rows)


def test_a_set_that_is_evaluated_later_is_held_to_the_same(arguments, weak_rows, gold, student, tokenizer):
    trainer = build(arguments, gold, student(), tokenizer, loss_type="dft")
    with pytest.raises(ValueError, match="loss_type='dft'"):
        trainer.evaluate(Dataset.from_list(weak_rows))


ENDLESS = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("template, warns", [(ENDLESS, True), (ENDLESS.replace("}}\n", "}}<eos>\n"), False)])
def test_a_template_without_an_end_mark_gets_a_warning(
    arguments, weak_rows, student, tokenizer, caplog, template, warns
):
    """And a supervisor's log-probability of its end, which no token stands for, is nobody's."""
    rows = [
        row
        | {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in weak_rows
    ]
    before, tokenizer.chat_template = tokenizer.chat_template, template.replace("\n{% endfor", "{% endfor")
    try:
        with caplog.at_level(logging.WARNING, logger="trl_weaks"):
            trainer = build(arguments, rows, student(), tokenizer)
    finally:
        tokenizer.chat_template = before
    said = [r.message for r in caplog.records if "writes nothing after an answer" in r.message]
    assert len(said) == warns
    row, weak = trainer.train_dataset[0], weak_rows[0]
    sums = {u: p[0] for u, p in zip(row["weak_unit_ids"], row["weak_unit_logps"], strict=True) if u >= 0}
    logps = weak["weak_logps"][0]
    assert sum(sums.values()) == pytest.approx(sum(logps[:-1] if warns else logps))


def test_the_documentation_prints_the_tables():
    written = DOCUMENT.read_text(encoding="utf-8")
    parts = [part.strip() + "\n" for part in written.split("\n## ")[1:]]
    for part, refused in zip(parts, (refusals.ALL, refusals.PREFERENCE, refusals.CLASSIFICATION), strict=True):
        assert part.endswith("\n\n" + refusals.table(refused))


def preference(folder, given=None, reference=True, policy=None, rows=None, **settings):
    policy = policy or preference_runs.model()
    args = WeakPreferenceConfig(**preference_runs.settings(folder) | settings)
    rows = rows or preference_runs.pairs()
    reference = preference_runs.reference_of(policy) if reference else None
    tokenizer = preference_runs.tokenizer()
    WeakPreferenceTrainer(policy, reference, args, train_dataset=rows, processing_class=tokenizer, **given or {})


PREFERENCE = {  # one way to ask for each
    "`label_smoothing_factor`": {"label_smoothing_factor": 0.1},
    "`preference_loss` beside `loss_type`": {"preference_loss": "cdpo", "loss_type": "ipo"},
    "`preference_loss` beside `loss_weights`": {"preference_loss": "cdpo", "loss_weights": [2.0]},
    "`preference_loss` beside `f_divergence_type`": {"preference_loss": "cdpo", "f_divergence_type": "forward_kl"},
    "`preference_loss` beside `use_weighting`": {"preference_loss": "cdpo", "use_weighting": True},
    "`label_smoothing` or `use_pair_epsilon=True` with `preference_loss='sigmoid'`": {
        "preference_loss": "sigmoid",
        "label_smoothing": 0.1,
    },
    "`use_pair_epsilon=True` with TRL's losses": {"loss_type": "robust", "use_pair_epsilon": True},
    "`label_smoothing` with a `loss_type` that does not read it": {"loss_type": "hinge", "label_smoothing": 0.1},
    "`pair_weight` with `loss_type` 'aot' or 'aot_unpaired'": {"loss_type": "aot"},
    "`disable_dropout=True` (TRL's default) with a layer that reads its dropout from the configuration (Falcon)": {
        "reference": False,
        "precompute_ref_log_probs": True,
        "policy": causal_lm(
            "falcon", 320, width=32, layers=2, heads=4, seed=0, hidden_dropout=0.1, attention_dropout=0.0
        ),
    },
    "a model that holds adapters and is no `PeftModel`": {
        "reference": False,
        "precompute_ref_log_probs": True,
        "policy": get_peft_model(preference_runs.model(), LoraConfig(target_modules=["q_proj"])).get_base_model(),
    },
    "`data_collator` of `WeakPreferenceTrainer`": {"given": {"data_collator": print}},
    "a model built in memory without `ref_model`": {"reference": False},
    "a `PeftModel` that trains another adapter than 'default', without `ref_model`": {
        "reference": False,
        "policy": get_peft_model(preference_runs.model(), LoraConfig(target_modules=["q_proj"]), "mine"),
    },
}


def classification(folder, given=None, model=None, rows=None, **settings):
    model = model or classification_runs.classifier()
    args = classification_runs.settings(folder, **settings)
    rows = rows or classification_runs.weak_dataset()
    tokenizer = classification_runs.tokenizer()
    WeakClassificationTrainer(model, args, rows, processing_class=tokenizer, **given or {})


def without_a_head():
    model = classification_runs.classifier()
    torch.nn.init.zeros_(model.score.weight)
    return model


def other_names():
    model, rows = classification_runs.classifier(), classification_runs.weak_dataset()
    model.config.id2label, model.config.label2id = {0: "yes", 1: "no"}, {"yes": 0, "no": 1}
    return {"model": model, "rows": rows.cast_column("label", ClassLabel(names=["no", "yes"]))}


def lora(kind):
    return LoraConfig(task_type=kind, target_modules=["q_proj"])


VOTES = {"weak_loss": "dirichlet_votes"}
CLASSIFICATION = {
    "`label_smoothing_factor`": lambda: {"label_smoothing_factor": 0.1},
    "`data_collator`, `compute_loss_func`, `model_init`": lambda: {"given": {"compute_loss_func": print}},
    "`threshold='balanced'` with `gamma_max=0`": lambda: {"threshold": "balanced", "gamma_max": 0.0},
    "`weak_loss='dirichlet_votes'` with `gamma_max` or another `pooling`": lambda: VOTES | {"gamma_max": 0.3},
    "`weak_loss` 'realm' or 'realm_learned' with `gamma_max`": lambda: {"weak_loss": "realm", "gamma_max": 0.3},
    "`weak_loss` 'adaptive_confidence', 'confidence_window', 'entropy' or 'product' with `gamma_max`": lambda: {
        "weak_loss": "product",
        "gamma_max": 0.3,
    },
    "`weak_loss='dirichlet_votes'` with `evidence='relu'`": lambda: VOTES | {"gamma_max": 0.0, "evidence": "relu"},
    "`pooling='log_linear'` with `soft_labels=False`": lambda: {"pooling": "log_linear", "soft_labels": False},
    "`evidence='relu'` with a classification head of zeros": lambda: {"evidence": "relu", "model": without_a_head()},
    "`model_init_kwargs` with a loaded model": lambda: {"model_init_kwargs": {"num_labels": 2}},
    "`peft_config` that leaves the classification head untrained": lambda: {
        "given": {"peft_config": lora("CAUSAL_LM")}
    },
    "prompt tuning or P-tuning of a decoder": lambda: {
        "given": {"peft_config": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)}
    },
    "a `PeftModel` with `peft_config`": lambda: {
        "model": get_peft_model(classification_runs.classifier(), lora("SEQ_CLS")),
        "given": {"peft_config": lora("SEQ_CLS")},
    },
    "`disable_dropout=True` (the default) with a layer that reads its dropout from the configuration": lambda: {
        "model": classifier("falcon", len(classification_runs.WORDS) + 4, pad_token_id=0, hidden_dropout=0.1)
    },
    "class names of another number than the votes have classes": lambda: {
        "rows": classification_runs.weak_dataset().cast_column("label", ClassLabel(names=["a", "b", "c"]))
    },
    "an evaluation set without votes and `label`": lambda: {
        "given": {"eval_dataset": Dataset.from_dict({"text": ["w1 w2"]})}
    },
    "a model with another number of labels than the data has classes": lambda: {
        "model": classification_runs.classifier(num_labels=3)
    },
    "a student whose `id2label` has the data's names in another order": other_names,
}


@pytest.mark.parametrize("what", PREFERENCE)
def test_the_preference_trainer_refuses_in_these_words(tmp_path, what):
    check(refusals.PREFERENCE, what, lambda: preference(tmp_path, **PREFERENCE[what]))


@pytest.mark.parametrize("what", CLASSIFICATION)
def test_the_classification_trainer_refuses_in_these_words(tmp_path, what):
    check(refusals.CLASSIFICATION, what, lambda: classification(tmp_path, **CLASSIFICATION[what]()))


def check(refused, what, ask):
    (refusal,) = [r for r in refused if r.what == what]
    with pytest.raises(ValueError) as caught:
        ask()
    assert refusal.reason in str(caught.value) and refusal.remedy.split("K`")[0] in str(caught.value)


def test_every_refusal_of_the_other_trainers_is_tried():
    assert list(PREFERENCE) == [r.what for r in refusals.PREFERENCE if r.what != "a dataset of images"]
    assert list(CLASSIFICATION) == [r.what for r in refusals.CLASSIFICATION]


@pytest.mark.parametrize("flag", ["needs_votes", "trusts_student"])
def test_the_losses_that_refuse_the_auxiliary_one_are_all_named(flag):
    """Losses that other tests register, or users, are not the package's."""
    own = {name for name, kind in LOSSES.items() if kind.__module__.startswith("trl_weaks.")}
    named = {what for refusal in refusals.CLASSIFICATION for what in re.findall(r"'(\w+)'", refusal.what)}
    assert {name for name in own if getattr(LOSSES[name], flag)} <= named
