"""`trl-weaks memory`: DeepSpeed's own estimators, figures of real 7B configs, and arithmetic by hand."""

import argparse
import itertools
import re
from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen2Config

from trl_weaks.cli import main
from trl_weaks.commands.memory import GIB, STRATEGIES, ModelSize, model_size, model_states, working_memory

ROOT = Path(__file__).resolve().parents[1]
LLAMA = ModelSize(6_738_415_616, 131_072_000, 32, 4096, 32_000, 6_607_077_376)
QWEN = ModelSize(7_615_616_512, 544_997_376, 28, 3584, 152_064, 7_070_285_824)


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    LlamaConfig(intermediate_size=11008).save_pretrained(folder / "Llama-2-7b-hf")
    QwenShape = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, vocab_size=152_064)
    Qwen2Config(**QwenShape, num_attention_heads=28, num_key_value_heads=4).save_pretrained(folder / "Qwen2.5-7B")
    for name, architecture in (("Llama-2-7b-hf", "LlamaForCausalLM"), ("Qwen2.5-7B", "Qwen2ForCausalLM")):
        file = folder / name / "config.json"
        file.write_text(file.read_text().replace("{", f'{{"architectures": ["{architecture}"],', 1))
    return folder


def test_parameters_are_counted_without_weights(configs):
    assert model_size(str(configs / "Llama-2-7b-hf")) == LLAMA
    assert model_size(str(configs / "Qwen2.5-7B")) == QWEN


def test_tied_embeddings_count_once(tmp_path):
    shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2}
    counts = []
    for tied in (True, False):
        LlamaConfig(**shape, tie_word_embeddings=tied).save_pretrained(tmp_path / str(tied))
        counts.append(model_size(str(tmp_path / str(tied))).parameters)
    # embedding, four attention and three feed-forward matrices, three norms; untied: the head as well
    assert counts[0] == 100 * 8 + 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8
    assert counts[1] == counts[0] + 100 * 8


# GiB per GPU, model states only, for Llama-2-7B and Qwen2.5-7B; DeepSpeed's estimators run on the real configs.
FIGURES = {
    (2, "none", 1): (125.5, 141.9), (2, "none", 2): (69.0, 78.0), (2, "none", 4): (40.8, 46.1),
    (2, "none", 8): (26.7, 30.1), (2, "optimizer", 8): (12.6, 14.2), (3, "none", 1): (113.4, 129.7),
    (3, "none", 2): (57.0, 65.9), (3, "none", 4): (28.7, 33.9), (3, "none", 8): (14.6, 18.0),
    (3, "optimizer", 1): (13.0, 16.2), (3, "optimizer", 2): (6.8, 9.1), (3, "optimizer", 8): (2.1, 3.8),
    (3, "all", 4): (0.5, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("strategy", FIGURES)
def test_7b_figures(strategy):
    zero, offload, gpus = strategy
    for size, expected in zip((LLAMA, QWEN), FIGURES[strategy], strict=True):
        assert model_states(size, zero, gpus, offload)[0] / GIB == pytest.approx(expected, abs=0.051)


def test_7b_figures_with_a_reference_and_on_the_host():
    for strategy, expected in (((2, 1), 138), ((2, 8), 39.2), ((3, 2), 63.2), ((3, 8), 16.2)):
        assert model_states(LLAMA, *strategy, reference=True)[0] / GIB == pytest.approx(expected, abs=0.5)
    for strategy, expected in (((2, 1, "optimizer"), 151), ((2, 8, "optimizer"), 301), ((3, 4, "all"), 169)):
        assert model_states(LLAMA, *strategy)[1] / GIB == pytest.approx(expected, abs=0.6)


def test_deepspeeds_own_estimators():
    two = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2").estimate_zero2_model_states_mem_needs
    three = pytest.importorskip("deepspeed.runtime.zero.stage3").estimate_zero3_model_states_mem_needs
    for size, (gpus, nodes) in itertools.product((LLAMA, QWEN), ((1, 1), (4, 1), (8, 1), (16, 2), (12, 3))):
        each = gpus // nodes
        for offload in ("none", "optimizer"):
            host, gpu = two(size.parameters, each, nodes, cpu_offload=offload != "none")
            assert model_states(size, 2, gpus, offload, nodes) == pytest.approx((gpu, host), rel=1e-6)
        for offload in ("optimizer", "all"):
            host, gpu, _ = three(size.parameters, size.largest_layer, each, nodes, True, offload == "all")
            assert model_states(size, 3, gpus, offload, nodes) == pytest.approx((gpu, host), rel=1e-6)
        host, gpu, _ = three(size.parameters, size.largest_layer, each, nodes, False)
        assert model_states(size, 3, gpus, "none", nodes) == pytest.approx((gpu, host), rel=1e-6)


def test_states_counted_tensor_by_tensor():
    """DDP with AdamW in float32: what torch really holds."""
    import torch

    model = torch.nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 7)).sum().backward()
    optimizer.step()
    held = [t for p in model.parameters() for t in (p, p.grad, optimizer.state[p]["exp_avg"])]
    held += [optimizer.state[p]["exp_avg_sq"] for p in model.parameters()]
    size = ModelSize(5 * 7 + 5, 40, 1, 7, 5)
    assert model_states(size, 0, 4)[0] == sum(t.numel() * t.element_size() for t in held)


