"""Tiny supervisors of several shapes, scripted servers, and one way to score that has nothing of the package."""

from types import SimpleNamespace

import pytest
import torch
from small_supervisors import model_of, tokenizer_of


@pytest.fixture(scope="session")
def build():
    """`build(shape, seed=0, **config)` -> a supervisor with random weights."""
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    def make(shape: str, seed: int = 0, name: str | None = None, **changes) -> WeakSupervisor:
        tokenizer = tokenizer_of(shape)
        return WeakSupervisor(model_of(shape, len(tokenizer), seed, **changes), tokenizer, name or f"{shape}-{seed}")

    return make


@pytest.fixture(scope="session")
def tiny():
    """`tiny.model(shape, vocabulary, seed=0, **config)` and `tiny.tokenizer(shape)`."""
    return SimpleNamespace(model=model_of, tokenizer=tokenizer_of)


@pytest.fixture(scope="session")
def reference_logps():
    """Log-probabilities of one sequence by itself: no padding, no cache, softmax in float64."""

    def compute(supervisor, prompt_ids, completion_ids) -> list[float]:
        with torch.no_grad():
            logits = supervisor.model.eval()(torch.tensor([[*prompt_ids, *completion_ids]])).logits[0].double()
        logps = logits.log_softmax(-1)
        return [logps[len(prompt_ids) - 1 + t, token].item() for t, token in enumerate(completion_ids)]

    return compute


@pytest.fixture
def serve(monkeypatch):
    """Starts scripted servers (see `scripted_server`), which are closed afterwards; waits between tries are none."""
    from scripted_server import SECRET, Server, chat

    monkeypatch.setattr("trl_weaks.supervisors.server.time.sleep", lambda seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    running = []

    def start(reply=lambda body, count: (200, chat()), **settings):
        running.append(Server(reply, **settings))
        return running[-1]

    yield start
    for server in running:
        server.close()
