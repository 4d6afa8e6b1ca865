"""Has a student of classes collapsed: does it answer a few of them where its labels have many?"""

import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import Trainer, TrainerCallback

logger = logging.getLogger(__name__)

FROM = 0.75  # of the training: earlier a student may know only the most frequent class yet. *ours*
FEWER = 0.25  # of the classes: students that learnt have 0.7 and more, collapsed ones 0.01 (MiniLM, SLURP). *ours*
LEAST_ROWS, LEAST_CLASSES = 20, 1.5  # of which something is said. *ours*


def watch_collapse(trainer: Trainer) -> "CollapseWatch":
    """The watch that a trainer of classes shows its batches, among its callbacks."""
    watch = CollapseWatch(trainer.accelerator, trainer.args.gamma_max)
    trainer.add_callback(watch)
    return watch


class CollapseWatch(TrainerCallback):
    """
    Warns after training where the student answers far fewer classes than its labels have.

    Over the last quarter of the updates (of four or more) it counts how often the student answers each class and how
    often the labels are of it, ties in equal parts, among the rows that teach. Shares of an entropy of H nats have
    exp(H) classes, exp(H) - 1 beyond one; the warning comes where the answers have less than a quarter of the labels'.
    Labels of nearly one class alone, as 9 to 1, and fewer than 20 rows say nothing. No gold is needed, and no pass.

    Args:
        accelerator: of the trainer, to add up what all processes saw.
        gamma_max: of the auxiliary loss, the first thing to turn off: it strengthens what the student answers already.
    """

    def __init__(self, accelerator: Accelerator, gamma_max: float):
        self.accelerator, self.gamma_max = accelerator, gamma_max
        self._counts: Tensor | None = None  # (2, K): the student's answers, the labels

    def see(self, answered: Tensor, labels: Tensor, teaching: Tensor, progress: float) -> None:
        """Classes (B,) that the student answers, labels (B, K), which rows teach (B,), at a share of the training."""
        if progress < FROM:
            return
        top = labels >= labels.amax(-1, keepdim=True)
        counted = (teaching > 0)[:, None]
        shares = (counted * top / top.sum(-1, keepdim=True)).sum(0)
        mine = (counted * one_hot(answered, labels.shape[-1])).to(shares).sum(0)
        self._counts = torch.stack([mine, shares]) + (0 if self._counts is None else self._counts)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._counts = None

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        config = model.config
        counts = torch.zeros(2, config.num_labels) if self._counts is None else self._counts
        counts = self.accelerator.reduce(counts.float().to(self.accelerator.device), "sum").cpu()
        if counts[0].sum() < LEAST_ROWS or not state.is_world_process_zero:
            return
        mine, labels = counts / counts.sum(-1, keepdim=True)
        answers, classes = _classes(mine), _classes(labels)
        if classes >= LEAST_CLASSES and answers - 1 < FEWER * (classes - 1):
            top = int(mine.argmax())
            logger.warning(
                "The student has collapsed to few classes: it answers %r for %.0f %% of the texts of the last quarter "
                "of training, whose labels are of that class for %.0f %%.%s",
                config.id2label.get(top, top), 100 * mine[top], 100 * labels[top],
                f" The auxiliary loss (gamma_max={self.gamma_max}) strengthens what it answers already: set "
                "gamma_max=0." if self.gamma_max else " Train it longer, or change the learning rate.",
            )  # fmt: skip


def _classes(shares: Tensor) -> float:
    """How many equally frequent classes have the entropy of these shares."""
    return float(torch.special.entr(shares).sum().exp())
