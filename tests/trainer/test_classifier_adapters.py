"""Adapters of classifiers: a student that is loaded again is the one that was trained."""

import copy
import logging
import re

import peft
import pytest
import tiny
import torch
from classification_runs import WORDS, classifier, hard_dataset, settings, tokenizer
from peft import LoraConfig, PeftModel, get_peft_model

from trl_weaks import WeakClassifier
from trl_weaks.trainer.classification import adapters
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 2, "eos_token_id": 2,
}  # fmt: skip


def build(folder, model, peft_config=None, **changes) -> WeakClassificationTrainer:
    given = {"weak_loss": "naive", "gamma_max": 0.0, "max_steps": 3} | changes
    return WeakClassificationTrainer(
        model, settings(folder, **given), hard_dataset(12), processing_class=tokenizer(), peft_config=peft_config
    )


def published(folder, kind: str) -> str:
    """A checkpoint with neither head nor pooler, as encoders are published."""
    model = tiny.headless(kind, len(WORDS) + 4, scale=3, pad_token_id=0)
    model.save_pretrained(folder, state_dict={k: v for k, v in model.state_dict().items() if "pooler" not in k})
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind, targets, more, at_random",
    [
        ("deberta-v2", ["query_proj"], {}, ["pooler.dense"]),  # beside the backbone
        ("deberta-v2", ["query_proj", "dense"], {}, ["pooler.dense"]),  # an adapter on it would not be enough
        ("bert", ["query"], {}, ["bert.pooler.dense"]),  # in the backbone
        ("bert", ["query"], {"modules_to_save": ["pooler"]}, []),
        ("roberta", ["query"], {}, []),  # all of it inside `classifier`, which PEFT saves
        ("llama", "all-linear", {}, []),
        ("bert", ["query"], {"task_type": None, "modules_to_save": ["norm"]}, ["bert.pooler.dense", "classifier"]),
    ],
)
def test_all_that_starts_at_random_is_trained_and_saved(tmp_path, kind, targets, more, at_random):
    path = published(tmp_path / "base", kind)
    config = LoraConfig(**{"task_type": "SEQ_CLS", "r": 2, "target_modules": targets} | more)
    trainer = build(tmp_path / "out", path, config)
    known = {*more.get("modules_to_save", ()), *(() if "classifier" in at_random else ("classifier", "score"))}
    assert [one for one in trainer.model.peft_config["default"].modules_to_save if one not in known] == at_random
    trainer.train()
    mine = trainer.predict_classes(hard_dataset(12)).probabilities
    trainer.save_model(tmp_path / "adapter")
    for seed in range(2):
        torch.manual_seed(seed)
        base = type(trainer.model.get_base_model()).from_pretrained(path, num_labels=2)
        base.config.pad_token_id = 0
        again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        found = WeakClassifier(again, tokenizer()).predict(hard_dataset(12)["text"]).probabilities
        torch.testing.assert_close(found, mine, atol=1e-6, rtol=0)


def test_the_users_settings_stay(tmp_path):
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["embeddings"])
    build(tmp_path / "out", published(tmp_path / "base", "bert"), config)
    assert config.modules_to_save == ["embeddings"]


