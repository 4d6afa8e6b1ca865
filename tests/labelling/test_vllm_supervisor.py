"""The vLLM back-end against the `transformers` one, on a stand-in that keeps to vLLM's API."""

import importlib.util
import shutil
import sys
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from trl_weaks.fingerprint import supervisor_fingerprint
from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.vllm import VllmSupervisor, _closed

PROMPTS = ["USER: turn on the light ASSISTANT:", "USER: jazz at nine 你好 ASSISTANT:", "USER: wake me ASSISTANT:"]
COMPLETIONS = ['{"date": "tomorrow"}', " é🙂", ""]


@pytest.fixture
def fake(monkeypatch):
    spec = importlib.util.spec_from_file_location("fake_vllm", Path(__file__).with_name("fake_vllm.py"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fake_vllm", module)
    spec.loader.exec_module(module)
    return module.install(monkeypatch)


@pytest.fixture(scope="module")
def saved(build, tmp_path_factory):
    where = {}
    for shape in ("gpt2", "opt"):
        where[shape] = tmp_path_factory.mktemp("vllm") / shape
        supervisor = build(shape, seed=6, name=shape)
        supervisor.model.save_pretrained(where[shape])
        supervisor.tokenizer.save_pretrained(where[shape])
    return where


def vllm(saved, shape, **options):
    return VllmSupervisor(str(saved[shape]), AutoTokenizer.from_pretrained(saved[shape]), **options)


@pytest.mark.parametrize("shape", ["gpt2", "opt"])
def test_scores_are_those_of_transformers(build, saved, fake, shape):
    plain, other = build(shape, seed=6, name=shape), vllm(saved, shape)
    for one, two in zip(plain.score(PROMPTS, COMPLETIONS), other.score(PROMPTS, COMPLETIONS), strict=True):
        assert one.token_ids == two.token_ids and one.offsets == two.offsets
        assert one.logps == pytest.approx(two.logps, abs=1e-4)
    assert other.score([], []) == []


@pytest.mark.parametrize("keep", [True, False])
def test_beams_are_ordered_by_log_probability_per_token(build, saved, fake, monkeypatch, keep):
    monkeypatch.setattr(fake, "tokens_keep_eos", keep)
    plain, other = build("gpt2", seed=6, name="gpt2"), vllm(saved, "gpt2")
    found = other.generate(PROMPTS, 3, 5)
    for one, two in zip(plain.generate(PROMPTS, 3, 5), found, strict=True):
        if not any(c.finished for c in [*one, *two]):  # where beams end early, vLLM's search has other rules
            assert [c.token_ids for c in one] == [c.token_ids for c in two]
        means = [sum(c.logps) / len(c.logps) for c in two]
        assert means == sorted(means, reverse=True)
    assert other.answer(PROMPTS, 3, 5) == [[(c.text, c.finished) for c in row] for row in found]


def test_an_end_that_vllm_leaves_out_is_put_back():
    assert _closed([5, 6], "stop", [1]) == [5, 6, 1] and _closed([5, 6, 1], "stop", [1]) == [5, 6, 1]
    assert _closed([5, 6], "length", [1]) == [5, 6] and _closed([], None, [1]) == [1]
    assert _closed([5, 6], "stop", [1, 2], 2) == [5, 6, 2] and _closed([5, 2, 6], "stop", [1, 2]) == [5, 2]


def test_draws_depend_on_seed_and_key(saved, fake):
    other, sampling = vllm(saved, "gpt2"), Sampling(1.0, seed=4)
    drawn = other.answer(PROMPTS, 3, 6, sampling=sampling, keys=["a", "b", "c"])
    assert len({text for row in drawn for text, _ in row}) > 6
    assert other.answer(PROMPTS[1:2], 2, 6, sampling=sampling, keys=["b"]) == [drawn[1][:2]]
    assert other.answer(PROMPTS, 3, 6, sampling=Sampling(1.0, seed=5), keys=["a", "b", "c"]) != drawn


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0}])
def test_labels_are_kept_and_never_mixed_with_those_of_transformers(build, saved, fake, tmp_path, monkeypatch, asked):
    data = datasets.Dataset.from_dict({"example_id": list("abc"), "prompt": PROMPTS})
    run = {"mode": "joint", "num_candidates": 3, "max_new_tokens": 5, "output_dir": tmp_path, **asked}
    plain = WeakEnsemble([build("gpt2", seed=6, name="gpt2"), build("opt", seed=6, name="opt")])
    mixed = WeakEnsemble([vllm(saved, "gpt2"), plain.supervisors[1]])
    one = label_completions(mixed, data, **run)[:]
    assert supervisor_fingerprint(mixed.supervisors[0]) != supervisor_fingerprint(plain.supervisors[0])
    assert "| gpt2 | 0.5 | gpt2 (local) | - | - | auto |" in (tmp_path / "README.md").read_text()
    calls = len(fake.made[0].calls)
    assert label_completions(mixed, data, **run)[:] == one and len(fake.made[0].calls) == calls
    label_completions(plain, data, **run)
    assert label_completions(mixed, data, **run)[:] == one and len(fake.made[0].calls) == calls


