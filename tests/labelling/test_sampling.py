"""Draws: from the right distribution, one at a time by hand, whatever the batch; as an option of labelling."""

import math

import datasets
import numpy as np
import pytest
import torch

from trl_weaks.inference.sampling import Sampling, _Noise
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble

SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma2")
HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; hello "
PROMPTS = [HEAD + tail + " ASSISTANT:" for tail in ("you", "wörld 你好 🙂 tomorrow", "jazz at five", "")]
KEYS = ["a", "b", "c", "d"]


def by_hand(supervisor, prompt, key, candidate, sampling, length):
    """One draw: a full forward pass for every token, and the largest of logits and noise."""
    stream = np.random.Generator(np.random.Philox(key=sampling.stream(supervisor.name, key, candidate)))
    ids = supervisor.tokenizer(prompt)["input_ids"]
    new = []
    while len(new) < length and supervisor.tokenizer.eos_token_id not in new:
        with torch.no_grad():
            logits = supervisor.model(torch.tensor([ids + new])).logits[0, -1].double() / sampling.temperature
        noise = torch.from_numpy(stream.standard_exponential(len(logits), dtype=np.float32)).double()
        new.append(int((logits - noise.log()).argmax()))
    return new


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_are_those_made_by_hand(build, shape):
    supervisor, sampling = build(shape, seed=4), Sampling(0.7, seed=3)
    drawn = supervisor.generate(PROMPTS, 2, 6, sampling=sampling, keys=KEYS)
    for prompt, key, row in zip(PROMPTS, KEYS, drawn, strict=True):
        for k, candidate in enumerate(row):
            assert candidate.token_ids == by_hand(supervisor, prompt, key, k, sampling, 6)
    texts = supervisor.answer(PROMPTS, 2, 6, sampling=sampling, keys=KEYS)
    assert texts == [[(c.text, c.finished) for c in row] for row in drawn]


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)])
def test_draws_follow_the_distribution(build, temperature, top_p):
    supervisor, n = build("gpt2"), 2000
    (drawn,) = supervisor.generate(PROMPTS[:1], n, 1, sampling=Sampling(temperature, top_p, seed=1))
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=len(supervisor.tokenizer))
    ids = supervisor.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = (supervisor.model(ids).logits[0, -1].double() / temperature).softmax(-1)
    ranked, order = p.sort(descending=True)
    kept = order[(ranked.cumsum(0) - ranked) < top_p]
    expected = torch.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    assert counts[expected == 0].sum() == 0
    often = expected * n > 20
    assert often.sum() > 5
    sigmas = (counts - expected * n)[often] / (n * expected * (1 - expected)).sqrt()[often]
    assert sigmas.abs().max() < 4.5 and 0.5 < sigmas.square().mean() < 2


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
def test_batch_budget_and_number_of_candidates_do_not_matter(build, shape):
    supervisor, sampling = build(shape), Sampling(1.0, 0.9, seed=5)
    together = supervisor.answer(PROMPTS, 3, 8, sampling=sampling, keys=KEYS)
    assert len({text for row in together for text, _ in row}) > 8
    for i, key in reversed(list(enumerate(KEYS))):
        assert supervisor.answer(PROMPTS[i : i + 1], 2, 8, sampling=sampling, keys=[key]) == [together[i][:2]]
    supervisor.max_tokens_in_flight = 1
    assert supervisor.answer(PROMPTS, 3, 8, sampling=sampling, keys=KEYS) == together


def test_streams_are_apart():
    made = {Sampling(1.0, seed=s).stream(n, k, c) for s in (0, 1) for n in "ab" for k in "xy" for c in range(3)}
    assert len(made) == 24 and all(0 <= seed < 2**63 for seed in made)


