"""Hours by arithmetic: against FLOPs counted as they run, TRL's own count, and by hand; and what the README claims."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen2Config

from trl_weaks.cli import main
from trl_weaks.commands.hours import training_flops, training_hours
from trl_weaks.commands.memory import ModelSize, model_size

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 96}
TINY = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=96, n_positions=64),
    "opt": OPTConfig(**SHAPE, ffn_dim=80, word_embed_proj_dim=32, max_position_embeddings=64),
    "neox": GPTNeoXConfig(**SHAPE, intermediate_size=80),
    "llama, tied": LlamaConfig(**SHAPE, intermediate_size=80, num_key_value_heads=2, tie_word_embeddings=True),
}


def saved(config, architecture: str, folder: Path) -> str:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("shape", TINY)
def test_flops_are_those_that_torch_counts(shape, tmp_path):
    """Every matrix product of a forward and backward pass, counted as it runs."""
    model = AutoModelForCausalLM.from_config(TINY[shape], attn_implementation="eager")
    size = model_size(saved(TINY[shape], type(model).__name__, tmp_path))
    with FlopCounterMode(display=False) as counter:
        model(torch.arange(2 * 24).reshape(2, 24), use_cache=False).logits.sum().backward()
    assert training_flops(size, 48, 24) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_trl_counts_the_same_where_it_counts(tmp_path):
    from trl_weaks.trainer._compat import compute_flops_per_token

    config = LlamaConfig(intermediate_size=11008)  # Llama-2-7B
    size = model_size(saved(config, "LlamaForCausalLM", tmp_path))
    assert training_flops(size, 1, 450) == compute_flops_per_token(config, 450)


def test_hours_by_hand():
    size = ModelSize(1000, 10, layers=2, hidden=8, vocabulary=50, multiplied=900)
    flops = 1e9 * (6 * 900 + 12 * 2 * 8 * 100)
    assert training_hours(size, 1e9, 100, gpus=4, tflops=2.0, mfu=0.5) == pytest.approx(flops / (4 * 1e12) / 3600)


@pytest.mark.parametrize(("option", "message"), [(["--mfu", "1.5"], "--mfu 1.5"), (["--tflops", "0"], "--tflops 0")])
def test_bad_input_ends_with_its_message(option, message, tmp_path):
    model = saved(TINY["neox"], "GPTNeoXForCausalLM", tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(["memory", "--model", model, "--tokens", "1e6", *option])


REAL = {
    "GPT2-Large": (GPT2Config(n_embd=1280, n_layer=36, n_head=20), "GPT2LMHeadModel"),
    "OPT-1.3B": (OPTConfig(hidden_size=2048, num_hidden_layers=24, ffn_dim=8192, word_embed_proj_dim=2048,
                           num_attention_heads=32), "OPTForCausalLM"),
    "Pythia-1.4B": (GPTNeoXConfig(hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, vocab_size=50304,
                                  num_attention_heads=16), "GPTNeoXForCausalLM"),
    "Llama-2-7B": (LlamaConfig(intermediate_size=11008), "LlamaForCausalLM"),
    "Qwen2.5-7B": (Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, vocab_size=152_064,
                               num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False),
                   "Qwen2ForCausalLM"),
    "Qwen2.5-3B": (Qwen2Config(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, vocab_size=151_936,
                               num_attention_heads=16, num_key_value_heads=2, tie_word_embeddings=True),
                   "Qwen2ForCausalLM"),
}  # fmt: skip
CLAIM = re.compile(r"^\| (\S+) \| (\S+) \| ([\d.]+e\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.e-]+) \|$", re.MULTILINE)


def test_the_readme_claims_what_the_command_prints(tmp_path, capsys):
    """Each row of ds_configs/README.md: model, strategy, tokens, length, GPUs, GiB per GPU, hours."""
    text = (Path(__file__).resolve().parents[1] / "ds_configs" / "README.md").read_text()
    claims = CLAIM.findall(text)
    assert {claim[0] for claim in claims} == set(REAL)
    for name, strategy, tokens, length, gpus, memory, hours in claims:
        model = saved(*REAL[name], tmp_path / name)
        zero, _, offload = strategy.removeprefix("ZeRO-").partition("+")
        arguments = ["--zero", "0" if strategy == "DDP" else zero, "--offload", offload or "none", "--gpus", gpus]
        main(["memory", "--model", model, *arguments, "--tokens", tokens, "--max_length", length])
        *_, states, row = capsys.readouterr().out.splitlines()
        assert states.replace("*", "").split("|")[2].split()[0] == memory, name
        assert row.split("|")[2].split()[0] == hours, name
