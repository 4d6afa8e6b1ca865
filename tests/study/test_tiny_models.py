"""Tokenizers give every text back and know where their tokens stand; models are small, exact and reloadable."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_weaks.study.data import grammar
from trl_weaks.study.data.prompts import build_prompt
from trl_weaks.study.data.rows import task_rows
from trl_weaks.study.models.tiny import build_model, train_tokenizer

KINDS = ("gpt2", "opt", "gpt_neox", "llama")
SIZES = {"gpt2": 700, "opt": 600, "gpt_neox": 800, "llama": 900}


@pytest.fixture(scope="module")
def rows():
    return task_rows(grammar.load_splits(300, 1, 1, 200).half_a, build_prompt("short", grammar.slot_types()))


@pytest.fixture(scope="module")
def tokenizers(rows):
    texts = [row["prompt"] + row["completion"] for row in rows]
    return {kind: train_tokenizer(kind, texts, SIZES[kind], model_max_length=128) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind, tokenizers):
    return tokenizers[kind]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_task_text_comes_back_and_offsets_tile_it(tokenizer, rows):
    for row in rows:
        text = row["prompt"] + row["completion"]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokenizer.decode(encoded["input_ids"]) == text
        pieces = [text[start:end] for start, end in encoded["offset_mapping"]]
        assert "".join(pieces) == text
        assert [tokenizer.decode([token]) for token in encoded["input_ids"]] == pieces  # ASCII: a piece a token


def test_slurp_text_comes_back(tokenizer, slurp_dir):
    for line in (slurp_dir / "test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        text = row["sentence"] + "\n" + json.dumps(dict(row["slots"]))
        assert tokenizer.decode(ids(tokenizer, text)) == text


def test_prompt_and_completion_never_share_a_token(tokenizer, rows):
    for row in rows:
        together = ids(tokenizer, row["prompt"] + row["completion"])
        assert together == ids(tokenizer, row["prompt"]) + ids(tokenizer, row["completion"])
    assert tokenizer.decode(ids(tokenizer, "a\n\n b")[1:2]) == "\n"


def test_special_tokens(kind, tokenizer):
    assert tokenizer.is_fast and tokenizer.model_max_length == 128
    assert len(tokenizer) == SIZES[kind] == len(tokenizer.get_vocab())
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.bos_token_id is not None
    start = [tokenizer.bos_token_id] if kind == "opt" else []
    assert tokenizer("stop")["input_ids"] == start + ids(tokenizer, "stop")
    assert tokenizer("stop" + tokenizer.eos_token)["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("stop" + tokenizer.eos_token)["input_ids"], skip_special_tokens=True) == "stop"


def test_the_kinds_cut_differently(tokenizers, rows):
    texts = [row["prompt"] + row["completion"] for row in rows]
    cuts = {
        kind: tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for kind, tokenizer in tokenizers.items()
    }
    assert all(cuts[a] != cuts[b] for a in KINDS for b in KINDS if a < b)


def test_training_is_deterministic(kind, tokenizer, rows):
    texts = (row["prompt"] + row["completion"] for row in rows)
    again = train_tokenizer(kind, texts, SIZES[kind], model_max_length=128)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_models_are_exact_and_reload_identically(kind, tokenizer, tmp_path):
    before = torch.get_rng_state()
    model = build_model(kind, tokenizer, hidden_size=32, layers=2, heads=4, max_length=64, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.config.model_type == kind and model.dtype == torch.float32
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    for config in (model.config, model.generation_config):
        assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    batch = tokenizer(["wake me up at five pm\n", "stop\n"], padding=True, return_tensors="pt")
    model.train()  # no dropout anywhere: training mode changes nothing
    with torch.no_grad():
        trained_mode, logits = model(**batch).logits, model.eval()(**batch).logits
    assert torch.equal(trained_mode, logits)

    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, logits)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = 'wake me\n{"time": "5 & 6"} é🙂'
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(ids(again, text)) == text
    assert (again.pad_token, again.eos_token, again.model_max_length) == (
        tokenizer.pad_token,
        tokenizer.eos_token,
        128,
    )

    def weights(seed):
        return build_model(kind, tokenizer, 32, 2, 4, 64, seed).state_dict()

    assert all(torch.equal(value, weights(7)[name]) for name, value in model.state_dict().items())
    embedding = next(name for name in model.state_dict() if "embed" in name or "wte" in name)
    assert not torch.equal(weights(7)[embedding], weights(8)[embedding])


def test_a_model_takes_its_longest_input(kind, tokenizer):
    model = build_model(kind, tokenizer, hidden_size=16, layers=1, heads=2, max_length=24, seed=0)
    assert model(torch.full((1, 24), 5)).logits.shape == (1, 24, len(tokenizer))


def test_bad_arguments_are_refused(tokenizers):
    with pytest.raises(ValueError, match="kind 'bert': choose one of gpt2, opt"):
        train_tokenizer("bert", ["a"], 500)
    with pytest.raises(ValueError, match="at least 400 are needed"):
        train_tokenizer("gpt2", ["a"], 256)
    with pytest.raises(ValueError, match="architecture 'bert'"):
        build_model("bert", tokenizers["gpt2"], 32, 1, 2, 16, 0)
    with pytest.raises(ValueError, match="hidden_size 30 must be an even multiple of heads 4"):
        build_model("gpt2", tokenizers["gpt2"], 30, 1, 4, 16, 0)
    padless = train_tokenizer("gpt2", ["a b"], 400)
    padless.pad_token = padless.eos_token
    with pytest.raises(ValueError, match="a pad token of its own"):
        build_model("gpt2", padless, 32, 1, 2, 16, 0)
