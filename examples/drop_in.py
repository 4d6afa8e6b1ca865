# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
A TRL script, and the same script under several weak supervisors. What differs is the import, the configuration's class
and the dataset's columns.

    python examples/drop_in.py plain                  # SFTTrainer
    python examples/drop_in.py weak                   # WeakSupervisionTrainer
    python examples/drop_in.py weak --model MODEL --dataset DATASET   # your own; columns as in trl_weaks.columns

Without `--model` both train a tiny Llama on eight prompts, labelled by two made-up supervisors: no network is needed.
"""

import argparse

import torch
from datasets import Dataset, load_dataset
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.study.models.tiny import build_model, train_tokenizer

PROMPTS = (
    "lights on",
    "stop the music",
    "wake me at six",
    "call ann",
    "is it raining",
    "what day is it",
    "hello",
    "bye",
)


def plain(model, tokenizer, dataset, settings):
    """The script as it was."""
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def weak(model, tokenizer, dataset, settings):
    """The same script with weak supervisors: two names changed."""
    trainer = WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**settings),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def made_up_labels() -> Dataset:
    """What `label_completions` gives: here, two supervisors that agree on every other prompt."""
    rows = []
    for number, prompt in enumerate(PROMPTS):
        answers = (
            {"ok": [("ann", -0.05), ("bob", -0.10)]} if number % 2 else {"ok": [("ann", -0.05)], "no": [("bob", -0.9)]}
        )
        for completion, given in answers.items():
            spans = [[0, len(completion)], [len(completion), len(completion)]]  # one token, then the end of sequence
            rows.append(
                {
                    "example_id": str(number),
                    "prompt": prompt + "\n",
                    "completion": completion,
                    "weak_supervisors": [name for name, _ in given],
                    "weak_weights": [0.5 for _ in given],
                    "weak_offsets": [spans for _ in given],
                    "weak_logps": [[logp, -0.01] for _, logp in given],
                }
            )
    return Dataset.from_list(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", choices=("plain", "weak"))
    parser.add_argument("--model", help="a model id or path; default: a tiny one built in place")
    parser.add_argument("--dataset", help="a dataset id with the weak columns; default: made up")
    parser.add_argument("--output_dir", default="runs/drop_in", help="folder of the student (%(default)s)")
    parser.add_argument("--report_to", default="none", help="where to log: tensorboard, trackio, wandb (none)")
    arguments = parser.parse_args()

    settings = {
        "output_dir": arguments.output_dir,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "report_to": arguments.report_to,
    }
    dataset = load_dataset(arguments.dataset, split="train") if arguments.dataset else made_up_labels()
    model, tokenizer = arguments.model, None
    if model is None or not torch.cuda.is_available():
        settings |= {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    if model is None:
        settings |= {"save_strategy": "no"}
        tokenizer = train_tokenizer("llama", [row["prompt"] + row["completion"] for row in dataset], vocab_size=400)
        model = build_model("llama", tokenizer, hidden_size=32, layers=2, heads=2, max_length=64, seed=0)
    (plain if arguments.script == "plain" else weak)(model, tokenizer, dataset, settings)


if __name__ == "__main__":
    main()
