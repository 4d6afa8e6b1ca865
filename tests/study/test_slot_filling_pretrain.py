"""Gold rows go through the weak trainer, every label fully trusted: it is plain fine-tuning."""

import json

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.data import pretraining
from trl_weaks.study.models.tiny import build_model, train_tokenizer
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.students import completions as training
from trl_weaks.study.pipeline.students.gold import tokenized
from trl_weaks.study.pipeline.students.training import HISTORY, trainer_settings


def test_training_on_gold_is_plain_fine_tuning(tmp_path):
    texts = [f"play song {word} in the hall" for word in ("one", "two", "three", "four", "five", "six")]
    rows = list(pretraining.copying(texts))
    validation = list(pretraining.copying(texts, seed=1))
    sizes = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 96}
    factory = ModelFactory(SlotFillingConfig(student_model="tiny:llama", tiny_models={"llama": sizes}))
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "epoch"}

    ours = tmp_path / "ours"
    training.train_on_gold(factory.build("tiny:llama", 0, texts), rows, settings, ours, 0, validation)
    model, tokenizer = factory.build("tiny:llama", 0, texts)
    arguments = trainer_settings(settings | {"eval_strategy": "epoch"}, tmp_path / "plain", 0)
    data = {"train_dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(validation)}
    plain = SFTTrainer(model=model, args=SFTConfig(**arguments), processing_class=tokenizer, **data)
    plain.train()

    found, wanted = json.loads((ours / HISTORY).read_text(encoding="utf-8")), plain.state.log_history
    for keys, count in ((("loss", "grad_norm"), 6), (("eval_loss",), 2)):
        found_steps, wanted_steps = ([[s[k] for k in keys] for s in h if keys[0] in s] for h in (found, wanted))
        assert len(found_steps) == count
        assert found_steps == [pytest.approx(step, rel=1e-4) for step in wanted_steps]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox", "llama"])
def test_rows_are_tokenized_as_trl_does(kind, tmp_path):
    """Also where a token crosses the end of the prompt, and where the answer ends itself."""
    texts = ["play song one in the hall", "wake me at five", '{"song": "one"}']
    tokenizer = train_tokenizer(kind, texts * 20, 420)
    rows = [
        {"prompt": "play song one\n", "completion": '{"song": "one"}'},
        {"prompt": "play so", "completion": "ng one"},
        {"prompt": "wake me", "completion": " at five" + tokenizer.eos_token},
        {"prompt": "", "completion": "wake"},
    ]
    model = build_model(kind, tokenizer, hidden_size=16, layers=1, heads=2, max_length=64, seed=0)
    arguments = trainer_settings({"max_steps": 1}, tmp_path, 0)
    plain = SFTTrainer(
        model, SFTConfig(**arguments), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    found = tokenized(Dataset.from_list(rows)[:], tokenizer)
    assert found["input_ids"] == list(plain.train_dataset["input_ids"])
    assert found["labels"] == list(plain.train_dataset["labels"])
    assert any(-100 not in labels for labels in found["labels"]) or kind == "opt", "the empty prompt"
