"""The trainers of the cells: weak completions, classes and preferences, on tiny students."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

WORLD = int(os.environ.get("WORLD_SIZE", 1))
RANK = int(os.environ.get("RANK", 0))
ROWS = 12


def weak_rows(count: int = ROWS):
    """Weak labels of unequal lengths, read character by character, at confidences that bfloat16 cannot hold."""
    from datasets import Dataset
    from preference_runs import pairs

    rows = []
    for number, pair in enumerate(pairs(count).to_list()):
        text, other = pair["chosen"], pair["rejected"]
        agree = number % 3 == 0
        for name, given, logp in (("ann", text, -0.0123), ("bob", text if agree else other, -0.0571)):
            spans = [[i, i + 1] for i in range(len(given))] + [[len(given)] * 2]
            logps = [logp * (1 + (i % 5)) for i in range(len(spans))]
            if agree and name == "bob":
                for column, value in zip(("supervisors", "weights", "offsets", "logps"), (name, 0.5, spans, logps),
                                         strict=True):  # fmt: skip
                    rows[-1]["weak_" + column].append(value)
            else:
                rows.append({"example_id": str(number), "prompt": pair["prompt"], "completion": given,
                             "weak_supervisors": [name], "weak_weights": [0.5], "weak_offsets": [spans],
                             "weak_logps": [logps]})  # fmt: skip
    return Dataset.from_list(rows)


def lora(task: str, options: list[str]):
    from peft import LoraConfig

    return LoraConfig(task_type=task, r=4, target_modules=["q_proj", "v_proj"]) if "lora" in options else None


def student_of(options: list[str], folder: Path, make_settings):
    """Student and settings. `born` in pieces: loaded once the settings of ZeRO-3 live, as a large one is. `shifted`:
    its logits are not what its output layer says, and nothing in its configuration tells."""
    from preference_runs import model
    from transformers import LlamaForCausalLM

    class LlamaShifted(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits + torch.linspace(-4, 4, outputs.logits.shape[-1])
            return outputs

    whole = model()
    kind = LlamaShifted if "shifted" in options else LlamaForCausalLM
    if "born" in options:
        if RANK == 0:
            whole.save_pretrained(folder / "start")
        dist.barrier()
        args = make_settings()
        student = kind.from_pretrained(folder / "start")
        assert not any(parameter.numel() for parameter in student.parameters()), "it is whole"
        return student, args
    student = kind(whole.config)
    student.load_state_dict(whole.state_dict())
    return as_precise(student, options), make_settings()


def as_precise(student, options: list[str]):
    """`double`: all of training in float64, from the same start."""
    return student.to(torch.bfloat16) if "bf16" in options else student.double() if "double" in options else student


def supervision(given: dict, options: list[str], evidential: bool):
    from preference_runs import tokenizer

    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    loss = {"weak_loss": "bayesian", "gamma_max": 0.25, "gamma_warmup": 0.5, "kl_coef": 1e-2}
    if not evidential:
        loss = {"weak_loss": "naive", "gamma_max": 0.0, "confidence_split": "uniform"}
    if "kernels" in options:  # against one process without them
        loss["use_cpu_kernels"] = True
    data = weak_rows()
    if "trees" in options:  # two processes on trees against one on rows
        loss["token_trees"] = WORLD == 2
        data = data.map(
            lambda row: {"prompt": "the same words before every request, as in a prompt\n" + row["prompt"]}
        )
    folder = Path(given["output_dir"])
    student, args = student_of(options, folder, lambda: WeakSupervisionConfig(**given, **loss, loss_chunk_size=7))
    trainer = WeakSupervisionTrainer(
        student, args, train_dataset=data, processing_class=tokenizer(), peft_config=lora("CAUSAL_LM", options)
    )
    data = trainer.train_dataset.select(range(ROWS))
    if "silent" in options:  # with one row per micro-batch, every other one of rank 1 has nothing to learn from
        mute = {"labels": lambda row: [-100] * len(row["labels"])}
        data = data.map(lambda row, i: {"labels": mute["labels"](row)} if i % 4 == 1 else {}, with_indices=True)
    if "uneven" in options:  # 11 rows for 2 processes: accelerate gives the missing place to the first row
        data = data.select([*range(ROWS - 1), 0] if WORLD == 1 else range(ROWS - 1))
    trainer.train_dataset = data
    return trainer


def classification(given: dict, options: list[str]):
    from classification_runs import classifier, tokenizer, weak_dataset

    from trl_weaks import WeakClassificationConfig, WeakClassificationTrainer

    # before the settings, under whose ZeRO-3 it would be born in pieces
    student = as_precise(classifier(num_labels=3), options)
    if "balanced" in options:
        given |= {"threshold": "balanced", "threshold_window": 8}
    args = WeakClassificationConfig(**given)
    return WeakClassificationTrainer(
        student, args, weak_dataset(ROWS, classes=3), processing_class=tokenizer(),
        peft_config=lora("SEQ_CLS", options),
    )  # fmt: skip


def preference(given: dict, options: list[str]):
    from preference_runs import model, pairs, reference_of, tokenizer

    from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer

    if "sgd" in options:  # at the weak losses' rate it overshoots, and rounding grows with it
        given |= {"learning_rate": given["learning_rate"] / 20}
    policy, adapter = model(), lora("CAUSAL_LM", options)
    reference = None if adapter else as_precise(reference_of(policy), options)
    args = WeakPreferenceConfig(**given, beta=0.5)
    return WeakPreferenceTrainer(
        as_precise(policy, options), reference, args, train_dataset=pairs(ROWS),
        processing_class=tokenizer(), peft_config=adapter,
    )  # fmt: skip


def build(objective: str, given: dict, options: list[str]):
    if objective == "cdpo":
        return preference(given, options)
    if objective == "classification":
        return classification(given, options)
    return supervision(given, options, evidential=objective == "evidential")
