"""The memory budget: what a batch may hold, and that batches keep to it."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from trl_weaks.inference.padding import WIDTH, at_once, most_logits
from trl_weaks.supervisors.supervisor import WeakSupervisor

HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; "
PROMPTS = [HEAD + f"number {i}{' now' * (i % 4)} ASSISTANT:" for i in range(12)]


def test_tokens_and_logits_both_bind(build):
    model = build("gpt2").model  # a vocabulary of at most 320
    rows = WIDTH * 100 // model.config.vocab_size
    assert most_logits(model, 100) == rows and most_logits(model, 0) == 1
    assert at_once(model, 100, 10, 1) == 10 and at_once(model, 100, 1, rows // 2) == 2
    assert at_once(model, 1, 10, 10**9) == 1


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("budget, width", [(150, WIDTH), (600, 10), (10**6, WIDTH)])
def test_every_forward_pass_keeps_to_the_budget(build, monkeypatch, shape, budget, width):
    """Tokens and rows of logits of each pass; one prompt with its candidates is the least that can be held."""
    monkeypatch.setattr("trl_weaks.inference.padding.WIDTH", width)
    supervisor, beams, new = build(shape), 3, 5
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(PROMPTS)])
    supervisor.score(PROMPTS[:1], ["x"])  # the probe and the prefix are over
    supervisor.max_tokens_in_flight, passes = budget, []

    def note(module, args, kwargs, output):
        passes.append((kwargs["input_ids"].numel(), output.logits.shape[:-1].numel()))

    supervisor.model.register_forward_hook(note, with_kwargs=True)
    answers = supervisor.answer(PROMPTS, beams, new)
    flat = [(p, text) for p, row in zip(PROMPTS, answers, strict=True) for text, _ in row]
    supervisor.score(*map(list, zip(*flat, strict=True)))
    longest = max(len(p.ids) for p in supervisor.encoder.prompts(PROMPTS)) + 4 * new
    rows = budget * width // supervisor.model.config.vocab_size
    assert max(tokens for tokens, _ in passes) <= max(budget, beams * longest)
    assert max(logits for _, logits in passes) <= max(rows, beams * longest if shape == "gemma2" else 4 * new)
    assert (len(passes) > 2 * new + 4) == (budget < 10**6), "a small budget makes more passes"
    with torch.no_grad():
        assert supervisor.answer(PROMPTS[:1], beams, new) == answers[:1]


class Whole(GPT2LMHeadModel):
    """Gives the logits of every token, as xLSTM does: it knows no `logits_to_keep`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **others):
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        return super().forward(input_ids, **given, **others)


def test_models_that_give_all_logits_keep_to_the_budget(build, monkeypatch):
    monkeypatch.setattr("trl_weaks.inference.padding.WIDTH", 100)
    plain, beams, new, passes = build("gpt2"), 3, 5, []
    model = Whole(plain.model.config).eval()
    model.load_state_dict(plain.model.state_dict())
    supervisor = WeakSupervisor(model, plain.tokenizer, "whole", max_tokens_in_flight=1000)
    answers = supervisor.answer(PROMPTS[:1], beams, new)  # the probe is over
    model.register_forward_hook(lambda module, args, output: passes.append(output.logits.shape[:-1].numel()))
    assert supervisor.answer(PROMPTS, beams, new)[:1] == answers == plain.answer(PROMPTS[:1], beams, new)
    read = supervisor.score(PROMPTS, ["five"] * len(PROMPTS))
    for one, other in zip(read, plain.score(PROMPTS, ["five"] * len(PROMPTS)), strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
    rows, longest = 1000 * 100 // model.config.vocab_size, max(len(p.ids) for p in supervisor.encoder.prompts(PROMPTS))
    assert 2 * longest < rows < 10 * longest, "room for some prompts, not for all"
    assert max(passes) <= rows
