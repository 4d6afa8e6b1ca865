"""The training step of a real model: ours ÷ `SFTTrainer` ÷ the plainest loops, on SLURP, time and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/real_step.py --data_dir data/slurp --rounds 5 --steps 40 --output step.json
    OMP_NUM_THREADS=1 python benchmarks/real_step.py --data_dir data/slurp --rows 200 --batch 6 --steps 4 --rounds 2
    OMP_NUM_THREADS=1 python benchmarks/real_step.py --data_dir data/slurp --rehearse

The first takes hours on a free core, the second some seven minutes, the third two.

Every measurement is a process of its own, so that its peak memory is its own; rounds alternate in direction. A step is
everything from one batch to the next: collator, forward, loss, metrics, backward, clipping, AdamW. Seconds are the
process's CPU time per step on one thread, the first step left out; MiB are the peak above the loaded model.

`plain loop` is what one writes with transformers alone: padded rows and `model(labels=...)`; `lean loop` computes the
logits of the supervised tokens alone, the least that full logits can do. Both train on the labels, without weights and
confidences. With `--targets 3` every utterance has three supervisors' completions; token trees join their beginnings.
`--frozen 20` adds students whose 20 lowest layers are frozen, timed in their second epoch.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from process_memory import mebibytes

from trl_weaks.study.environment import describe_environment

SOFT = {"weak_loss": "naive", "gamma_max": 0.0}
EVIDENTIAL = {"weak_loss": "bayesian", "gamma_max": 0.0}
AUXILIARY = {"weak_loss": "bayesian", "gamma_max": 0.25}
OURS = {
    f"{loss}, {layout}": settings | {"token_trees": trees}
    for loss, settings in (("soft", SOFT), ("evidential", EVIDENTIAL), ("evidential + auxiliary", AUXILIARY))
    for layout, trees in (("rows", False), ("trees", None))
}
FROZEN = {"frozen": SOFT | {"token_trees": False}}
FROZEN["frozen, cached"] = FROZEN["frozen"] | {"cache_frozen_layers": True}
BASELINES = ("lean loop", "plain loop", "SFTTrainer")


def examples(options: argparse.Namespace) -> list[dict]:
    """Weak rows of SLURP: each utterance's own slots, and those of others as further supervisors' answers."""
    with Path(options.data_dir, "train.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines][: options.rows]
    draw, rows = random.Random(0), []
    answers = [json.dumps(dict(example["slots"])) for example in found]
    distinct = sorted(set(answers))
    head = "Write the slots of the request as JSON, and nothing else. " * options.instruction
    for number, example in enumerate(found):
        others = [answer for answer in draw.sample(distinct, options.targets) if answer != answers[number]]
        for supervisor, answer in enumerate([answers[number], *others][: options.targets]):
            words = [i for i in range(len(answer)) if i == 0 or answer[i - 1] == " "]
            spans = [[a, b] for a, b in zip(words, [*words[1:], len(answer)], strict=True)]
            rows.append(
                {
                    "example_id": str(number), "prompt": f"{head}{example['sentence']}\n", "completion": answer,
                    "weak_supervisors": [f"s{supervisor}"], "weak_weights": [1 / options.targets],
                    "weak_offsets": [spans], "weak_logps": [[-0.3 * draw.random() for _ in spans]],
                }
            )  # fmt: skip
    return rows


def load(options: argparse.Namespace):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_weaks.study.pipeline.models import freeze_lower_layers, resolved

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = resolved(options.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    if options.frozen and options.variant in FROZEN:
        freeze_lower_layers(model, model.config.num_hidden_layers - options.frozen)
    return model, AutoTokenizer.from_pretrained(folder)


def by_trainer(model, tokenizer, options: argparse.Namespace) -> tuple[list[float], float]:
    """CPU seconds at the end of each step, and the last loss logged."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            marks.append(time.process_time())

    rows = Dataset.from_list(examples(options))
    cached = options.variant in FROZEN
    with tempfile.TemporaryDirectory() as folder:
        given = dict(
            output_dir=folder, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
            dataloader_pin_memory=False, disable_tqdm=True, per_device_train_batch_size=options.batch,
            save_strategy="no", logging_steps=10, learning_rate=1e-5, seed=0, num_train_epochs=2,
            **({} if cached else {"max_steps": options.steps + 1}),
        )  # fmt: skip
        if cached:
            rows = rows.select(range(min(len(rows), options.batch * options.steps)))
        if options.variant == "SFTTrainer":
            plain = rows.select_columns(["prompt", "completion"])
            trainer = SFTTrainer(model, SFTConfig(**given), train_dataset=plain, processing_class=tokenizer)
        else:
            settings = WeakSupervisionConfig(**given, **(OURS | FROZEN)[options.variant])
            trainer = WeakSupervisionTrainer(model, settings, train_dataset=rows, processing_class=tokenizer)
        trainer.add_callback(Clock())
        loss = trainer.train().training_loss
    return marks[len(marks) // 2 - 1 :] if cached else marks, loss


def by_loop(model, tokenizer, options: argparse.Namespace) -> tuple[list[float], float]:
    """The same rows, shuffled and padded as `Trainer` does, in the shortest loop that trains as it does."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    rows = []
    for row in examples(options):
        prompt, answer = tokenizer(row["prompt"])["input_ids"], tokenizer(row["completion"])["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        rows.append((torch.tensor(prompt + answer), torch.tensor([-100] * len(prompt) + answer)))
    random.Random(0).shuffle(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    model.train()
    marks, at = [], 0
    for _ in range(options.steps + 1):
        batch = [rows[(at + i) % len(rows)] for i in range(options.batch)]
        at += options.batch
        ids = pad_sequence([r[0] for r in batch], True, tokenizer.eos_token_id)
        labels = pad_sequence([r[1] for r in batch], True, -100)
        mask = pad_sequence([torch.ones_like(r[0]) for r in batch], True, 0)
        if options.variant == "plain loop":
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        else:
            hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            kept = labels[:, 1:] != -100
            loss = cross_entropy(model.lm_head(hidden[:, :-1][kept]), labels[:, 1:][kept])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.process_time())
    return marks, loss.item()


def worker(options: argparse.Namespace) -> None:
    model, tokenizer = load(options)
    before = mebibytes("VmRSS")
    marks, loss = (by_loop if "loop" in options.variant else by_trainer)(model, tokenizer, options)
    steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    mean = sum(steps) / len(steps)  # every step has other rows, so that a median would not compare the same work
    print(json.dumps({"seconds": mean, "mib": mebibytes("VmHWM") - before, "loss": loss, "steps": len(steps)}))


def measure(variant: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--variant", variant]
    for name in ("data_dir", "model", "rows", "targets", "instruction", "batch", "steps", "frozen"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(rounds: list[dict[str, dict]]) -> str:
    """Markdown: one row for each variant; ratios are medians over rounds of that round's pairs."""
    names = list(rounds[0])
    over = [name for name in BASELINES if name in names]
    lines = [
        "| variant | s per step | peak MiB | " + " | ".join(f"time ÷ {b} | memory ÷ {b}" for b in over) + " |",
        "|---|---|---|" + "---|---|" * len(over),
    ]
    for name in names:
        cells = [spread([r[name]["seconds"] for r in rounds], 3), spread([r[name]["mib"] for r in rounds], 0)]
        for base in over:
            for what in ("seconds", "mib"):
                cells.append(spread([r[name][what] / r[base][what] for r in rounds]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "frozen, cached" in names:
        ratio = spread([r["frozen, cached"]["seconds"] / r["frozen"]["seconds"] for r in rounds])
        lines += ["", f"Second epoch, `cache_frozen_layers` ÷ without: {ratio}."]
    return "\n".join(lines)


def parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with SLURP's train.jsonl")
    parser.add_argument("--model", default="pypi:smollm2-135m", help="a model of PyPI, or a folder")
    parser.add_argument("--rows", type=int, default=2000, help="utterances")
    parser.add_argument("--targets", type=int, default=3, help="completions of each utterance")
    parser.add_argument("--instruction", type=int, default=0, help="times 12 tokens that every prompt begins with")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--frozen", type=int, default=20, help="lowest layers frozen in the last two variants; 0: none"
    )
    parser.add_argument("--output", help="JSON of all measurements")
    parser.add_argument("--rehearse", action="store_true", help="two steps of four rows, one round")
    parser.add_argument("--variant", choices=[*BASELINES, *OURS, *FROZEN], help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.rehearse:
        options.rows, options.batch, options.steps, options.rounds = 40, 6, 2, 1
    return options


def main(given: list[str] | None = None) -> None:
    options = parse(given)
    if options.variant:
        worker(options)
        return
    variants = [*BASELINES, *OURS, *(FROZEN if options.frozen else ())]
    rounds = []
    for turn in range(options.rounds):
        found = {name: measure(name, options) for name in variants[:: -1 if turn % 2 else 1]}
        rounds.append({name: found[name] for name in variants})
        print(f"round {turn + 1}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("variant", "output")}
    about = {"settings": settings, **describe_environment(), "load": os.getloadavg(), "rounds": rounds}
    if options.output:
        Path(options.output).write_text(json.dumps(about, indent=1) + "\n")
    print(f"{settings}, {about['date']}, {about['machine']}, load {about['load'][0]:.1f} at the end\n")
    print(table(rounds))


if __name__ == "__main__":
    main()
