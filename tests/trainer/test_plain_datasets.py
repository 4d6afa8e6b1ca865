"""Datasets without weak labels are TRL's own business, in every format; weak and plain sets stand side by side."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from shapes import TEXTS, shape
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def turns(prompt, completion):
    return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]


FORMATS = {
    "text": lambda p, c, t: {"text": p + c},
    "prompt-completion": lambda p, c, t: {"prompt": p, "completion": c},
    "messages": lambda p, c, t: {"messages": sum(turns(p, c), [])},
    "conversations": lambda p, c, t: {
        "conversations": [{"from": "user", "value": p}, {"from": "assistant", "value": c}]
    },
    "chat prompt-completion": lambda p, c, t: dict(zip(("prompt", "completion"), turns(p, c), strict=True)),
    "tokenized": lambda p, c, t: t(p + c),
    "tokenized with labels": lambda p, c, t: {"input_ids": t(p + c)["input_ids"], "labels": t(p + c)["input_ids"]},
}


@pytest.fixture
def chat(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


def plain(kind, tokenizer):
    return Dataset.from_list([dict(FORMATS[kind](p, c, tokenizer)) for p, c in TEXTS])


def both(chat, arguments, dataset, eval_dataset=None, **settings):
    more = {name: settings.pop(name) for name in ("formatting_func", "compute_metrics") if name in settings}
    for trainer, config in ((WeakSupervisionTrainer, WeakSupervisionConfig), (SFTTrainer, SFTConfig)):
        yield trainer(
            model=shape("llama", chat),
            args=config(**arguments | settings),
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=chat,
            **more,
        )


def same(ours, theirs, trajectory):
    assert trajectory(ours) == trajectory(theirs)
    for value, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(value, other)
    logs = [[{k: v for k, v in log.items() if k in ("entropy", "mean_token_accuracy", "num_tokens")} for log in
             t.state.log_history] for t in (ours, theirs)]  # fmt: skip
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_plain_dataset_trains_as_sft_does(chat, arguments, trajectory, kind, streamed, caplog):
    rows = plain(kind, chat)
    rows = rows.to_iterable_dataset() if streamed else rows
    with caplog.at_level(logging.INFO, logger="trl_weaks"):
        pair = list(both(chat, arguments, rows, rows, max_steps=4))
        same(*pair, trajectory)
    said = [record.message for record in caplog.records if record.name.startswith("trl_weaks")]
    assert len(said) == 1 and "trained exactly as SFTTrainer trains it" in said[0]
    ours, theirs = (t.evaluate() for t in pair)
    assert ours["eval_loss"] == theirs["eval_loss"]
    assert ours["eval_entropy"] == theirs["eval_entropy"]
    with torch.no_grad():
        assert pair[0].evaluate({"again": plain(kind, chat)})["eval_again_loss"] == ours["eval_loss"]


SETTINGS = {
    "dft": ("text", {"loss_type": "dft"}),
    "label smoothing": ("text", {"label_smoothing_factor": 0.1}),
    "packing": ("text", {"packing": True, "max_length": 64}),
    "wrapped packing": ("prompt-completion", {"packing": True, "max_length": 32, "packing_strategy": "wrapped"}),
    "padding-free": ("text", {"padding_free": True, "max_length": None}),
    "short": ("prompt-completion", {"max_length": 24, "shuffle_dataset": True}),
    "assistants only": ("messages", {"assistant_only_loss": True}),
    "whole rows": ("prompt-completion", {"completion_only_loss": False}),
    "formatting": ("prompt-completion", {"completion_only_loss": False, "formatting_func": lambda r: r["prompt"]}),
    "no preparation": ("tokenized with labels", {"dataset_kwargs": {"skip_prepare_dataset": True}}),
    "accumulation": ("text", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_trl_mean_what_they_mean_there(chat, arguments, trajectory, case):
    kind, settings = SETTINGS[case]
    rows = plain(kind, chat)
    pair = list(both(chat, arguments, rows, rows, **settings))
    same(*pair, trajectory)
    assert pair[0].evaluate()["eval_loss"] == pair[1].evaluate()["eval_loss"]


def test_prepared_plain_rows_are_known_again(chat, arguments):
    """TRL would pack packed rows once more."""
    rows = plain("text", chat)
    trainer = next(both(chat, arguments, rows, rows, packing=True, max_length=64))
    expected = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == expected
    assert trainer.evaluate(rows)["eval_loss"] == expected


@pytest.mark.parametrize("train", ["weak", "plain"])
@pytest.mark.parametrize("kind", ["text", "prompt-completion"])
def test_weak_and_plain_sets_side_by_side(chat, arguments, weak_rows, train, kind):
    weak, gold = Dataset.from_list(weak_rows), plain(kind, chat)
    settings = {"weak_loss": "naive", "gamma_max": 0.0, "per_device_eval_batch_size": 16}
    trainer = WeakSupervisionTrainer(
        model=shape("llama", chat),
        args=WeakSupervisionConfig(**arguments, **settings),
        train_dataset=weak if train == "weak" else gold,
        eval_dataset={"weak": weak, "plain": gold},
        processing_class=chat,
    )
    found = trainer.evaluate()
    stock = SFTTrainer(
        model=shape("llama", chat),
        args=SFTConfig(**arguments, per_device_eval_batch_size=16),
        train_dataset=gold,
        eval_dataset=gold,
        processing_class=chat,
    ).evaluate()
    alone = WeakSupervisionTrainer(
        model=shape("llama", chat),
        args=WeakSupervisionConfig(**arguments, **settings),
        train_dataset=weak,
        eval_dataset=weak,
        processing_class=chat,
    ).evaluate()
    assert found["eval_plain_loss"] == stock["eval_loss"]
    assert found["eval_plain_mean_token_accuracy"] == stock["eval_mean_token_accuracy"]
    assert found["eval_weak_loss"] == alone["eval_loss"]
    assert found["eval_weak_weak/agreement"] == alone["eval_weak/agreement"]
    assert "eval_plain_weak/agreement" not in found
    assert trainer.evaluate({"other": weak})["eval_other_loss"] == alone["eval_loss"]


def test_a_loss_that_would_not_be_used_is_refused(chat, arguments):
    with pytest.raises(ValueError, match="`loss` for a training dataset without weak labels"):
        WeakSupervisionTrainer(
            shape("llama", chat),
            WeakSupervisionConfig(**arguments),
            loss=lambda logits, targets, progress: logits.sum(-1),
            train_dataset=plain("text", chat),
            processing_class=chat,
        )


def test_the_cards_say_who_trained(chat, arguments):
    trainer = next(both(chat, arguments, plain("text", chat)))
    trainer.create_model_card(model_name="tiny")
    card = Path(arguments["output_dir"], "README.md").read_text(encoding="utf-8")
    assert "## Weak supervision" not in card and "- sft" in card and "- trl_weaks" in card
    assert {"trl", "sft", "trl_weaks"} <= set(trainer.model.model_tags)
