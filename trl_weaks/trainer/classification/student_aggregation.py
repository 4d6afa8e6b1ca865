"""Aggregators that learn from the student (`LearnsWithStudent`), driven while the trainer trains."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import TrainerCallback

from ...aggregation.with_student import RelabelsRows, WeighsVotes
from .._compat import BaseTrainer
from .pooled_votes import PooledVotes

STATE_FILE = "aggregator.safetensors"  # in every checkpoint
_TINY = 1e-30


class StudentAggregation(TrainerCallback):
    """
    Stands between a batch's votes and the loss, and learns after updates; its state goes into every checkpoint.

    Args:
        trainer: a `WeakClassificationTrainer`.
        pool: what holds the aggregator, fitted to the training rows.
    """

    def __init__(self, trainer: Any, pool: PooledVotes):
        self.trainer, self.pool, self.aggregator = trainer, pool, pool.aggregator
        self._loaded = False

    def supervise(self, votes: Tensor, weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Votes (B, N, K), their weights (B, N) and the rows' numbers (B,) -> votes and weights to train with."""
        raise NotImplementedError

    def teaching(self, votes: Tensor, weights: Tensor) -> Tensor | None:
        """(B,), 0 for rows that do not teach now; None if all do."""
        return None

    def observe(self, logits: Tensor, votes: Tensor, weights: Tensor) -> None:
        """What the student said of a training batch, with the votes and weights as they were given."""

    def reset(self) -> None:
        self.aggregator.reset()

    def save(self, folder: Path) -> None:
        ids = {"example_ids": json.dumps(self.pool.ids), "pooling": self.pool.name}
        save_file(
            {name: np.ascontiguousarray(value) for name, value in self._state().items()}, folder / STATE_FILE, ids
        )

    def load(self, folder: Path) -> None:
        """
        Raises:
            ValueError: the checkpoint has no such state, or one of another aggregator, of other supervisors or rows.
        """
        file = folder / STATE_FILE
        if not file.is_file():
            raise ValueError(
                f"{folder} has no {STATE_FILE}: it was trained with another `pooling` than {self.pool.name!r}. Resume "
                "with that one, or start anew."
            )
        with safe_open(file, "np") as found:
            kept, state = found.metadata() or {}, {name: found.get_tensor(name) for name in found.keys()}
        if kept.get("pooling") != self.pool.name:
            raise ValueError(f"{file} is of `pooling={kept.get('pooling')!r}`, not {self.pool.name!r}.")
        try:
            self._take(state, json.loads(kept["example_ids"]))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        self._loaded = True

    def _state(self) -> dict[str, np.ndarray]:
        return self.aggregator.state()

    def _take(self, state: dict[str, np.ndarray], ids: list[str]) -> None:
        self.aggregator.load(state)

    def _log(self, values: dict[str, float]) -> None:
        """The last value until the next log."""
        self.trainer._metrics["train"].update({f"weak/{name}": [value] for name, value in values.items()})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (state.global_step and self._loaded):
            self.reset()
        self._loaded = False