def test_other_weights_are_other_labels(build, saved, fake, tmp_path):
    supervisor = build("gpt2", seed=6, name="gpt2")
    before = supervisor_fingerprint(vllm(saved, "gpt2"))
    assert before == supervisor_fingerprint(vllm(saved, "gpt2"))
    with torch.no_grad():
        supervisor.model.transformer.wte.weight += 0.01
    supervisor.model.save_pretrained(tmp_path)
    supervisor.tokenizer.save_pretrained(tmp_path)
    assert before != supervisor_fingerprint(VllmSupervisor(str(tmp_path), supervisor.tokenizer, "gpt2"))


def test_what_vllm_is_told_is_part_of_the_key_where_it_changes_answers(saved, fake, tmp_path):
    plain = supervisor_fingerprint(vllm(saved, "gpt2"))
    same = vllm(saved, "gpt2", gpu_memory_utilization=0.3, tensor_parallel_size=2, max_candidates=40, max_model_len=99)
    assert supervisor_fingerprint(same) == plain
    shutil.copytree(saved["gpt2"], tmp_path / "moved")
    moved = VllmSupervisor(str(tmp_path / "moved"), same.tokenizer, "gpt2")
    assert supervisor_fingerprint(moved) == plain, "another folder is no other model"
    assert supervisor_fingerprint(vllm(saved, "gpt2", dtype="bfloat16")) != plain
    assert supervisor_fingerprint(vllm(saved, "gpt2", seed=3)) != plain, "an argument that is not known to be harmless"
    (file,) = (tmp_path / "moved").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit in the middle of the weights
    file.write_bytes(content)
    assert supervisor_fingerprint(VllmSupervisor(str(tmp_path / "moved"), same.tokenizer, "gpt2")) != plain


def test_arguments_reach_vllm(saved, fake):
    vllm(saved, "gpt2", dtype="bfloat16", max_candidates=40, gpu_memory_utilization=0.3, tensor_parallel_size=2)
    expected = {"gpu_memory_utilization": 0.3, "tensor_parallel_size": 2, "dtype": "bfloat16", "max_logprobs": 80}
    assert fake.made[0].arguments == {**expected, "revision": None}


def test_what_does_not_fit_is_refused(saved, fake, monkeypatch):
    small = vllm(saved, "gpt2", max_candidates=2, max_model_len=40)
    with pytest.raises(ValueError, match="num_candidates=3, but max_candidates=2"):
        small.answer(PROMPTS, 3, 4)
    with pytest.raises(ValueError, match="context holds 39"):
        small.answer(["a" * 60], 2, 4)
    small.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<pad>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(ValueError, match="vLLM's beam search would not stop"):
        small.answer([[{"role": "user", "content": "b"}]], 2, 4)
    monkeypatch.setattr(small, "_read", lambda pairs: [[float("nan")] for _ in pairs])
    with pytest.raises(ValueError, match="prompt 0: supervisor 'gpt2' gives a log-probability that is not finite"):
        small.score(["a"], [""])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="run one process, with tensor_parallel_size"):
        vllm(saved, "gpt2")


def test_without_vllm_the_message_says_what_to_do(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm.*leave out --backend vllm"):
        vllm(saved, "gpt2")
