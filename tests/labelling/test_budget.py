"""The memory budget: what a batch may hold, and that batches keep to it."""

import pytest
import torch

from trl_weaks.labelling.budget import WIDTH, at_once, most_logits

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
    monkeypatch.setattr("trl_weaks.labelling.budget.WIDTH", width)
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
