"""A small run in `FOLDER`; `python killed_run.py FOLDER STEP` is killed by the kernel after that update."""

import os
import signal
import sys
from pathlib import Path

from datasets import Dataset
from preference_runs import model, pairs, tokenizer
from transformers import TrainerCallback

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer


def rows() -> Dataset:
    found = []
    for number, pair in enumerate(pairs(12).to_list()):
        text = pair["chosen"]
        spans = [[i, i + 1] for i in range(len(text))] + [[len(text)] * 2]
        found.append({
            "example_id": str(number), "prompt": pair["prompt"], "completion": text, "weak_supervisors": ["ann"],
            "weak_weights": [1.0], "weak_offsets": [spans], "weak_logps": [[-0.01 * (1 + number % 3)] * len(spans)],
        })  # fmt: skip
    return Dataset.from_list(found)


def trainer(folder: Path) -> WeakSupervisionTrainer:
    """Dropout, shuffled rows and a rising loss: everything that has to be taken up again where it was."""
    args = WeakSupervisionConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", dataloader_pin_memory=False,
        disable_tqdm=True, logging_steps=1, seed=3, max_steps=6, learning_rate=1e-2, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, gradient_checkpointing=False, save_strategy="steps", save_steps=2,
        kl_coef=0.01, gamma_warmup=0.5,
    )  # fmt: skip
    return WeakSupervisionTrainer(model("gpt2", dropout=0.1), args, train_dataset=rows(), processing_class=tokenizer())


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs):
        """In the middle of the update after it, with gradients half accumulated."""
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run = trainer(Path(sys.argv[1]))
    run.add_callback(Kill(int(sys.argv[2])))
    run.train()
