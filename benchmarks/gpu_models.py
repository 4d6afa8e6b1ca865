"""Parts of `gpu.py`: the training step of a 7B model, and labelling by three models of 1.3B."""

import argparse
import functools
import random
import tempfile
import time

import torch
from chip import Chip, goal, in_turns, ratios, spread
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

# As published: Llama-2-7B, Mistral-7B-v0.3 (but for the base of its rotary positions, which costs nothing).
SEVEN = {
    "llama-2-7b": LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5,
    ),
    "mistral-7b": MistralConfig(
        vocab_size=32_768, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32_768, rms_norm_eps=1e-5, sliding_window=None,
    ),
    "rehearsal": LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    ),
}  # fmt: skip
# Of OPT-1.3B, Pythia-1.4B and Cerebras-GPT-1.3B.
SUPERVISORS = {
    "OPT-1.3B": OPTConfig(
        vocab_size=50_272, hidden_size=2048, num_hidden_layers=24, ffn_dim=8192, num_attention_heads=32,
        max_position_embeddings=2048, word_embed_proj_dim=2048, dropout=0.0,
    ),
    "Pythia-1.4B": GPTNeoXConfig(
        vocab_size=50_304, hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, num_attention_heads=16,
        max_position_embeddings=2048, rotary_pct=0.25,
    ),
    "Cerebras-GPT-1.3B": GPT2Config(
        vocab_size=50_257, n_embd=2048, n_layer=24, n_head=16, n_inner=8192, n_positions=2048,
    ),
}  # fmt: skip
SFT = "SFTTrainer"
ROWS = {
    "ours: soft labels": {"weak_loss": "naive", "gamma_max": 0.0},
    "ours: evidential": {"weak_loss": "bayesian", "gamma_max": 0.0},
    "ours: evidential + auxiliary": {"weak_loss": "bayesian", "gamma_max": 0.25},
}
TREES = "ours: soft labels, token trees"
STEP_GOAL, MEMORY_GOAL = 1.03, 1.02
ROOM = 100  # GiB below which activations are computed again


