"""Whole training steps: ours against `SFTTrainer`, and token trees against rows, alternately in one run.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py                              # about 40 minutes, one thread
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --layers 2 --width 128 --vocabulary 4000 --rounds 5   # one
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --shapes llama --layers 2 --width 64 --vocabulary 700 \
        --instruction 40 --prompts 64 --targets 2 --default_loss --shares             # half: a tiny model's step

A step is `training_step` of a trainer on one ready micro-batch: forward, loss, metrics, backward; no optimizer, whose
cost does not depend on the loss. The collator's time is counted too. Rows: N completions of 15 tokens to each of
P requests of 12 tokens under one instruction. `SFTTrainer` trains on the same rows and ignores the confidences. Models
have random weights. Ratios are medians over rounds of paired CPU times; rounds alternate in direction. `--shares` says
what part of a step the loss takes without its matrix products, and the passes over the vocabulary in it.
"""

import argparse
import contextlib
import random
import statistics
import tempfile
import time
from unittest import mock

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.heads import chunked
from trl_weaks.losses.vocabulary import cpu_kernels, evidential_tokens, token_rows
from trl_weaks.trainer.completions.preparation import PREPARED, UNIT_IDS, UNIT_LOGPS, WEIGHTS

SHAPES = ("gpt2", "opt", "neox", "llama")
WITHOUT_PRODUCTS, STATISTICS, EVIDENTIAL = "loss without its products", "statistics", "evidential sums and gradient"
PARTS = (  # of a step, by the functions that do them, compiled or not
    (WITHOUT_PRODUCTS, chunked, "chunk_rows"),
    (STATISTICS, cpu_kernels, "compiled_reduce_rows"),
    (STATISTICS, token_rows, "reduce_rows"),
    (EVIDENTIAL, cpu_kernels, "compiled_evidential_rows"),
    (EVIDENTIAL, evidential_tokens, "dense_passes"),
)
SMOOTH_OPT = "opt_gelu"  # OPT without the kinks of its ReLU, beside which float32 gradients may jump


