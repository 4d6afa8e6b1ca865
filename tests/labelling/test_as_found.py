"""The documented promise: models and tokenizers are left as they were found, also where the work fails."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny import causal_lm, classifier

from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.label_classes import label_classes
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.preferences import build_preferences
from trl_weaks.labelling.reward import WeakEnsembleReward
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.adapters import adapter_layers, base_of
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; hello "
PROMPTS = [HEAD + tail + " ASSISTANT:" for tail in ("you", "there 你好", "jazz at five", "5")]
ANSWERS = [' {"time": "nine"}', " jazz", " é🙂", "x"]
SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2", "dynamic", "longrope", "mamba", "lora")
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    "longrope": {**LONGROPE, "original_max_position_embeddings": 64},
}


def made(tiny, shape):
    """A model as somebody may hold it: in training mode but for a frozen part, some weights frozen."""
    kind = {"dynamic": "llama", "longrope": "llama", "lora": "llama", "mamba": "gpt2"}.get(shape, shape)
    tokenizer = tiny.tokenizer(kind)
    if shape == "mamba":
        model = causal_lm("mamba", len(tokenizer))
    else:
        changes = {"rope_parameters": ROPES[shape]} if shape in ROPES else {}
        model = tiny.model(kind, len(tokenizer), seed=4, **changes)
    if shape == "lora":
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.3)
        model = get_peft_model(model, config, adapter_name="a")
        model.add_adapter("b", config)
    return as_held(model), as_used(tokenizer)


def as_held(model):
    model.train()
    list(model.modules())[-2].eval()
    next(model.parameters()).requires_grad_(False)
    return model


def as_used(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(7, stride=1)
    tokenizer.backend_tokenizer.enable_padding(length=9, pad_id=1)
    tokenizer.padding_side = "left"
    return tokenizer


def state(model, tokenizer):
    base = base_of(model)
    buffers, weights = list(model.named_buffers()), list(model.named_parameters())
    return {
        "weights": {n: (p.detach().clone(), p.requires_grad, p.grad is None, p._version) for n, p in weights},
        "buffers": {n: (b.clone(), b.is_inference(), id(b)) for n, b in buffers},
        "modes": {n: m.training for n, m in model.named_modules()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "hooks": {n: [*m._forward_hooks, *m._forward_pre_hooks] for n, m in model.named_modules()},
        "positions": {n: getattr(m, "max_seq_len_cached", None) for n, m in model.named_modules()},
        "adapters": {n: (layer.active_adapters, layer.disable_adapters) for n, layer in adapter_layers(base).items()},
        "config": (base.config.to_dict(), base.config._attn_implementation, type(base.config)),
        "generation": base.generation_config.to_dict() if hasattr(base, "generation_config") else None,
        "random": {"torch": torch.get_rng_state(), "numpy": str(np.random.get_state()), "python": random.getstate()},
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "backend": (tokenizer.backend_tokenizer.padding, tokenizer.backend_tokenizer.truncation, len(tokenizer)),
        "tokenizer": (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token, tokenizer.chat_template),
    }  # fmt: skip


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check(before, after):
    changed = {kind: _differences(before[kind], after[kind]) for kind in before if not same(before[kind], after[kind])}
    assert not changed


def _differences(one, other):
    return [key for key in one if not same(one[key], other.get(key))] if isinstance(one, dict) else [one, other]


@pytest.fixture
def held(tiny, request):
    model, tokenizer = made(tiny, request.param)
    return SimpleNamespace(model=model, tokenizer=tokenizer, one=WeakSupervisor(model, tokenizer, "one"))


def prompts():
    return Dataset.from_dict({"example_id": [str(i) for i in range(4)], "prompt": PROMPTS})


def work(one, other, folder):
    """Everything that a supervisor is used for."""
    asked = {"mode": "joint", "num_candidates": 3, "max_new_tokens": 4, "output_dir": folder}
    ensemble = WeakEnsemble([one, other])
    pairs = {"num_candidates": 4, "max_new_tokens": 4, "temperature": 1.0}
    yield "generate", lambda: one.generate(PROMPTS, 2, 4)
    yield "draws", lambda: one.answer(PROMPTS, 2, 4, sampling=Sampling(1.0))
    yield "score", lambda: one.score(PROMPTS, ANSWERS)
    yield "label", lambda: label_completions(ensemble, prompts(), **asked)
    yield "verify", lambda: verify_labels(ensemble, prompts(), **asked)
    yield "pairs", lambda: build_preferences(one, WeakEnsemble([other]), prompts(), **pairs)
    yield "reward", lambda: WeakEnsembleReward(ensemble)(PROMPTS, ANSWERS)


@pytest.mark.parametrize("held", SHAPES, indirect=True)
def test_left_as_found(held, build, tmp_path):
    jobs = work(held.one, build("gpt2", seed=9, name="other"), tmp_path)
    before = state(held.model, held.tokenizer)
    for name, doing in jobs:
        doing()
        try:
            check(before, state(held.model, held.tokenizer))
        except AssertionError as error:
            raise AssertionError(f"after {name}: {error}") from None
    output = held.model.train()(torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]]))
    output.loss.backward()  # nothing of inference mode is left that a training could meet


@pytest.mark.parametrize("held", SHAPES, indirect=True)
def test_left_as_found_where_the_work_fails(held, build, tmp_path):
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise RuntimeError("stop")

    handle = base_of(held.model).get_input_embeddings().register_forward_hook(stop)
    held.one.variant = "stops"
    jobs = work(held.one, build("gpt2", seed=9, name="other"), tmp_path)
    before, failed = state(held.model, held.tokenizer), 0
    for _, doing in jobs:
        calls[:] = [1]
        try:
            doing()
        except (RuntimeError, ValueError):  # the probe of a model calls a failing pass unfit
            failed += 1
        check(before, state(held.model, held.tokenizer))
    handle.remove()
    assert failed >= 5


def test_classifiers_are_left_as_found(tiny, tmp_path):
    tokenizer = as_used(tiny.tokenizer("gpt2"))
    model = as_held(classifier("gpt2", len(tokenizer), 3, pad_token_id=tokenizer.pad_token_id))
    data = Dataset.from_dict({"text": PROMPTS})
    for limit in (None, 5):
        ensemble = WeakEnsemble([WeakClassifier(model, tokenizer, "c", max_length=limit)])
        before = state(model, tokenizer)
        label_classes(ensemble, data, output_dir=tmp_path)
        check(before, state(model, tokenizer))
        with pytest.raises(ValueError, match="reads no token"):
            ensemble.supervisors[0].predict(["a", ""])
        check(before, state(model, tokenizer))