def on_device(config: PreTrainedConfig, chip: Chip, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """A model of random weights, made where it works."""
    torch.manual_seed(0)
    with chip.device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def word_tokenizer(vocabulary: int):
    """`w7` is token 7; the two special ones are no part of any word, as `w1` were of `w12`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def weak_rows(sizes: argparse.Namespace, vocabulary: int) -> list[dict]:
    """One batch: three supervisors' completions of every prompt, all of the same length, a unit to each word."""
    draw, rows = random.Random(0), []
    words = lambda n: " ".join(f"w{draw.randrange(2, vocabulary)}" for _ in range(n))  # noqa: E731
    for number in range(sizes.step_prompts):
        prompt = words(sizes.step_prompt) + " "
        for supervisor in range(3):
            completion = words(sizes.step_completion - 1)  # and the end
            starts = [i for i in range(len(completion)) if i == 0 or completion[i - 1] == " "]
            ends = [*(s - 1 for s in starts[1:]), len(completion)]
            rows.append(
                {
                    "example_id": str(number), "prompt": prompt, "completion": completion,
                    "weak_supervisors": [f"s{supervisor}"], "weak_weights": [1 / 3],
                    "weak_offsets": [[list(pair) for pair in zip(starts, ends, strict=True)]],
                    "weak_logps": [[-0.3 * draw.random() for _ in starts]],
                }
            )  # fmt: skip
    return rows


def step_flops(config: PreTrainedConfig, sizes: argparse.Namespace, lora: bool) -> float:
    """
    FLOPs of the model in one step: two for each weight and token forward, and again for the gradient of each input
    and of each weight, which LoRA does without; the output layer where tokens are supervised; causal attention.
    Adapters, recomputation, the loss and the optimizer do not count.
    """
    h, heads = config.hidden_size, config.num_attention_heads
    narrow = h * config.num_key_value_heads // heads
    layer = 2 * h * h + 2 * h * narrow + 3 * h * config.intermediate_size
    rows, length = 3 * sizes.step_prompts, sizes.step_prompt + sizes.step_completion
    products = config.num_hidden_layers * layer * length + config.vocab_size * h * sizes.step_completion
    attention = config.num_hidden_layers * 2 * length * length * h  # both products, the half that is seen
    return rows * ((4 if lora else 6) * products + 3 * attention)


def make_trainers(model: PreTrainedModel, chip: Chip, sizes: argparse.Namespace, folder: str, again: bool) -> dict:
    """Name -> trainer of the one model; each adds a head of its own beside the others'. `again`: activations are
    computed again in the backward pass."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    vocabulary = model.config.vocab_size
    rows, tokenizer = Dataset.from_list(weak_rows(sizes, vocabulary)), word_tokenizer(vocabulary)
    given = dict(
        output_dir=folder, use_cpu=not chip.cuda, bf16=True, report_to="none", disable_tqdm=True,
        gradient_checkpointing=again, per_device_train_batch_size=len(rows),
        max_length=sizes.step_prompt + sizes.step_completion, save_strategy="no",
    )  # fmt: skip
    plain = rows.select_columns(["prompt", "completion"])
    trainers = {SFT: SFTTrainer(model, SFTConfig(**given), train_dataset=plain, processing_class=tokenizer)}
    for name, settings in {**ROWS, TREES: ROWS["ours: soft labels"]}.items():
        config = WeakSupervisionConfig(**given, **settings, token_trees=name == TREES)
        trainers[name] = WeakSupervisionTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    if again:  # as `Trainer.train` begins
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prepared = trainers[SFT].accelerator.prepare(trainers[SFT].model)  # once: autocast goes around it once
    for name, trainer in trainers.items():
        trainer.model_wrapped = prepared
        trainer.model.train()
        supervised = int((collated(trainer)["labels"] != -100).sum())
        if supervised != len(rows) * sizes.step_completion:
            raise ValueError(f"{name} trains on {supervised} tokens, not {len(rows) * sizes.step_completion}")
    return trainers


def collated(trainer) -> dict:
    keep = trainer._signature_columns or []
    rows = [{k: v for k, v in row.items() if not keep or k in keep} for row in trainer.train_dataset]
    return trainer.data_collator(rows)


def one_step(trainer, optimizer: torch.optim.Optimizer) -> float:
    """Collator, forward, loss, metrics, backward, clipping and AdamW; the loss."""
    batch = collated(trainer)
    count = (batch["labels"][:, 1:] != -100).sum().to(trainer.args.device)
    try:
        loss = trainer.training_step(trainer.model_wrapped, batch, count)
        torch.nn.utils.clip_grad_norm_([p for p in trainer.model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
    finally:  # one that had too little memory leaves no gradients to the next
        optimizer.zero_grad()
    return float(loss)


def step_table(found: dict, flops: float, tokens: int, peak_flops: float | None) -> tuple[list, list]:
    """Rows and goals of what `in_turns` found; what `SFTTrainer` did not reach is compared with nothing."""
    rows, goals = [], []
    for name, one in found.items():
        if "error" in one:
            rows.append([name, one["error"], *[""] * 5])
            continue
        rate = [1 / s for s in one["seconds"]]
        mfu = [flops * r / peak_flops for r in rate] if peak_flops and name != TREES else []
        over = [] if "error" in found[SFT] else [one["mib"] / found[SFT]["mib"]]
        cells = [spread(one["seconds"]), f"{one['mib']:,.0f}", spread([tokens * r for r in rate], 0), spread(mfu)]
        rows.append([name, *cells, spread(ratios(found, name, SFT)), "".join(f"{value:.3f}" for value in over)])
        if name in ROWS:
            goals.append(goal(f"{name}, time ÷ {SFT}", ratios(found, name, SFT), STEP_GOAL))
            goals.append(goal(f"{name}, memory ÷ {SFT}", over, MEMORY_GOAL))
    return rows, goals


def training(chip: Chip, sizes: argparse.Namespace, until: float, lora: bool) -> dict:
    """Steps of `SFTTrainer` and of ours in turns, on one model, one optimizer and the same rows."""
    config = SEVEN[sizes.shape]
    again = chip.gibibytes < ROOM if chip.cuda else lora  # a rehearsal goes both ways
    model = on_device(config, chip)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    with tempfile.TemporaryDirectory() as folder:
        trainers = make_trainers(model, chip, sizes, folder, again)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        one_step(trainers[SFT], optimizer)  # the optimizer's moments are there before anything is measured
        ways = {name: functools.partial(one_step, trainer, optimizer) for name, trainer in trainers.items()}
        found = in_turns(chip, ways, sizes.rounds, until)
    flops, tokens = (
        step_flops(config, sizes, lora),
        3 * sizes.step_prompts * (sizes.step_prompt + sizes.step_completion),
    )
    rows, goals = step_table(found, flops, tokens, chip.peak_flops)
    about = (
        f"{sizes.shape}, {'LoRA of rank 16 on every linear layer' if lora else 'all weights'}, bfloat16, "
        f"{3 * sizes.step_prompts} rows of {sizes.step_prompt} and {sizes.step_completion} tokens, "
        f"{flops / 1e12:.4g} TFLOP a step, activations {'computed again' if again else 'kept'}"
    )
    columns = ["trainer", "s per step", "peak MiB", "tokens/s", "MFU", f"time ÷ {SFT}", f"memory ÷ {SFT}"]
    return {"about": about, "columns": columns, "rows": rows, "goals": goals, "measured": found}


def one_model(chip: Chip, model: PreTrainedModel, sizes: argparse.Namespace, until: float) -> tuple[dict, dict]:
    """Generation and scoring by ours and by `generate` and padded passes, in turns; and whether they say the same."""
    from labelling import EOS, PAD, draw_candidates, draw_prompts, naive_generate, our_score

    from trl_weaks.inference.beam_search import search
    from trl_weaks.inference.generation_settings import decoding_config
    from trl_weaks.inference.probe import can_share
    from trl_weaks.inference.scoring import plain_logps, prefix_levels

    vocabulary = model.config.vocab_size
    prompts = draw_prompts(sizes.prompts, sizes.prefix, 0, vocabulary)
    config = decoding_config(None, "benchmark", 4, sizes.new_tokens, [EOS], PAD)
    sharing, kept = can_share(model), {}

    def ours():
        prefix = prefix_levels(model, prompts[0][: sizes.prefix]) if sharing else None
        kept["beams"] = search(model, prompts, config, 16_384, bool, prefix, sharing)
        kept.setdefault("pool", draw_candidates(kept["beams"], 0.4, vocabulary))
        kept["sums"] = our_score(model, prompts, kept["pool"], prefix)

    def theirs():
        kept["their beams"] = naive_generate(model, prompts, config)
        pairs = [(tuple(p), c) for p, cs in zip(prompts, kept["pool"], strict=True) for c in cs]
        kept["their sums"] = [sum(row) for row in plain_logps(model, pairs, PAD, 65_536, bool)]

    found = in_turns(chip, {"ours": ours, "theirs": theirs}, sizes.rounds, until)
    same = {}
    if not any("error" in one for one in found.values()):
        best = [a[0] == b[0] for a, b in zip(kept["beams"], kept["their beams"], strict=True)]
        errors = [abs(a - b) for a, b in zip(kept["sums"], kept["their sums"], strict=True)]
        same = {"best beams": sum(best) / len(best), "nats": max(errors), "shares the prefix": sharing}
    return found, same


def labelling(chip: Chip, sizes: argparse.Namespace, until: float) -> dict:
    """Four beams and the scores of twelve candidates for every prompt, by three models one after the other."""
    from trl_weaks.inference.as_found import inference

    rows, measured, whole = [], {}, {"ours": 0.0, "theirs": 0.0}
    configs = sizes.supervisors or SUPERVISORS
    for number, (name, config) in enumerate(configs.items()):
        model = on_device(config, chip)
        share = (until - time.perf_counter()) / (len(configs) - number)
        with inference(model):
            found, same = one_model(chip, model, sizes, time.perf_counter() + share)
        measured[name] = found | {"same": same}
        del model
        if not same:
            rows.append([name, *(one.get("error", "") for one in found.values()), "", "", "", ""])
            continue
        seconds = [found[side]["seconds"] for side in whole]
        for side, values in zip(whole, seconds, strict=True):
            whole[side] += sorted(values)[len(values) // 2]
        cells = [spread([sizes.prompts / s for s in values], 1) for values in seconds]
        cells += [spread(ratios(found, "theirs", "ours"), 2), f"{found['ours']['mib'] / found['theirs']['mib']:.2f}"]
        rows.append([name, *cells, f"{same['best beams']:.0%}", f"{same['nats']:.1e}"])
    if all(one["same"] for one in measured.values()):  # of two alone, the sums would say too much
        rates = [f"{sizes.prompts / whole[side]:.1f}" for side in whole]
        rows.append(["all three", *rates, f"{whole['theirs'] / whole['ours']:.2f}", "", "", ""])
    about = f"bfloat16, {sizes.prompts} prompts behind {sizes.prefix} tokens, 4 beams of {sizes.new_tokens}"
    columns = ["supervisor", "ours, prompts/s", "`generate` and padded passes", "theirs ÷ ours, time",
               "memory, ours ÷ theirs", "same best beam", "max abs Δ log P"]  # fmt: skip
    return {"about": about, "columns": columns, "rows": rows, "goals": [], "measured": measured}
