"""Small classifiers and datasets for the tests of `WeakClassificationTrainer`."""

import json
import sys

import tiny
import torch
from datasets import Dataset
from tiny_tokenizers import word_level
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig

WORDS = "wake me up at seven play some jazz turn the lights on off what is weather in paris now".split()
KINDS = ("llama", "gpt2", "opt", "gpt_neox", "bert")


def tokenizer(cls_token: bool = False) -> PreTrainedTokenizerFast:
    return word_level(WORDS, eos="</s>", more=("<cls>",), bos="<cls>" if cls_token else None)


def classifier(kind: str = "llama", num_labels: int = 2, seed: int = 0, dropout: float = 0.0) -> PreTrainedModel:
    own = {
        "gpt2": {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout},
        "opt": {"dropout": 0.0},
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }
    common = {"layers": 2, "positions": 40, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2}
    return tiny.classifier(kind, len(WORDS) + 4, num_labels, seed=seed, scale=5, **common, **own.get(kind, {}))


def texts(rows: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (rows,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]


def weak_dataset(rows: int = 12, supervisors: int = 3, classes: int = 2, seed: int = 0, gold: bool = True) -> Dataset:
    torch.manual_seed(seed)
    votes = torch.distributions.Dirichlet(torch.full((classes,), 0.7, dtype=torch.float64)).sample((rows, supervisors))
    data = {"text": texts(rows, seed), "weak_probs": votes.tolist()}
    if gold:
        data["label"] = torch.randint(classes, (rows,)).tolist()
    return Dataset.from_dict(data)


def hard_dataset(rows: int = 12, classes: int = 2, seed: int = 0) -> Dataset:
    """One supervisor that is always sure; `label` holds its class."""
    labels = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed)).tolist()
    votes = [[[float(k == label) for k in range(classes)]] for label in labels]
    return Dataset.from_dict({"text": texts(rows, seed), "weak_probs": votes, "label": labels})


def settings(folder, **changes) -> WeakClassificationConfig:
    given = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no",
        "logging_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4,
        "num_train_epochs": 2, "gradient_checkpointing": False, "dataloader_pin_memory": False, "disable_tqdm": True,
        "max_grad_norm": 1e9, "seed": 3,
    }  # fmt: skip
    return WeakClassificationConfig(**{**given, **changes})


def trajectory(trainer) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every logged step."""
    return [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "grad_norm" in log]


def main(folder: str) -> None:
    """Train with the balanced threshold on one process or two, which cut each update otherwise; rank 0 reports."""
    import os
    from pathlib import Path

    from safetensors.torch import save_file

    from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

    world = int(os.environ.get("WORLD_SIZE", 1))
    args = settings(
        folder, per_device_train_batch_size=4 if world == 1 else 1, gradient_accumulation_steps=1 if world == 1 else 2,
        threshold="balanced", threshold_window=6, gamma_warmup=0.0,
    )  # fmt: skip
    trainer = WeakClassificationTrainer(classifier(), args, weak_dataset(rows=16), processing_class=tokenizer())
    trainer.train()
    if trainer.accelerator.is_main_process:
        state = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, Path(folder) / "model.safetensors")
        report = {"world": trainer.accelerator.num_processes, "logs": trainer.state.log_history}
        trainer.weak_loss.window.release()
        report["window"] = trainer.weak_loss.window.state_dict()["probs"].tolist()
        (Path(folder) / "logs.json").write_text(json.dumps(report))


def end_group() -> None:
    """End a script's process group before the process: gloo's threads would else abort its exit now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    end_group()
