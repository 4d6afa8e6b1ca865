"""`from_pretrained` of supervisors, classifiers and ensembles: pad tokens, names, and what cannot be loaded."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny import classifier, headless
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trl_weaks import WeakClassifier, WeakEnsemble, WeakSupervisor, label_classes, label_completions
from trl_weaks.supervisors.loading import at_random


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


PARTS = {
    "deberta-v2": ("query_proj", "pooler"),
    "bert": ("query", "bert.pooler"),
    "albert": ("query", "albert.pooler"),
}


def _encoder(folder, kind: str, tokenizer) -> Path:
    """An encoder without head and pooler, as they are published."""
    model = headless(kind, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder, state_dict={k: v for k, v in model.state_dict().items() if "pooler" not in k})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", PARTS)
def test_layers_that_neither_adapter_nor_base_has_are_refused(kind, build, tmp_path):
    """PEFT's `SEQ_CLS` saves the head and not the layer before it; transformers would draw it anew at each loading."""
    tokenizer = build("gpt2").tokenizer
    base = _encoder(tmp_path / "base", kind, tokenizer)
    target, part = PARTS[kind]
    for name, more in {"without": {}, "with": {"modules_to_save": [part.rpartition(".")[2]]}}.items():
        student = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        config = LoraConfig(r=2, target_modules=[target], task_type="SEQ_CLS", **more)
        get_peft_model(student, config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def weights(seed, name):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name, num_labels=3)
        return model, {k: v.clone() for k, v in model.named_parameters() if ".original_module." not in k}

    (model, one), (_, other) = weights(0, "without"), weights(1, "without")
    drawn = [k for k in one if not k.endswith("bias") and not torch.equal(one[k], other[k])]  # a new bias is 0
    assert drawn and [k for k in at_random(model) if not k.endswith("bias")] == drawn
    with pytest.raises(ValueError, match=rf"without' cannot be used: .*{part}.*modules_to_save=\['{part}"):
        WeakClassifier.from_pretrained(tmp_path / "without", num_labels=3)
    assert at_random(weights(0, "with")[0]) == []
    assert WeakClassifier.from_pretrained(tmp_path / "with", num_labels=3).num_classes == 3


def test_a_checkpoint_that_lacks_weights_is_refused(saved, build, tmp_path):
    tokenizer = build("gpt2").tokenizer
    model = AutoModelForSequenceClassification.from_pretrained(
        _encoder(tmp_path / "encoder", "bert", tokenizer), num_labels=3
    )
    model.save_pretrained(
        tmp_path / "short", state_dict={k: v for k, v in model.state_dict().items() if "pooler" not in k}
    )
    tokenizer.save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match=r"short' cannot be used: bert.pooler.dense.weight, .* as it lacks"):
        WeakClassifier.from_pretrained(tmp_path / "short")
    for name, auto in (("gpt2", AutoModelForCausalLM), ("classifier", AutoModelForSequenceClassification)):
        whole = auto.from_pretrained(saved / name)
        assert all(value._is_hf_initialized for value in whole.parameters()), "the mark that is read"
        assert at_random(whole) == [] and at_random(whole.half()) == []


def test_paths_where_an_ensemble_belongs_are_told_how_to_become_one():
    rows = Dataset.from_list([{"example_id": "0", "prompt": "play", "text": "play"}])
    for label in (label_completions, label_classes):
        with pytest.raises(ValueError, match=r"`ensemble` is a list; of paths make `WeakEnsemble.from_pretrained"):
            label(["a", "b"], rows)
