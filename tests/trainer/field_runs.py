"""Small runs of every registered loss and pooling, of every preference loss, and of the alarm, with LoRA.

As a script, with a FOLDER: all of them, each update cut into the batches of the processes there are; rank 0 reports.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import classification_runs
import preference_runs
import tiny
import torch
from classification_runs import end_group, trajectory, weak_dataset
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from shapes import TEXTS
from tiny_tokenizers import byte_level

from trl_weaks import (
    ImitationAlarm,
    WeakClassificationConfig,
    WeakClassificationTrainer,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
)
from trl_weaks.aggregation import AGGREGATORS
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.losses import LOSSES
from trl_weaks.losses.preference import PREFERENCE_LOSSES
from trl_weaks.study.field_methods import class_field, completion_field
from trl_weaks.study.methods import Method
from trl_weaks.study.pipeline.label_views import transformed
from trl_weaks.study.preference_methods import PreferenceMethod
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

ROWS, BATCH = 8, 4
UPDATES, SAVED = 4, 3  # two epochs; a checkpoint within the second
PLAIN = {"weak_loss": "naive", "gamma_max": 0.0}
ALARM, LORA = "the alarm", ["v_proj", "down_proj"]
COMMON = {
    "use_cpu": True, "bf16": False, "report_to": "none", "logging_steps": 1, "lr_scheduler_type": "constant",
    "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9, "gradient_checkpointing": False, "seed": 3,
    "dataloader_pin_memory": False, "disable_tqdm": True, "per_device_train_batch_size": BATCH, "max_steps": UPDATES,
    "save_strategy": "steps", "save_steps": SAVED,
}  # fmt: skip
FASTER = {  # so that a few rows teach something
    "realm_learned": {"loss_kwargs": {"rows": 8}},
    "raven": {"pooling_kwargs": {"learning_rate": 0.1, "easy_start": 0.2, "guard": 0}},
}


def _losses(votes: bool) -> dict[str, dict]:
    by_class = {cls: name for name, cls in LOSSES.items()}  # one of its names
    return {
        f"loss {name}": PLAIN | {"weak_loss": name} | FASTER.get(name, {})
        for cls, name in by_class.items()
        if votes or not cls.needs_votes
    }


def _poolings() -> dict[str, dict]:
    found = {}
    for name in AGGREGATORS:
        if find_spec("crowdkit") is not None or not AGGREGATORS[name].__module__.endswith(".crowd"):
            found[f"pooling {name}"] = PLAIN | {"pooling": name} | FASTER.get(name, {})
    return found


WATCHED = PLAIN | {"eval_strategy": "epoch"}
CLASSES = {
    **_losses(votes=True),
    **_poolings(),
    "auxiliary": {"gamma_max": 0.4, "threshold": "balanced"},
    ALARM: WATCHED,
}
COMPLETIONS = {**_losses(votes=False), "auxiliary": {"gamma_max": 0.4}, ALARM: WATCHED}
PAIRS = {f"loss {name}": {"preference_loss": name} for name in PREFERENCE_LOSSES}
CASES = [(kind, name) for kind, cases in (("classes", CLASSES), ("completions", COMPLETIONS), ("pairs", PAIRS))
         for name in cases]  # fmt: skip


def weak_rows(number: int = ROWS) -> Dataset:
    """One completion of two supervisors each, of unequal lengths and doubts."""
    rows = []
    for n in range(number):
        prompt, completion = TEXTS[n % len(TEXTS)]
        spans = [[i, i + 1] for i in range(len(completion))] + [[len(completion)] * 2]
        doubt = [[-0.02 * (1 + (i + n + k) % 4) for i in range(len(spans))] for k in (0, 1)]
        rows.append(
            {"example_id": str(n), "prompt": prompt, "completion": completion, "weak_supervisors": ["ann", "bob"],
             "weak_weights": [0.5, 0.5], "weak_offsets": [spans, spans], "weak_logps": doubt}
        )  # fmt: skip
    return Dataset.from_list(rows)


def build(kind: str, name: str, folder: Path, **cut):
    """The trainer of a case; `cut` says how its updates are cut."""
    own = {"classes": CLASSES, "completions": COMPLETIONS, "pairs": PAIRS}[kind][name]
    settings = COMMON | own | {"output_dir": str(folder)} | cut
    task = "SEQ_CLS" if kind == "classes" else "CAUSAL_LM"
    # From zeros, an adapter's first factor would have no gradient yet.
    lora = LoraConfig(task_type=task, target_modules=LORA, r=2, init_lora_weights=False)
    given = {"peft_config": lora}
    if name == ALARM:
        given["callbacks"] = [ImitationAlarm(patience=1, min_drop=0.0, min_rise=1.0)]
        given["eval_dataset"] = weak_dataset(5) if kind == "classes" else weak_rows(5)
    torch.manual_seed(0)
    if kind == "pairs":
        words, args, rows = preference_runs.tokenizer(), WeakPreferenceConfig(**settings), preference_runs.pairs(ROWS)
        return WeakPreferenceTrainer(
            small("causal_lm", words), args=args, train_dataset=rows, processing_class=words, **given
        )
    if kind == "classes":
        words, args, rows = classification_runs.tokenizer(), WeakClassificationConfig(**settings), weak_dataset(ROWS)
        return WeakClassificationTrainer(small("classifier", words), args, rows, processing_class=words, **given)
    words = text_tokenizer()
    args = WeakSupervisionConfig(**settings)
    return WeakSupervisionTrainer(
        small("causal_lm", words), args, train_dataset=weak_rows(), processing_class=words, **given
    )


def text_tokenizer():
    return byte_level([prompt + completion for prompt, completion in TEXTS], "<eos>")


def small(kind: str, words):
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    return getattr(tiny, kind)("llama", len(words), positions=128, scale=4, **ids)


def learned(trainer) -> dict:
    """What a run knows at its end: its curve, and what its loss, its pooling and its alarm remember."""
    found = {"curve": trajectory(trainer)}
    window = getattr(getattr(trainer, "weak_loss", None), "window", None)
    if window is not None:
        window.release()
        found |= {name: value.tolist() for name, value in window.state_dict().items()}
    if getattr(trainer, "_lessons", None) is not None:
        found |= {name: value.tolist() for name, value in trainer._lessons._state().items()}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ImitationAlarm):
            found |= {"points": callback._points(trainer.state.log_history), "alarmed_at": callback.alarmed_at}
    return found


def transforms() -> list[tuple[str, Method]]:
    """(kind, row of the field) wherever labels are changed before training."""
    fields = {"classes": class_field(), "completions": completion_field()}
    return [(kind, row) for kind, field in fields.items() for row in field.values()
            if row.transform and not isinstance(row, PreferenceMethod)]  # fmt: skip


def adapted(kind: str, merged: bool = False) -> TrainedStudent:
    """A student with LoRA, or with its adapter merged into its weights; and examples with gold."""
    words = classification_runs.tokenizer() if kind == "classes" else text_tokenizer()
    model = small("classifier" if kind == "classes" else "causal_lm", words)
    torch.manual_seed(1)
    task = "SEQ_CLS" if kind == "classes" else "CAUSAL_LM"
    model = get_peft_model(model, LoraConfig(task_type=task, target_modules=LORA, r=2, init_lora_weights=False))
    model = model.merge_and_unload() if merged else model
    if kind == "completions":
        return TrainedStudent(WeakSupervisor(model, words, "student"), weak_rows(), max_new_tokens=4)
    known = weak_dataset(20, seed=5).add_column("example_id", [f"k{n}" for n in range(20)])
    return TrainedStudent(WeakClassifier(model, words, "student"), known.remove_columns("weak_probs"))


def changed(kind: str, row: Method, merged: bool = False) -> list[dict]:
    """What a row's transform makes of labels."""
    labels = weak_rows() if kind == "completions" else weak_dataset(12, gold=False)
    if kind == "completions":
        labels = labels.add_column("weak_score", [-float(n) for n in range(len(labels))])
        labels = labels.add_column("weak_finished", [True] * len(labels))
    else:
        own = {"example_id": [str(n) for n in range(12)], "weak_weights": [[1 / 3] * 3] * 12}
        for column, values in (own | {"weak_supervisors": [["a", "b", "c"]] * 12}).items():
            labels = labels.add_column(column, values)
    return transformed(labels, row, adapted(kind, merged) if row.after else None).to_list()


def main(folder: str) -> None:
    world, report = int(os.environ.get("WORLD_SIZE", 1)), {}
    for number, (kind, name) in enumerate(CASES):
        cut = {"per_device_train_batch_size": BATCH // world // 2, "gradient_accumulation_steps": 2}
        cut |= {"save_strategy": "no"}
        trainer = build(kind, name, Path(folder, str(number)), **cut)
        assert trainer.accelerator.num_processes == world  # launchers may fall back to one process in silence
        trainer.train()
        report[f"{kind}, {name}"] = learned(trainer)
    report["labels"] = [None] * world
    torch.distributed.all_gather_object(report["labels"], [changed(kind, row) for kind, row in transforms()])
    if trainer.is_world_process_zero():
        Path(folder, "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
    end_group()
