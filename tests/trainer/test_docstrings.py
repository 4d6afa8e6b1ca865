"""The examples in the trainers' docstrings run, on a tiny model that stands for the user's."""

import doctest
import importlib

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from trl_weaks.study.models.shipped import FOLDER

TINY = str(FOLDER / "student")
MODULES = ("weak_supervision_trainer", "weak_preference_trainer", "weak_classification_trainer")


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("classifier"))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = AutoConfig.from_pretrained(TINY, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_the_example_runs(name, tmp_path, tiny_classifier):
    module = importlib.import_module(f"trl_weaks.trainer.{name}")
    given = {"TINY": TINY, "TINY_CLASSIFIER": tiny_classifier, "TEMPORARY": str(tmp_path)}
    found = doctest.testmod(module, extraglobs=given, optionflags=doctest.ELLIPSIS)
    assert found.attempted >= 5 and found.failed == 0