def test_an_adapter_read_from_its_folder_is_the_trained_student(tmp_path):
    path = published(tmp_path / "base", "deberta-v2")
    trainer = build(tmp_path / "out", path, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query_proj"]))
    trainer.train()
    mine = trainer.predict_classes(hard_dataset(12)).probabilities
    trainer.save_model(tmp_path / "adapter")
    tokenizer().save_pretrained(tmp_path / "adapter")
    torch.manual_seed(5)
    found = WeakClassifier.from_pretrained(tmp_path / "adapter").predict(hard_dataset(12)["text"]).probabilities
    torch.testing.assert_close(found, mine, atol=1e-6, rtol=0)


def lora(**more) -> LoraConfig:
    return LoraConfig(r=2, **{"target_modules": ["q_proj"]} | more)


@pytest.mark.parametrize(
    "kind, given, wrapped, lost, remedy",
    [
        ("llama", lora(modules_to_save=["norm"]), None, "score.weight", "['score']"),
        ("llama", lora(task_type="FEATURE_EXTRACTION", modules_to_save=["norm"]), None, "score.weight", "['score']"),
        ("llama", None, lora(), "score.weight", "['score']"),
        ("llama", None, lora(bias="all", target_modules=["q_proj"]), "score.weight", "['score']"),
        ("bert", None, lora(task_type="FEATURE_EXTRACTION", target_modules=["query"]), "classifier.weight", "['cla"),
        ("bart", lora(task_type="SEQ_CLS"), None, "classification_head", "['classification_head.dense', 'classific"),
        ("bart", None, lora(task_type="SEQ_CLS"), "classification_head", "['classification_head.dense', 'classific"),
    ],
)
def test_adapters_that_leave_the_head_out_are_refused(tmp_path, kind, given, wrapped, lost, remedy):
    if kind == "bart":
        model = tiny.classifier("bart", len(WORDS) + 4, 2, pad_token_id=0, bos_token_id=3, **BART)
    else:
        model = classifier(kind)
    if wrapped is not None:
        model = get_peft_model(model, wrapped)
    with pytest.raises(ValueError, match=f"adapters leave {lost}.*untrained and unsaved.*{re.escape(remedy)}"):
        build(tmp_path, model, given)


def test_adapters_put_in_without_peft_models_and_frozen_ones_are_refused(tmp_path):
    model = classifier()
    model.add_adapter(lora())
    with pytest.raises(ValueError, match="adapters leave score.weight untrained"):
        build(tmp_path, model)
    get_peft_model(classifier(), lora(task_type="SEQ_CLS")).save_pretrained(tmp_path)
    for trainable in (True, False):
        model = PeftModel.from_pretrained(classifier(), tmp_path, is_trainable=trainable)
        if trainable:
            build(tmp_path, model)
        else:
            with pytest.raises(ValueError, match="`is_trainable=True`"):
                build(tmp_path, model)


@pytest.mark.parametrize(
    "config",
    [
        lora(task_type="SEQ_CLS", target_modules=["q_proj", "score"]),
        lora(target_modules=["q_proj", "score"]),  # an adapter of the head's own
        lora(modules_to_save=["score"]),
        peft.IA3Config(task_type="SEQ_CLS", target_modules=["q_proj"], feedforward_modules=[]),
        peft.OFTConfig(task_type="SEQ_CLS", target_modules=["q_proj"]),
        peft.LNTuningConfig(task_type="SEQ_CLS"),
        peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
    ],
    ids=lambda config: f"{type(config).__name__}-{config.task_type}",
)
def test_adapters_that_train_the_head_are_taken(tmp_path, config):
    trainer = build(tmp_path, get_peft_model(classifier(), config), max_steps=1)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "score" in n}
    trainer.train()
    assert any(not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters() if "score" in n)


def test_layers_beside_the_head_of_a_given_model_are_named(tmp_path, caplog):
    """Whether they came from a checkpoint cannot be seen any more."""
    model = tiny.classifier("deberta-v2", len(WORDS) + 4, 2, pad_token_id=0)
    with caplog.at_level(logging.WARNING, logger=adapters.__name__):
        build(tmp_path, model, lora(task_type="SEQ_CLS", target_modules=["query_proj"]))
        build(tmp_path, classifier(), lora(task_type="SEQ_CLS"))
    (said,) = [r.getMessage() for r in caplog.records if r.name == adapters.__name__]
    assert "neither train nor save pooler.dense.weight" in said and "modules_to_save=['pooler.dense']" in said


PROMPTS = {
    "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "p-tuning": peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "bert"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_prompts_that_hide_padding_from_a_decoder_are_refused(tmp_path, kind, prompts, wrapped):
    """What is taken answers texts in batches as it answers each alone."""
    model, config = classifier(kind), copy.deepcopy(PROMPTS[prompts])
    model, config = (get_peft_model(model, config), None) if wrapped else (model, config)
    if kind != "bert" and prompts != "prefix":
        with pytest.raises(ValueError, match="loses sight of the padding.*Use LoRA, or `PrefixTuningConfig`"):
            build(tmp_path, model, config)
        return
    trainer = build(tmp_path, model, config)
    batched = trainer.predict_classes(hard_dataset(12)).probabilities
    trainer.args.per_device_eval_batch_size = 1
    torch.testing.assert_close(trainer.predict_classes(hard_dataset(12)).probabilities, batched, atol=1e-5, rtol=0)