def test_working_memory_by_hand():
    hidden = 32 * 4 * 2048 * 4096 * 2  # 2 GiB of bfloat16 checkpoints for four rows of 2048 tokens
    assert hidden == 2 * GIB
    assert working_memory(LLAMA, 4, 2048) == hidden + 1024 * 32_000 * (2 + 4 + 4) + 4 * 32_000 * 4096
    assert working_memory(LLAMA, 1, 10) == 32 * 10 * 4096 * 2 + 10 * 32_000 * 10 + 4 * 32_000 * 4096


def test_command(configs, capsys):
    main(["memory", "--model", str(configs / "Llama-2-7b-hf"), "--zero", "2", "3", "--gpus", "1", "4"])
    out = capsys.readouterr().out
    assert "6,738,415,616 parameters" in out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ZeRO")}
    assert len(rows) == len([s for s in STRATEGIES if s[0]])
    work = working_memory(LLAMA, 1, 2048)
    one, four = rows["ZeRO-3"].split("|")[2:4]
    assert one.strip().startswith(f"**{(model_states(LLAMA, 3, 1)[0] + work) / GIB:.1f}")  # bold: more than 80 GB
    assert re.match(rf"{(model_states(LLAMA, 3, 4)[0] + work) / GIB:.1f} \(\+ \d+\)$", four.strip())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "3", "--nodes", "2"], "shared evenly by 2 nodes"),
        (["--zero", "0", "--offload", "all"], "has no --offload"),
        (["--model", "{configs}"], "is no folder of a model: it has no config.json"),
    ],
)
def test_bad_input_ends_with_its_message(configs, arguments, message):
    arguments = ["--model", str(configs / "Llama-2-7b-hf"), *(a.format(configs=configs) for a in arguments)]
    with pytest.raises(SystemExit, match=message):
        main(["memory", *arguments])


def test_unknown_strategy():
    with pytest.raises(ValueError, match="zero 2 with offload 'all'"):
        model_states(LLAMA, 2, 1, "all")


def test_the_readme_shows_what_the_command_prints(configs):
    from trl_weaks.commands.memory import add_arguments, table

    text = (ROOT / "ds_configs" / "README.md").read_text()
    for name in ("Llama-2-7b-hf", "Qwen2.5-7B"):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        printed = table(parser.parse_args(["--model", str(configs / name)]))
        for line in [line for line in printed.splitlines() if line.startswith(("| ZeRO", "| DDP"))]:
            assert line in text, line
