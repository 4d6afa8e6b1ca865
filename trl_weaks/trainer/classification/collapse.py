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
APART = 0.5  # students that learnt reach 0.26 in this project's studies, collapsed ones 0.96. *ours*


def watch_collapse(trainer: Trainer) -> "CollapseWatch":
    """The watch that a trainer of classes shows its batches, among its callbacks."""
    watch = CollapseWatch(trainer.accelerator, trainer.args.gamma_max)
    trainer.add_callback(watch)
    return watch


class CollapseWatch(TrainerCallback):
    """
    Warns after training where the student's answers have other classes than the labels that it was given.

    Over the last quarter of the training rows it counts how often the student answers each class, and how often the
    labels are of it, ties in equal parts. It warns where the two differ in more than half of the rows (total variation
    distance): the student then answers one class, or a few, whatever the text. No gold is needed, and no pass.

    Args:
        accelerator: of the trainer, to add up what all processes saw.
        gamma_max: of the auxiliary loss, the first thing to turn off: it strengthens what the student answers already.
    """

    def __init__(self, accelerator: Accelerator, gamma_max: float):
        self.accelerator, self.gamma_max = accelerator, gamma_max
        self._counts: Tensor | None = None  # (2, K): the student's answers, the labels

    def see(self, answered: Tensor, labels: Tensor, progress: float) -> None:
        """Classes (B,) that the student answers and labels (B, K), at a fraction of the training."""
        if progress < FROM:
            return
        top = labels >= labels.amax(-1, keepdim=True)
        shares = (top / top.sum(-1, keepdim=True)).sum(0)
        mine = one_hot(answered, labels.shape[-1]).to(shares).sum(0)
        self._counts = torch.stack([mine, shares]) + (0 if self._counts is None else self._counts)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._counts = None

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        config = model.config
        counts = torch.zeros(2, config.num_labels) if self._counts is None else self._counts
        shares = self.accelerator.reduce(counts.float().to(self.accelerator.device), "sum").cpu()
        if not shares.sum() or not state.is_world_process_zero:
            return
        mine, labels = shares / shares.sum(-1, keepdim=True)
        distance = float((mine - labels).abs().sum() / 2)
        if distance > APART:
            top = int(mine.argmax())
            logger.warning(
                "The student answers %r for %.0f %% of the texts of the last quarter of training, and its labels are "
                "of that class for %.0f %%: it has collapsed to a few classes.%s",
                config.id2label.get(top, top), 100 * mine[top], 100 * labels[top],
                f" The auxiliary loss (gamma_max={self.gamma_max}) strengthens what it answers already: set "
                "gamma_max=0, or threshold='balanced'." if self.gamma_max else " Train it longer, or change the rate.",
            )  # fmt: skip