@pytest.mark.parametrize("arguments, message", [
    ((0.0,), "temperature=0.0 must be positive"), ((math.nan,), "temperature=nan"), ((math.inf,), "temperature=inf"),
    ((1.0, 0.0), "top_p=0.0 must be above 0"), ((1.0, 1.5), "top_p=1.5"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampling(*arguments)


@pytest.fixture(scope="module")
def data():
    rows = {
        "example_id": [f"e{i}" for i in range(7)],
        "prompt": [f"USER: play jazz at {i} ASSISTANT:" for i in range(7)],
    }
    return datasets.Dataset.from_dict(rows)


@pytest.fixture(scope="module")
def ensemble(build):
    return WeakEnsemble([build("gpt2", 0, "a"), build("gpt2", 0, "b"), build("neox", 1, "c")])


ASKED = {"num_candidates": 3, "max_new_tokens": 5, "temperature": 1.0}


@pytest.mark.parametrize("mode", ["independent", "joint"])
def test_labels_depend_on_the_seed_alone(ensemble, data, mode):
    one = label_completions(ensemble, data, mode, **ASKED, seed=1, batch_size=1)
    turned = label_completions(ensemble, data.select(range(6, -1, -1)), mode, **ASKED, seed=1, batch_size=4)
    assert {(r["example_id"], r["completion"]) for r in turned} == {(r["example_id"], r["completion"]) for r in one}
    assert one["completion"] != label_completions(ensemble, data, mode, **ASKED, seed=2)["completion"]
    if mode == "independent":
        sampling, ids = Sampling(1.0, seed=1), data["example_id"]
        alone = ensemble.supervisors[2].answer(data["prompt"], 1, 5, sampling=sampling, keys=ids)
        kept = {(r["example_id"], r["completion"]) for r in one if "c" in r["weak_supervisors"]}
        assert kept == {(e, row[0][0]) for e, row in zip(ids, alone, strict=True) if row[0][0]}
        assert any(len(r["weak_supervisors"]) == 1 and r["weak_supervisors"] != ["c"] for r in one), "twins draw apart"


def test_draws_are_kept_and_never_mixed_with_beams(ensemble, data, tmp_path, monkeypatch):
    beams = label_completions(ensemble, data, num_candidates=3, max_new_tokens=5, output_dir=tmp_path)[:]
    drawn = label_completions(ensemble, data, **ASKED, output_dir=tmp_path)[:]
    assert drawn != beams and "| temperature | 1.0 |" in (tmp_path / "README.md").read_text()
    assert "| seed | 0 |" in (tmp_path / "README.md").read_text()
    for changed in ({"seed": 1}, {"temperature": 0.5}, {"top_p": 0.5}):
        assert label_completions(ensemble, data, **ASKED | changed, output_dir=tmp_path)[:] != drawn
    assert verify_labels(ensemble, data, tmp_path, **ASKED, share=1).different  # the dataset there is another
    assert label_completions(ensemble, data, **ASKED, output_dir=tmp_path)[:] == drawn
    assert verify_labels(ensemble, data, tmp_path, **ASKED, share=1).different == []
    for supervisor in ensemble.supervisors:
        monkeypatch.setattr(supervisor, "answer", None)
    assert label_completions(ensemble, data, **ASKED, output_dir=tmp_path)[:] == drawn
    assert label_completions(ensemble, data, num_candidates=3, max_new_tokens=5, output_dir=tmp_path)[:] == beams


def test_top_p_without_temperature_is_refused(ensemble, data):
    with pytest.raises(ValueError, match="top_p=0.5 narrows sampling, and beams are not sampled"):
        label_completions(ensemble, data, top_p=0.5)


def test_streams_that_share_their_lower_32_bits_are_different():
    scores = torch.zeros(1, 1000)
    seeds = (5, 5 + 2**32, 5 + 2**62)
    drawn = [_Noise([seed], torch.device("cpu"))(None, scores) for seed in seeds]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(drawn[0].mean(), torch.tensor(0.5772), atol=0.15, rtol=0)  # Gumbel noise
    assert torch.equal(drawn[0], _Noise([5], torch.device("cpu"))(None, scores))
