"""`from_pretrained` of supervisors, classifiers and ensembles: pad tokens, names, and what cannot be loaded."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import classifier

from trl_weaks import WeakClassifier, WeakEnsemble, WeakSupervisor, label_classes, label_completions


@pytest.fixture(scope="module")
def saved(tmp_path_factory, build):
    """Two causal models and a classifier on disk, without pad tokens."""
    folder = tmp_path_factory.mktemp("models")
    for shape in ("gpt2", "llama"):
        supervisor = build(shape, seed=1)
        tokenizer = supervisor.tokenizer.__class__.from_pretrained(
            _save(supervisor.tokenizer, folder / f"{shape}-tok")
        )
        tokenizer.pad_token = None
        supervisor.model.save_pretrained(folder / shape)
        tokenizer.save_pretrained(folder / shape)
    tokenizer = build("gpt2").tokenizer
    model = classifier("llama", len(tokenizer), inner=16, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder / "classifier")
    tokenizer.save_pretrained(folder / "classifier")
    return folder


def _save(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_a_supervisor_is_ready_to_use_and_scores_as_one_built_by_hand(saved, build):
    loaded = WeakSupervisor.from_pretrained(str(saved / "gpt2"), dtype=torch.float32)
    assert (loaded.name, loaded.tokenizer.pad_token) == ("gpt2", loaded.tokenizer.eos_token)
    expected = build("gpt2", seed=1).score(["USER: play"], [" jazz"])[0]
    assert loaded.score(["USER: play"], [" jazz"])[0].logps == pytest.approx(expected.logps, abs=1e-6)


def test_a_classifier(saved):
    loaded = WeakClassifier.from_pretrained(str(saved / "classifier"), name="judge", device="cpu")
    assert loaded.name == "judge" and loaded.num_classes == 2
    assert loaded.predict(["play some jazz"]).probabilities.sum().item() == pytest.approx(1)


def test_an_ensemble_of_either_kind(saved):
    models = WeakEnsemble.from_pretrained([str(saved / "gpt2"), str(saved / "llama")], weights=[3, 1])
    assert models.names == ["gpt2", "llama"] and models.weights == [0.75, 0.25]
    judges = WeakEnsemble.from_pretrained([str(saved / "classifier")] * 2, names=["a", "b"])
    assert all(isinstance(s, WeakClassifier) for s in judges.supervisors)


def test_an_adapter_loads_on_its_base(saved, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(saved / "llama")
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    expected = tuned(torch.tensor([[3, 4, 5]])).logits
    tuned.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(saved / "llama").save_pretrained(tmp_path / "adapter")
    loaded = WeakSupervisor.from_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(torch.tensor([[3, 4, 5]])).logits, expected)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS", None])
def test_an_ensemble_of_adapters(saved, tmp_path, task):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    auto, path = (AutoModelForSequenceClassification, saved / "classifier")
    if task != "SEQ_CLS":
        auto, path = AutoModelForCausalLM, saved / "llama"
    for name in "ab":
        settings = LoraConfig(task_type=task, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(auto.from_pretrained(path), settings).save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / name)
    models = WeakEnsemble.from_pretrained([str(tmp_path / "a"), str(tmp_path / "b")])
    kind = WeakClassifier if task == "SEQ_CLS" else WeakSupervisor
    assert models.names == ["a", "b"] and all(isinstance(s, kind) for s in models.supervisors)


@pytest.mark.parametrize("name", ["nowhere", "no where", "./nowhere", "a/b/c"])
def test_an_ensemble_names_what_cannot_be_loaded(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be loaded: "):
        WeakEnsemble.from_pretrained([name])


@pytest.mark.parametrize("kind", [WeakSupervisor, WeakClassifier])
def test_what_cannot_be_loaded_is_named(kind, tmp_path):
    with pytest.raises(ValueError, match="nowhere' cannot be loaded as a supervisor: no such folder"):
        kind.from_pretrained(str(tmp_path / "nowhere"))


def test_kinds_are_not_mixed(saved):
    with pytest.raises(ValueError, match="classifier'] are classifiers and the others language models"):
        WeakEnsemble.from_pretrained([str(saved / "gpt2"), str(saved / "classifier")])
    with pytest.raises(ValueError, match="nowhere' cannot be loaded"):
        WeakEnsemble.from_pretrained([str(saved / "nowhere")])


@pytest.mark.parametrize(
    "paths, more, message",
    [
        ("small", {}, "paths='small' is one; give a list of them"),
        (Path("small"), {}, "paths='small' is one"),
        (["a", "b"], {"names": "ab"}, "names='ab' is one"),
        (["a"], {"names": ["a", "b"]}, "2 names for 1 paths"),
        (["a"], {"weights": [1, 2]}, "2 weights for 1 paths"),
        (["x/a", "y/a/"], {}, "two supervisors would be called 'a'"),
        (["http://me:word@host/v1#m"], {}, "'host/v1' is the address of a server: ask it with"),
    ],
)
def test_an_ensemble_is_checked_before_anything_is_loaded(paths, more, message, monkeypatch):
    monkeypatch.setattr("trl_weaks.supervisors.loading.AutoConfig", None)
    with pytest.raises(ValueError, match=message):
        WeakEnsemble.from_pretrained(paths, **more)


def test_paths_are_paths_and_a_folder_has_a_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(saved / "gpt2")
    assert WeakSupervisor.from_pretrained(".").name == "gpt2"
    assert WeakEnsemble.from_pretrained([saved / "gpt2"]).names == ["gpt2"]
    with pytest.raises(ValueError, match="nowhere' cannot be loaded as a supervisor: no such folder"):
        WeakSupervisor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device='gpu7': Invalid device string"):
        WeakSupervisor.from_pretrained(".", device="gpu7")


def test_a_head_of_random_weights_is_refused(saved):
    """transformers makes one, with a line in the log, and the votes would be noise."""
    with pytest.raises(
        ValueError, match="gpt2' is a GPT2LMHeadModel and has no head that classifies; a new one would"
    ):
        WeakClassifier.from_pretrained(saved / "gpt2")
    with pytest.raises(ValueError, match="classifier' is a LlamaForSequenceClassification and writes no text"):
        WeakSupervisor.from_pretrained(saved / "classifier")
    assert WeakClassifier.from_pretrained(saved / "gpt2", num_labels=3).num_classes == 3  # asked for


def test_paths_where_an_ensemble_belongs_are_told_how_to_become_one():
    rows = Dataset.from_list([{"example_id": "0", "prompt": "play", "text": "play"}])
    for label in (label_completions, label_classes):
        with pytest.raises(ValueError, match=r"`ensemble` is a list; of paths make `WeakEnsemble.from_pretrained"):
            label(["a", "b"], rows)
