"""Pre-training goes through the weak trainer, with one supervisor that is always sure: it is plain fine-tuning."""

import json

import pytest
from datasets import Dataset

from trl_weaks.study.data import pretraining
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.training import HISTORY
from trl_weaks.study.slot_filling import training
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.methods import Method
from trl_weaks.study.slot_filling.pretrain import labelled_by_one


def test_pretraining_equals_plain_fine_tuning_on_its_rows(tmp_path):
    texts = [f"play song {word} in the hall" for word in ("one", "two", "three", "four", "five", "six")]
    rows = list(pretraining.copying(texts))
    sizes = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 96}
    factory = ModelFactory(SlotFillingConfig(student_model="tiny:llama", tiny_models={"llama": sizes}))
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "no"}
    plain = Method(name="p", label="p", weak_loss="naive", soft_labels=False, auxiliary=False)
    histories = []
    for name in ("gold", "weak"):
        folder = tmp_path / name
        folder.mkdir()
        loaded = factory.build("tiny:llama", 0, texts)
        if name == "gold":
            training.train_on_gold(loaded, rows, settings, folder, 0)
        else:
            training.train_on_weak(loaded, Dataset.from_list(labelled_by_one(rows)), plain, settings, folder, 0)
        history = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        histories.append([(step["loss"], step["grad_norm"]) for step in history if "loss" in step])
    assert len(histories[0]) == 6
    assert histories[1] == [pytest.approx(step, rel=1e-4) for step in histories[0]]