class WeighedVotes(StudentAggregation):
    """For [`WeighsVotes`]: one reduction of its sums over the processes for each update."""

    aggregator: WeighsVotes
    _sums: Tensor | None = None

    def supervise(self, votes: Tensor, weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if weights.shape[1] != len(self.aggregator.silent):  # gold stands for votes
            return votes, weights
        return votes, self.aggregator.scaled(weights)

    def teaching(self, votes: Tensor, weights: Tensor) -> Tensor | None:
        return self.aggregator.teaching(votes, weights, self.trainer._progress())

    def observe(self, logits: Tensor, votes: Tensor, weights: Tensor) -> None:
        log_probs = self.trainer._read(logits.detach()).probabilities.clamp_min(_TINY).log()
        found = self.aggregator.observe(log_probs, votes, weights, self.trainer._progress())
        self._sums = found if self._sums is None else self._sums + found

    def reset(self) -> None:
        super().reset()
        self._sums = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sums, self._sums = self._sums, None
        if sums is not None:
            self.aggregator.update(self.trainer.accelerator.reduce(sums, "sum").cpu().numpy())
        self._log(self.aggregator.logged(self.pool.supervisors))


class RelabelledRows(StudentAggregation):
    """For [`RelabelsRows`]: before an epoch, or after so many updates, the student answers all training rows."""

    aggregator: RelabelsRows

    def __init__(self, trainer: Any, pool: PooledVotes):
        super().__init__(trainer, pool)
        if trainer.args.prediction_loss_only:
            raise ValueError(
                f"`pooling={pool.name!r}` reads the student's predictions, which `prediction_loss_only=True` does not "
                "keep. Leave it out."
            )
        self._forget()
        self._every: int | None = None

    def _forget(self) -> None:
        self.labels: Tensor | None = None  # (rows, K), once there are new ones
        self._made_at = 0

    def reset(self) -> None:
        super().reset()
        self._forget()

    def supervise(self, votes: Tensor, weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.labels is None or not self.trainer.model.training:
            return votes, weights
        return self.labels[rows.cpu()][:, None].to(votes), weights

    def _state(self) -> dict[str, np.ndarray]:
        labels = {} if self.labels is None else {"labels": self.labels.numpy()}
        return self.aggregator.state() | labels | {"made_at": np.array([self._made_at])}

    def _take(self, state: dict[str, np.ndarray], ids: list[str]) -> None:
        place = {one: number for number, one in enumerate(ids)}
        missing = [(row, one) for row, one in enumerate(self.pool.ids) if one not in place]
        if missing or len(ids) != len(self.pool.ids):
            row, one = missing[0] if missing else (len(self.pool.ids), ids[-1])
            raise ValueError(
                f"its labels are of {len(ids)} rows, the training set has {len(self.pool.ids)}; row {row}, column "
                f"'example_id' = {one!r} is not in both. Resume with the rows that the run began with."
            )
        labels = state.pop("labels", None)
        self._made_at = int(state.pop("made_at")[0])
        self.labels = None if labels is None else torch.from_numpy(labels[[place[one] for one in self.pool.ids]])
        self.aggregator.load(state)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._every = self.aggregator.every
        if self._every is None and state.num_train_epochs <= 1:
            self._every = max(1, -(-state.max_steps // 2))  # rounded down, an odd number would have two
        if self._every is not None and self._every >= state.max_steps:
            raise ValueError(
                f"`pooling={self.pool.name!r}` makes no new label in this training of {state.max_steps} updates: set "
                "`every` in `pooling_kwargs` to fewer, or train longer."
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._every is None and float(state.epoch or 0).is_integer():  # else resumed within an epoch
            self._relabel(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._every is not None and state.global_step % self._every == 0:
            self._relabel(state.global_step)

    def _relabel(self, step: int) -> None:
        if step == self._made_at:
            return
        with _same_chance():
            student = self._student()
        made = self.aggregator.relabel(student)
        self.labels, self._made_at = torch.from_numpy(made).float(), step
        first = self.aggregator.first
        changed = float((made.argmax(-1) != first.argmax(-1)).mean())
        self._log({"relabelled": changed} | self.aggregator.logged(self.pool.supervisors))

    def _student(self) -> np.ndarray:
        """Probabilities (rows, K) of all training rows, on every process."""
        trainer, own = self.trainer, self.trainer.compute_metrics
        trainer.compute_metrics = None  # that is for evaluation sets
        try:
            found = BaseTrainer.predict(trainer, trainer.train_dataset, metric_key_prefix="relabel").predictions
        finally:
            trainer.compute_metrics = own
        found = found if trainer.args.eval_do_concat_batches else np.concatenate(found)
        return trainer._read(torch.as_tensor(found)).probabilities.double().numpy()


def lessons_of(trainer: Any, pool: PooledVotes | None) -> StudentAggregation | None:
    """What lets the aggregator learn from the student, if it does, among the trainer's callbacks."""
    if pool is None or not pool.aggregator.with_student:
        return None
    kind = WeighedVotes if isinstance(pool.aggregator, WeighsVotes) else RelabelledRows
    lessons = kind(trainer, pool)
    trainer.add_callback(lessons)
    return lessons


@contextmanager
def _same_chance() -> Iterator[None]:
    """Random numbers go on after it as if it had not been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        yield
    random.setstate(python)
    np.random.set_state(of_numpy)
