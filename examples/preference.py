# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""An existing DPO script with weak preferences: two names change, and the pairs may carry the ensemble's doubt.

    # before                                        # after
    from trl import DPOConfig, DPOTrainer           from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer
    args = DPOConfig(...)                           args = WeakPreferenceConfig(...)
    trainer = DPOTrainer(                           trainer = WeakPreferenceTrainer(
        model, args=args, train_dataset=pairs, ...)     model, args=args, train_dataset=pairs, ...)

Without a network, on tiny models and home-assistant requests made in place (about two minutes on two CPU cores):

    python examples/preference.py

On a model and a preference dataset of your own (`prompt`, `chosen`, `rejected`; `pair_epsilon` and `pair_weight` where
`build_preferences` made it), full or LoRA:

    accelerate launch examples/preference.py --model_name_or_path MODEL --dataset_name DATASET --use_peft \\
        --learning_rate 1e-5 --beta 5 --label_smoothing 0.1
"""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config

from trl_weaks import (
    WeakEnsemble,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisor,
    build_preferences,
)
from trl_weaks.aggregation.comparisons.preferences import judge_pairs
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.metrics import slu_f1
from trl_weaks.study.data.grammar import load_splits, slot_types
from trl_weaks.study.data.prompts import FILLER_LEAD, build_prompt
from trl_weaks.study.data.rows import task_rows
from trl_weaks.study.data.targets import decode_slots
from trl_weaks.study.models import shipped

ON_CPU = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False, "gradient_checkpointing": False}


@dataclass
class ExampleArguments:
    """What to train on: a dataset of your own, or the offline example's size."""

    dataset_name: str | None = field(default=None, metadata={"help": "A preference dataset, by name or folder."})
    dataset_train_split: str = field(default="train", metadata={"help": "Its split to train on."})
    prompts: int = field(default=100, metadata={"help": "Offline: prompts to make pairs from."})
    gold_rows: int = field(default=400, metadata={"help": "Offline: gold rows that the supervisors learn from."})
    epochs: int = field(default=6, metadata={"help": "Offline: epochs on the gold rows."})
    num_candidates: int = field(default=5, metadata={"help": "Offline: the student's answers to each prompt."})


def fine_tuned(name: str, rows: list[dict], epochs: int, folder: Path) -> WeakSupervisor:
    """A tiny pre-trained model of the package, trained on gold with stock TRL: stands for a checkpoint of yours."""
    model = AutoModelForCausalLM.from_pretrained(shipped.FOLDER / name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(shipped.FOLDER / name)
    args = SFTConfig(
        output_dir=str(folder / name),
        num_train_epochs=epochs,
        learning_rate=5e-3,
        warmup_steps=20,
        adam_beta2=0.98,
        per_device_train_batch_size=16,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        **ON_CPU,
    )
    SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    return WeakSupervisor(model, tokenizer, name=name)


def offline_pairs(example: ExampleArguments, folder: Path) -> tuple[WeakSupervisor, Dataset]:
    """A supervised student, and pairs of its own answers ranked by three supervisors with tokenizers of their own."""
    splits = load_splits(half_a=example.gold_rows, half_b=example.prompts, validation=1, test=1)
    prompt = build_prompt("short", slot_types())
    gold, asked = (task_rows(half, prompt, FILLER_LEAD["short"]) for half in (splits.half_a, splits.half_b))
    asked = Dataset.from_list(asked)
    *supervisors, student = (
        fine_tuned(name, gold, example.epochs, folder) for name in ("gpt2", "opt", "gpt_neox", "student")
    )
    pairs = build_preferences(
        student,
        WeakEnsemble(supervisors),
        asked.remove_columns("completion"),
        num_candidates=example.num_candidates,
        max_new_tokens=48,
        output_dir=folder / "preferences",
    )
    print(json.dumps(preference_report(pairs), indent=1))
    answers = {row["example_id"]: decode_slots(row["completion"])[0] for row in asked}

    def judge(row: dict, text: str) -> float:
        return slu_f1([decode_slots(text)[0]], [answers[row["example_id"]]])["slu_f1"]

    print("against gold:", json.dumps(judge_pairs(pairs, judge)))  # a report: training never sees it
    return student, pairs


def main(example: ExampleArguments, args: WeakPreferenceConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path:
        pairs = load_dataset(example.dataset_name, split=example.dataset_train_split)
        args.model_init_kwargs = {"revision": model_args.model_revision, "dtype": model_args.dtype}
        # An existing DPO script, with the trainer's name changed:
        trainer = WeakPreferenceTrainer(
            model_args.model_name_or_path, args=args, train_dataset=pairs, peft_config=get_peft_config(model_args)
        )
    else:
        student, pairs = offline_pairs(example, Path(args.output_dir))
        # A model built in memory cannot be reloaded from a path, so its reference is a copy made before training.
        trainer = WeakPreferenceTrainer(
            student.model,
            copy.deepcopy(student.model),
            args,
            train_dataset=pairs,
            processing_class=student.tokenizer,
        )
    trainer.train()
    trainer.save_model(args.output_dir)


def make_parser() -> TrlParser:
    parser = TrlParser((ExampleArguments, WeakPreferenceConfig, ModelConfig))
    parser.set_defaults(output_dir="preference-output", save_strategy="no", report_to="none", num_train_epochs=2.0)
    parser.set_defaults(learning_rate=5e-6)  # tiny float32 models; WeakPreferenceConfig's own default is the paper's
    if not torch.cuda.is_available():
        parser.set_defaults(**ON_CPU)
    return parser


if __name__ == "__main__":
    example_args, training_args, model_args = make_parser().parse_args_and_config()
    main(example_args, training_args, model_args)
