"""The fast paths behind a shared prefix, against `generate` and a plain forward; who may use them; what is kept."""

import pytest
import torch
from tiny import causal_lm

from trl_weaks.inference import shared_prefix as module
from trl_weaks.inference.as_found import inference

SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")
HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; hello "
PROMPTS = [
    HEAD + tail + " ASSISTANT:" for tail in ("you", "wörld 你好 🙂 tomorrow in the kitchen", "jazz at five", "")
]
COMPLETIONS = ['{"date": "tomorrow"}', '{"date": "tomorrow", "time": "five"}', " é🙂", '{"da', ""]


def plain_generate(supervisor, prompt, beams, new):
    inputs = supervisor.tokenizer(prompt, return_tensors="pt")
    output = supervisor.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=supervisor.tokenizer.eos_token_id,
        pad_token_id=supervisor.tokenizer.pad_token_id,
    )
    eos = supervisor.tokenizer.eos_token_id
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("expected", [False, True])
def test_same_beams_behind_a_prefix(build, shape, expected):
    supervisor = build(shape, seed=2)
    ids = [p.ids for p in supervisor.encoder.prompts(PROMPTS)]
    supervisor.sharing.expect(ids if expected else [])
    found = supervisor.generate(PROMPTS, num_candidates=3, max_new_tokens=7)
    assert [[c.token_ids for c in row] for row in found] == [plain_generate(supervisor, p, 3, 7) for p in PROMPTS]
    with inference(supervisor.model):
        assert supervisor.sharing.able() == (shape != "gemma2")
        shared = [prefix for _, prefix in supervisor.sharing.groups(ids, 10**6) if prefix]
    assert len(shared) == (shape != "gemma2"), "the prompts do share a prefix, and it is used where it can be"


@pytest.mark.parametrize("shape", SHAPES)
def test_same_scores_behind_a_prefix(build, reference_logps, shape):
    supervisor = build(shape, seed=3)
    pairs = [(p, c) for p in PROMPTS for c in COMPLETIONS]
    read = supervisor.score(*map(list, zip(*pairs, strict=True)))
    for (prompt, _), scored in zip(pairs, read, strict=True):
        prompt_ids = supervisor.tokenizer(prompt)["input_ids"]
        assert scored.logps == pytest.approx(reference_logps(supervisor, prompt_ids, scored.token_ids), abs=1e-4)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_repeated_calls_give_the_same(build, shape):
    """A cache that a call had used up would change the second answer without an error."""
    supervisor = build(shape)
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(PROMPTS)])
    first = supervisor.generate(PROMPTS, 3, 5), supervisor.score(PROMPTS, COMPLETIONS[:4])
    assert first == (supervisor.generate(PROMPTS, 3, 5), supervisor.score(PROMPTS, COMPLETIONS[:4]))


def test_small_budget_changes_nothing(build):
    supervisor = build("neox")
    large = supervisor.generate(PROMPTS, 3, 5)
    supervisor.max_tokens_in_flight = 1
    for one, other in zip(large, supervisor.generate(PROMPTS, 3, 5), strict=True):
        assert [c.token_ids for c in one] == [c.token_ids for c in other]


def test_trained_weights_make_kept_prefixes_stale(build, reference_logps):
    supervisor = build("gpt2")
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(PROMPTS)])
    before = supervisor.score(PROMPTS, COMPLETIONS[:4])
    optimizer = torch.optim.SGD(supervisor.model.parameters(), lr=0.5)
    supervisor.model(torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss.backward()
    optimizer.step()
    after = supervisor.score(PROMPTS, COMPLETIONS[:4])
    assert after[0].logps != before[0].logps
    prompt_ids = supervisor.tokenizer(PROMPTS[0])["input_ids"]
    assert after[0].logps == pytest.approx(reference_logps(supervisor, prompt_ids, after[0].token_ids), abs=1e-4)


def test_prefix_is_computed_once(build, monkeypatch):
    supervisor, calls = build("gpt2"), []
    real = module.prefix_levels
    monkeypatch.setattr(module, "prefix_levels", lambda model, ids: calls.append(len(ids)) or real(model, ids))
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(PROMPTS)])
    for prompt in PROMPTS:
        supervisor.generate([prompt], 2, 3)
        supervisor.score([prompt], ["x"])
    assert len(calls) == 1


def test_kept_prefixes_count_against_the_budget(build, monkeypatch):
    """Two groups of prompts; with room for one prefix the other is computed again when it comes back."""
    supervisor, made = build("gpt2"), []
    real = module.prefix_levels
    monkeypatch.setattr(module, "prefix_levels", lambda model, ids: made.append(ids) or real(model, ids))
    groups = [[f"{head}{i} ASSISTANT:" for i in (1, 2)] for head in (HEAD, "é" + HEAD[:40])]
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(groups[0] + groups[1])])
    first, second = sorted(supervisor.sharing.prefixes, key=len)
    expected = [supervisor.score(prompts, COMPLETIONS[:2]) for prompts in groups]
    for budget, held in ((len(first) + len(second), 2), (len(first) + len(second) - 1, 1), (1, 1)):
        supervisor.max_tokens_in_flight = budget
        supervisor.sharing._levels.clear()
        made.clear()
        for _ in range(2):
            for prompts, scores in zip(groups, expected, strict=True):
                found = supervisor.score(prompts, COMPLETIONS[:2])
                assert len(supervisor.sharing._levels) <= held
                for one, other in zip(found, scores, strict=True):
                    assert one.logps == pytest.approx(other.logps, abs=1e-5)
        assert len(made) == (2 if held == 2 else 4)


def test_recurrent_and_windowed_models_take_the_plain_path():
    for model in (causal_lm("mamba", 50), causal_lm("mistral", 50, kv_heads=1, sliding_window=8)):
        with inference(model):
            assert not module.can_share(model)


def test_recurrent_models_are_never_padded(build):
    from trl_weaks.inference.scoring import plain_logps

    model = causal_lm("mamba", 50).eval()
    pairs = [((1, 2, 3, 4, 5), (6, 7)), ((1, 2), (3,)), ((9, 8), (7, 6))]
    with inference(model):
        together = plain_logps(model, pairs, 0, 1000, bool)
        alone = [plain_logps(model, [pair], 0, 1000, bool)[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def by_place(module, inputs, output):
    """Steering that depends on the place in the row, which padding and packed trees move."""
    hidden = output[0] if isinstance(output, tuple) else output
    steered = hidden * (1 + 0.2 * torch.arange(hidden.shape[1])[None, :, None])
    return (steered, *output[1:]) if isinstance(output, tuple) else steered


def test_a_model_that_is_changed_is_asked_again(build, reference_logps):
    """A hook of later; what was found out before it would hold for the rest of the process."""
    supervisor = build("llama", seed=1)
    prompts, texts = ["USER: play jazz at nine"] * 3, ["no jazz today", "no rock today", "yes"]
    assert supervisor.sharing.able() and supervisor.score(prompts, texts)
    with supervisor.model.model.layers[0].register_forward_hook(by_place):
        (prompt,) = supervisor.encode(prompts[:1], ["p"])
        for read in supervisor.score(prompts, texts):
            assert read.logps == pytest.approx(reference_logps(supervisor, prompt.ids, read.token_ids), abs=1e-4)
        assert not supervisor.sharing.able()
    supervisor.score(prompts, texts)
    assert supervisor.sharing.able()