def build(shape: str, arguments: argparse.Namespace) -> PreTrainedModel:
    width, layers = arguments.width, arguments.layers
    heads = max(1, width // 64)
    common = {"vocab_size": arguments.vocabulary, "hidden_size": width, "num_hidden_layers": layers}
    common |= {"num_attention_heads": heads, "max_position_embeddings": 1024, "bos_token_id": 1, "eos_token_id": 1}
    configs = {
        "gpt2": lambda: GPT2Config(
            vocab_size=arguments.vocabulary, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=1,
            eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
        "opt": lambda: OPTConfig(**common, ffn_dim=4 * width, word_embed_proj_dim=width, dropout=0.0),
        SMOOTH_OPT: lambda: OPTConfig(
            **common, ffn_dim=4 * width, word_embed_proj_dim=width, dropout=0.0, activation_function="gelu",
        ),
        "neox": lambda: GPTNeoXConfig(**common, intermediate_size=4 * width),
        "llama": lambda: LlamaConfig(
            **common, intermediate_size=8 * width // 3, num_key_value_heads=max(1, heads // 3)
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[shape]())


def prepared_rows(arguments: argparse.Namespace) -> Dataset:
    """Rows as the trainer prepares them: token ids and labels, and the weak columns that `SFTTrainer` ignores."""
    draw = random.Random(0)
    tokens = lambda n: [draw.randrange(2, arguments.vocabulary) for _ in range(n)]  # noqa: E731
    instruction, rows = tokens(arguments.instruction), []
    for _ in range(arguments.prompts):
        request = tokens(12)
        for _ in range(arguments.targets):
            prompt, completion = instruction + request, tokens(15)
            unsupervised = len(prompt)
            logps = [[-draw.random()] for _ in completion for _ in range(3)][: len(completion)]
            rows.append(
                {
                    "input_ids": prompt + completion,
                    "labels": [-100] * unsupervised + completion,
                    UNIT_IDS: [-1] * unsupervised + [i // 3 for i in range(len(completion))],
                    UNIT_LOGPS: [[0.0]] * unsupervised + [logps[i // 3] for i in range(len(completion))],
                    WEIGHTS: [1.0],
                }
            )
    draw.shuffle(rows)
    return Dataset.from_list(rows)


A_ROW = Dataset.from_list(
    [
        {
            "example_id": "0", "prompt": "w2", "completion": "w3", "weak_supervisors": ["one"], "weak_weights": [1.0],
            "weak_offsets": [[[0, 2]]], "weak_logps": [[-0.1]],
        }
    ]
)  # fmt: skip


def make_trainers(shape: str, arguments: argparse.Namespace, folder: str) -> dict:
    """Name -> trainer. All share one model, whose forward TRL's head and ours extend side by side."""
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(arguments.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w1"
    )
    rows, model = prepared_rows(arguments), build(shape, arguments)
    given = dict(
        output_dir=folder, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        dataloader_pin_memory=False, disable_tqdm=True, per_device_train_batch_size=len(rows),
        completion_only_loss=True,
    )  # fmt: skip
    plain, trainers = rows.remove_columns(list(PREPARED)), {}
    if not arguments.trees_only:
        sft = SFTTrainer(model, SFTConfig(**given), train_dataset=plain, processing_class=tokenizer)
        trainers["SFTTrainer"] = sft
    losses = {"soft labels": {"weak_loss": "naive", "gamma_max": 0.0}}
    if arguments.default_loss:
        losses["default loss"] = {}
    for name, loss in losses.items():
        for layout, trees in (("rows", False), ("tree", None)):
            config = WeakSupervisionConfig(**given, **loss, token_trees=trees)
            trainer = WeakSupervisionTrainer(model, config, train_dataset=A_ROW, processing_class=tokenizer)
            trainer.train_dataset = rows  # prepared above, by the token
            trainers[f"{name}, {layout}"] = trainer
    for trainer in trainers.values():
        trainer.model_wrapped = trainer.accelerator.prepare(model)
        trainer.model.train()
    return trainers


def step(trainer) -> tuple[float, float]:
    """Seconds of CPU time of one step, collator included, and its loss."""
    trainer.model.zero_grad()
    rows = [dict(row) for row in trainer.train_dataset]
    start = time.process_time()
    keep = trainer._signature_columns or []
    batch = trainer.data_collator([{k: v for k, v in row.items() if not keep or k in keep} for row in rows])
    count = (batch["labels"][:, 1:] != -100).sum()
    loss = trainer.training_step(trainer.model_wrapped, batch, count)
    return time.process_time() - start, float(loss)


def shares(trainer) -> dict[str, float]:
    """What part of one step's CPU time each of `PARTS` takes."""
    seconds = dict.fromkeys((name for name, *_ in PARTS), 0.0)

    def timed(name: str, function):
        def run(*given, **settings):
            start = time.process_time()
            found = function(*given, **settings)
            seconds[name] += time.process_time() - start
            return found

        return run

    with contextlib.ExitStack() as stack:
        for name, module, function in PARTS:
            stack.enter_context(mock.patch.object(module, function, timed(name, getattr(module, function))))
        whole, _ = step(trainer)
    return {name: part / whole for name, part in seconds.items()}


def gradient(trainer) -> list[torch.Tensor]:
    step(trainer)
    return [p.grad.double() for p in trainer.model.parameters() if p.grad is not None]


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Norm of the difference of two gradients, relative to that of the second."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    return (apart / sum(float(b.square().sum()) for b in wanted)) ** 0.5


def gradient_errors(rows, tree) -> str:
    """Of the tree against rows, and of rows and tree against rows in float64: how far rounding alone takes them."""
    by_rows, by_tree = gradient(rows), gradient(tree)
    rows.model.double()
    exact = gradient(rows)
    rows.model.float()  # the weights are what they were
    return " | ".join(f"{error(*pair):.1e}" for pair in ((by_tree, by_rows), (by_rows, exact), (by_tree, exact)))


def measure(shape: str, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainers = make_trainers(shape, arguments, folder)
        seconds = {name: [] for name in trainers}
        errors = gradient_errors(trainers["soft labels, rows"], trainers["soft labels, tree"])
        for name in trainers:
            step(trainers[name])
        for number in range(arguments.rounds):
            for name in list(trainers)[:: 1 if number % 2 == 0 else -1]:
                seconds[name].append(step(trainers[name])[0])
    for loss in sorted({name.split(",")[0] for name in trainers} - {"SFTTrainer"}, reverse=True):
        rows, tree = f"{loss}, rows", f"{loss}, tree"
        for over, under in ((rows, "SFTTrainer"), (rows, tree), ("SFTTrainer", tree)):
            if {over, under} <= set(trainers):
                report(shape, seconds, over, under, errors)


def measure_shares(shape: str, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, trainer in make_trainers(shape, arguments, folder).items():
            if name == "SFTTrainer":
                continue
            found = [shares(trainer) for _ in range(1 + arguments.rounds)][1:]
            for part in found[0]:
                values = [100 * one[part] for one in found]
                middle, low, high = statistics.median(values), min(values), max(values)
                print(f"| {shape} | {name} | {part} | {middle:.2g} % | {low:.2g} to {high:.2g} |", flush=True)


def report(shape: str, seconds: dict[str, list[float]], over: str, under: str, errors: str) -> None:
    values = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    print(
        f"| {shape} | {over} ÷ {under} | {statistics.median(values):.3g} | {min(values):.3g} to {max(values):.3g} | "
        f"{statistics.median(seconds[under]):.2f} | {errors} |",
        flush=True,
    )


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, SMOOTH_OPT], default=list(SHAPES))
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--instruction", type=int, default=400, help="tokens that all prompts begin with")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--targets", type=int, default=3, help="completions of each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--default_loss", action="store_true", help="also evidential loss with the auxiliary one")
    parser.add_argument("--trees_only", action="store_true", help="leave out SFTTrainer, whose head is slow on a CPU")
    parser.add_argument("--shares", action="store_true", help="instead of ratios: the parts of our steps, in per cent")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    arguments = parse(given)
    print(f"{vars(arguments)}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    if arguments.shares:
        print("| shape | loss, layout | part | median | [min, max] |\n|---|---|---|---|---|")
        for shape in arguments.shapes:
            measure_shares(shape, arguments)
        return
    print(
        "| shape | ratio | median | [min, max] | seconds of the divisor | gradient: tree to rows | "
        "rows to float64 | tree to float64 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for shape in arguments.shapes:
        measure(shape, arguments)


if __name__ == "__main__":
    main()
