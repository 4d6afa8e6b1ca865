"""Errors that give wrong numbers without a word: positions, caches, half precision, padding of recurrent models."""

import pytest
import torch
from tiny import causal_lm
from transformers import Cache

from trl_weaks.inference.sampling import Sampling
from trl_weaks.supervisors.supervisor import WeakSupervisor

HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; hello "
TAILS = ("you", "wörld 你好 🙂 tomorrow in the kitchen", "jazz at five", "")
PROMPTS = [HEAD + tail + " ASSISTANT:" for tail in TAILS]
COMPLETIONS = ['{"date": "tomorrow"}', '{"date": "five"}', " é🙂", ""]
MODERN = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")


def everything(supervisor):
    """All ways to the model: beams, draws and readings, with a prefix and without."""
    for prompts in (PROMPTS, ["a b", "c d e f"]):
        supervisor.answer(prompts, 3, 4)
        supervisor.answer(prompts, 3, 4, sampling=Sampling(1.0))
        supervisor.score(prompts, COMPLETIONS[: len(prompts)])


@pytest.mark.parametrize("shape", MODERN)
def test_every_pass_is_told_its_positions(build, shape):
    supervisor, seen = build(shape), []
    for module in (supervisor.model, supervisor.model.base_model):
        module.register_forward_pre_hook(lambda m, a, k: seen.append(k.get("position_ids")), with_kwargs=True)
    everything(supervisor)
    untold = [place for place, positions in enumerate(seen) if positions is None]
    assert len(seen) > 20 and untold in ([0], [0, 1]), "but the probe's, which asks what the model's own positions are"


@pytest.mark.parametrize("shape", ["gpt2", "neox", "llama"])
def test_no_cache_is_used_by_two_calls(build, monkeypatch, shape):
    """`generate` grows the cache that it is given; the keys kept for a prefix must stay as they are."""
    supervisor, used = build(shape), []
    real = supervisor.model.generate
    monkeypatch.setattr(supervisor.model, "generate", lambda **k: used.append(k["past_key_values"]) or real(**k))
    packed = []

    def note(module, args, given):
        if isinstance(given.get("logits_to_keep"), torch.Tensor) and given.get("past_key_values") is not None:
            packed.append(given["past_key_values"])

    supervisor.model.register_forward_pre_hook(note, with_kwargs=True)
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(PROMPTS)])
    everything(supervisor)
    (levels,) = supervisor.sharing._levels.values()
    kept = [(keys.clone(), values.clone()) for keys, values in levels]
    everything(supervisor)
    assert all(isinstance(cache, Cache) for cache in [*used, *packed]) and len(packed) >= 2
    assert len({id(cache) for cache in used}) == len(used) == 8
    assert len({id(cache) for cache in packed}) == len(packed)
    for (keys, values), (before, earlier) in zip(levels, kept, strict=True):
        assert torch.equal(keys, before) and torch.equal(values, earlier)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
def test_half_precision_logits_are_summed_in_float32(build, reference_logps, shape):
    """In bfloat16 the log-sum-exp alone would be a multiple of 2^-6; the numbers are those of the model's logits."""
    supervisor = build(shape)
    supervisor.model.bfloat16()
    pairs = list(zip(PROMPTS, COMPLETIONS, strict=True))
    supervisor.sharing.expect([])
    for (prompt, _), read in zip(pairs, supervisor.score(*map(list, zip(*pairs, strict=True))), strict=True):
        steps = [x * 64 for x in read.logps]
        assert any(abs(step - round(step)) > 1e-3 for step in steps)
        ids = supervisor.tokenizer(prompt)["input_ids"]
        assert read.logps == pytest.approx(reference_logps(supervisor, ids, read.token_ids), abs=0.2)


FOREIGN = {
    "windowed": ("mistral", {"heads": 4, "kv_heads": 2, "sliding_window": 8, "positions": 256}),
    "recurrent": ("mamba", {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_windowed_and_recurrent_models_take_the_plain_path(build, reference_logps, kind):
    tokenizer = build("gpt2").tokenizer
    name, own = FOREIGN[kind]
    model = causal_lm(name, len(tokenizer), width=32, layers=2, seed=1, noise=0.1, **own)
    supervisor = WeakSupervisor(model.eval(), tokenizer, kind)
    beams = supervisor.generate(PROMPTS, 3, 5)
    draws = supervisor.answer(PROMPTS, 2, 5, sampling=Sampling(1.0), keys=list("abcd"))
    for i, (prompt, row) in enumerate(zip(PROMPTS, beams, strict=True)):
        assert [c.token_ids for c in row] == [c.token_ids for c in supervisor.generate([prompt], 3, 5)[0]]
        ids = tokenizer(prompt)["input_ids"]
        for candidate in row:
            assert candidate.logps == pytest.approx(reference_logps(supervisor, ids, candidate.token_ids), abs=1e-4)
        assert [draws[i]] == supervisor.answer([prompt], 2, 5, sampling=Sampling(1.0), keys=["abcd"[i]])
    for prompt, read in zip(PROMPTS, supervisor.score(PROMPTS, COMPLETIONS), strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert read.logps == pytest.approx(reference_logps(supervisor, ids, read.token_ids), abs=1e-4)
