"""Tiny models, pairs and runs for the preference tests; as a script, `train`, `pairs` or `uneven` with a FOLDER, alone
or under torchrun."""

import json
import os
import sys

import torch
from datasets import Dataset
from tiny import causal_lm
from tiny_tokenizers import byte_level

WORDS = "wake me at seven play some jazz in the kitchen turn off every light call anna set an alarm for noon".split()


def tokenizer():
    return byte_level([" ".join(WORDS)], "</s>", every_byte=False)


def model(kind="llama", seed=0, dropout=0.0):
    own = {
        "llama": {"attention_dropout": dropout},
        "gpt2": {"positions": 128, "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout},
        "opt": {"positions": 128, "attention_dropout": dropout, "dropout": dropout},
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return causal_lm(kind, 320, width=32, layers=2, heads=4, seed=seed, **ids, **own[kind])


def reference_of(policy, noise=0.05):
    """A reference that differs from the policy, so that margins are not 0."""
    reference = type(policy)(policy.config)
    reference.load_state_dict(policy.state_dict())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return reference


def pairs(n=8, epsilon=True, weight=True):
    """n pairs of unequal lengths; epsilons and weights differ from row to row."""
    rows = []
    for i in range(n):
        word = [WORDS[(3 * i + j) % len(WORDS)] for j in range(9)]
        row = {"prompt": " ".join(word[: 2 + i % 3]), "chosen": " " + " ".join(word[3 : 5 + i % 4])}
        row["rejected"] = " " + " ".join(reversed(word[4 : 9 - i % 2]))
        if epsilon:
            row["pair_epsilon"] = [0.05, 0.3, 0.0, 0.45][i % 4]
        if weight:
            row["pair_weight"] = [0.5, 1.5, 1.25, 0.75][(i // 2) % 4]
        rows.append(row)
    return Dataset.from_list(rows)


def settings(folder, **changes):
    common = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "beta": 0.5,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "seed": 3,
        "disable_tqdm": True,
    }
    return common | changes


def make_pairs(folder):
    """Pairs from six prompts, two to a unit of work, shared between the processes."""
    from accelerate import PartialState

    from trl_weaks.labelling.preferences import build_preferences
    from trl_weaks.supervisors.ensemble import WeakEnsemble
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    world = int(os.environ.get("WORLD_SIZE", 1))
    state = PartialState(cpu=True)
    assert state.num_processes == world
    student, *supervisors = (
        WeakSupervisor(model(kind, seed), tokenizer(), kind) for seed, kind in enumerate(("llama", "gpt2", "opt"))
    )
    rows = Dataset.from_list([{"example_id": f"e{i}", "prompt": f"wake me at {w}"} for i, w in enumerate(WORDS[:6])])
    options = {"num_candidates": 3, "max_new_tokens": 5, "batch_size": 2}
    made = build_preferences(student, WeakEnsemble(supervisors), rows, output_dir=folder, **options)
    with open(os.path.join(folder, f"pairs-{state.process_index}.json"), "w") as file:
        json.dump(made.to_list(), file)
    if world > 1:
        torch.distributed.destroy_process_group()


def train(folder):
    """Trains on 16 pairs with their own epsilons and weights; rank 0 saves weights and logs to the folder given."""
    from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
    from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer

    world = int(os.environ.get("WORLD_SIZE", 1))
    args = WeakPreferenceConfig(**settings(folder, per_device_train_batch_size=4 // world, max_steps=4, optim="sgd"))
    policy = model()
    trainer = WeakPreferenceTrainer(
        policy, reference_of(policy), args, train_dataset=pairs(16), processing_class=tokenizer()
    )
    assert trainer.accelerator.num_processes == world  # launchers may fall back to one process in silence
    trainer.train()
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        with open(os.path.join(folder, "logs.json"), "w") as file:
            json.dump({"world": world, "logs": trainer.state.log_history}, file)
    if world > 1:
        torch.distributed.destroy_process_group()


def uneven(folder):
    """Trains on 5 pairs and evaluates 7, 5 and 9 in batches of 2 a process, so that the sampler repeats some."""
    from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
    from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer

    world = int(os.environ.get("WORLD_SIZE", 1))
    changes = {"per_device_train_batch_size": 4 // world, "per_device_eval_batch_size": 2, "max_steps": 2}
    args = WeakPreferenceConfig(**settings(folder, **changes))
    policy, rows = model(), pairs(12)
    trainer = WeakPreferenceTrainer(
        policy,
        reference_of(policy),
        args,
        train_dataset=rows.select(range(5)),
        eval_dataset={"a": rows.select(range(7)), "b": rows.select(range(5, 10))},
        processing_class=tokenizer(),
    )
    found = {"metrics": trainer.predict(trainer._prepare_dataset(
        rows.select(range(3, 12)), trainer.processing_class, args, "test"
    )).metrics | trainer.evaluate()}  # fmt: skip
    seen, step = [], trainer.training_step

    def counting(model, inputs, *rest):
        seen.append(inputs["attention_mask"].sum())
        return step(model, inputs, *rest)

    trainer.training_step = counting
    trainer.train()
    found["seen"] = int(trainer.accelerator.reduce(sum(seen), "sum"))
    found["num_tokens"] = [log["num_tokens"] for log in trainer.state.log_history if "loss" in log][-1]
    found["world"] = trainer.accelerator.num_processes
    if trainer.is_world_process_zero():
        with open(os.path.join(folder, "found.json"), "w") as file:
            json.dump(found, file)
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    {"train": train, "pairs": make_pairs, "uneven": uneven}[sys.argv[1]](sys.argv[2])
