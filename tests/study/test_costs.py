"""Costs of stages: near the seconds that a default run took, and grown by what makes a stage longer."""

import gzip
import json

import pytest

from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.pipeline.costs import SETUP, in_seconds, row_seconds, rows_trained
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.pipeline import SlotFillingRun
from trl_weaks.study.slot_filling.pretrain import expected_rows, pretrain_stage, pretraining_rows
from trl_weaks.study.slot_filling.sources import Source

WEAK = {"hidden_size": 64, "layers": 2, "heads": 2, "max_length": 256}
PASS = {"per_device_train_batch_size": 32, "num_train_epochs": 1}
MEASURED = {  # settings and seconds of a run of three seeds, 2026-11-21, two stages side by side on two cores
    "weak_models": ["tiny:gpt2", "tiny:opt", "tiny:gpt_neox"],
    "student_model": "tiny:llama",
    "tiny_models": {name: WEAK for name in ("gpt2", "opt", "gpt_neox")}
    | {"llama": {"hidden_size": 96, "layers": 3, "heads": 4, "max_length": 256}},
    "num_gold": 600,
    "num_weak": 1500,
    "num_validation": 100,
    "num_test": 500,
    "num_candidates": 3,
    "num_preference_candidates": 4,
    "eval_beams": 1,
    "pretraining": {
        "sentences": 12000, "reading": 2, "jumbled_copying": 12000, "copying": 2, "mixed_reading": 0.5,
        "training": PASS,
    },
    "weak_pretraining": {"reading": 2, "jumbled_copying": 10000, "copying": 1, "training": PASS},
    "weak_training": {"per_device_train_batch_size": 16, "num_train_epochs": 8},
    "student_training": {"per_device_train_batch_size": 32, "max_steps": 300},
}  # fmt: skip
SECONDS = {
    "student, pre-training": (163, 163),
    "opt, pre-training": (45, 53),
    "weak supervisor opt": (7, 9),
    "weak labels": (49, 50),
    "student, Joint decoding + confidence": (29, 34),
    "student on gold, half_b": (28, 32),
    "student, cDPO": (56, 59),
    "evaluate cdpo": (2, 4),
}


def costs(**changes):
    config = SlotFillingConfig(**MEASURED | changes)
    source, factory = Source(config), ModelFactory(config)
    base = pretrain_stage(config, source, factory)
    return {stage.name: stage.cost for stage in (base, *SlotFillingRun(config, source, factory, 0, base).stages())}


def test_costs_are_near_what_was_measured():
    found = costs()
    for name, (least, most) in SECONDS.items():
        assert 0.8 * least <= found[name] <= 1.25 * most, name


def test_rows_of_a_training():
    assert rows_trained({}, 100) == 300  # three epochs, transformers' default
    assert rows_trained({"num_train_epochs": 8, "max_steps": -1}, 100) == 800
    steps = {"max_steps": 10, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert rows_trained(steps, 100) == 80 and rows_trained({"max_steps": 10}, 100) == 80


def test_costs_grow_with_what_is_asked_for():
    found, more = costs(), costs(student_training={"per_device_train_batch_size": 64, "max_steps": 300}, eval_beams=3)
    for name, times in (("student on gold, half_b", 2), ("evaluate cdpo", 3), ("weak labels", 1)):
        assert more[name] - SETUP == pytest.approx(times * (found[name] - SETUP))
    config = SlotFillingConfig(**MEASURED)
    assert row_seconds(config, "tiny:llama") > 1.3 * row_seconds(config, "tiny:opt")


def test_expected_rows_are_those_that_are_made(tmp_path):
    with gzip.open(tmp_path / "turns.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(100):  # 64 rows: each turn without slots that is left out is one of 36
            slots = [["city", f"rome{number}"]] if number < 64 else [["city", "nowhere"]]
            file.write(json.dumps({"text": f"a room in rome{number}", "slots": slots}) + "\n")
    plan = {"sentences": 200, "reading": 2, "jumbled_copying": 50, "copying": 3, "mixed_reading": 0.5}
    for dialogues in ({}, {"dialogues": 0}, {"dialogues": 10}):
        config = SlotFillingConfig(**MEASURED | {"pretrain_dir": str(tmp_path)})
        rows, _ = pretraining_rows(config, Source(config), plan | dialogues)
        assert expected_rows(config, plan | dialogues) == pytest.approx(len(rows), rel=0.05)
    alone = expected_rows(SlotFillingConfig(**MEASURED), plan)
    assert expected_rows(config, plan | {"dialogues": 10}) == alone + 10 and expected_rows(config, plan) == alone + 64


def test_costs_of_other_models_are_not_called_seconds():
    assert in_seconds(SlotFillingConfig(**MEASURED))
    assert not in_seconds(SlotFillingConfig(**MEASURED | {"student_model": "Qwen/Qwen2.5-3B"}))
    assert not in_seconds(ClassificationConfig(weak_models=["gpt2"], student_model="tiny:llama"))
