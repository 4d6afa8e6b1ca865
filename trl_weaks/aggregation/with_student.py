"""Aggregators that go on learning while the student trains; the classification trainer drives them."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .base import Aggregator

if TYPE_CHECKING:  # torch takes seconds, and a command's help lists the aggregators
    from torch import Tensor


class LearnsWithStudent(Aggregator):
    """
    An aggregator that learns from the student while `WeakClassificationTrainer` trains it: its name is a `pooling`.

    `fit` sees the training rows' votes before training. What is learned afterwards is part of every checkpoint. A
    subclass extends [`WeighsVotes`] or [`RelabelsRows`].
    """

    with_student = True

    def reset(self) -> None:
        """Forget what the student taught: another training begins."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """What has been learned from the student."""
        raise NotImplementedError

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Raises ValueError: `state` is not of this aggregator, fitted to votes of these sizes."""
        raise NotImplementedError

    def logged(self, names: list[str]) -> dict[str, float]:
        """What the trainer logs, under `weak/`; `names` are the supervisors', in their places."""
        return {}


class WeighsVotes(LearnsWithStudent):
    """The votes stay apart, and their weights are learned: multiplied into those of the rows, batch by batch."""

    combine: str = "linear"  # how the weighted votes become one label: a name of the trainer's own pools
    silent: np.ndarray  # (supervisors,), after `fit`: those whose votes never count

    def scaled(self, weights: "Tensor") -> "Tensor":
        """Weights (B, N) of a batch's votes, 0 for none -> those to train with, which sum to 1 in every row."""
        raise NotImplementedError

    def teaching(self, votes: "Tensor", weights: "Tensor", progress: float) -> "Tensor | None":
        """(B,), 0 for the rows that do not teach at this fraction of the training; None if all do."""
        return None

    def observe(self, log_probs: "Tensor", votes: "Tensor", weights: "Tensor", progress: float) -> "Tensor":
        """Sums over the rows of a batch, of any shape, added up over an update's batches and processes.

        Args:
            log_probs: (B, K), of the student.
            votes: (B, N, K).
            weights: (B, N), as given, 0 for no vote.
            progress: fraction of the training.
        """
        raise NotImplementedError

    def update(self, sums: np.ndarray) -> None:
        """Learn from an update's sums, after the optimizer's step; the same sums on every process."""
        raise NotImplementedError


class RelabelsRows(LearnsWithStudent):
    """Every row has one label, made anew at times from what the student predicts for all training rows."""

    every: int | None = (
        None  # updates from one relabelling to the next; None: with every epoch but the first (of one, at its half)
    )
    cost: ClassVar[str] = "a pass of the student over the training rows each time"

    def relabel(self, student: np.ndarray) -> np.ndarray:
        """The student's probabilities (rows, K) of the rows that were fitted -> their labels (rows, K)."""
        raise NotImplementedError
