"""An alarm for a student that only copies its labels: it nears them on rows held out, and gets no surer of itself."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

MISFIT, CONSISTENCY = "weak/misfit", "weak/self_consistency"
Point = tuple[int, float, float]


class ImitationAlarm(TrainerCallback):
    r"""
    Warns once when the student nears the weak labels of held-out rows while its self-consistency stalls.

    A student that generalises beyond its supervisors gets surer of its own answers as it learns; one that only copies
    their mistakes fits the labels better and better without that (*ours*; no paper has it). No gold is looked at: give
    `WeakClassificationTrainer` or `WeakSupervisionTrainer` weakly labelled rows of the transfer half that it does not
    train on as `eval_dataset`, `eval_strategy="steps"` or `"epoch"`, and `callbacks=[ImitationAlarm()]`. Every
    evaluation then logs two more numbers, at no pass of their own:

    - `eval_weak/misfit`: $\mathrm{KL}(\text{label} \,\|\, \text{student})$ in nats, the mean over the rows (of
      completions over the tokens, where a label is its token's probability and that of all others together);
    - `eval_weak/self_consistency`: $\exp(-H(\text{student}))$, the geometric mean of the probability that the student
      gives to what it draws itself, averaged likewise: 1 for a student that always says the same, 1/K for one that
      tosses a coin of K sides. At most the chance that two of its draws are one.

    The alarm sounds where, over the last `patience` evaluations, the misfit fell by more than the share `min_drop` and
    the consistency never rose by as much as `min_rise`. It is computed from the log, so that a resumed run goes on.

    Args:
        patience: evaluations looked back, at least 1. *ours*, as are all numbers here
        min_drop: in [0, 1), share of the misfit.
        min_rise: above 0, of the consistency.
        dataset: name of the evaluation set to watch, where there are several.

    Attributes:
        alarmed_at: the update at which it sounded, or None.

    Raises:
        ValueError: an argument out of range; in training: no evaluation, no such set, or a set without weak labels.

    Example:

    >>> alarm = ImitationAlarm(patience=2)
    >>> alarm.sounds([(1, 0.50, 0.70), (2, 0.40, 0.70), (3, 0.30, 0.69)])
    True
    >>> alarm.sounds([(1, 0.50, 0.70), (2, 0.40, 0.75), (3, 0.30, 0.80)])
    False
    """

    def __init__(self, patience: int = 3, min_drop: float = 0.02, min_rise: float = 0.005, dataset: str | None = None):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience={patience!r} is a number of evaluations, at least 1.")
        if not 0 <= min_drop < 1:
            raise ValueError(f"min_drop={min_drop} is a share of the misfit, in [0, 1).")
        if not 0 < min_rise < float("inf"):
            raise ValueError(f"min_rise={min_rise} must be above 0.")
        self.patience, self.min_drop, self.min_rise, self.dataset = patience, min_drop, min_rise, dataset
        self.alarmed_at: int | None = None
        self._watching = False

    def sounds(self, points: Sequence[Point]) -> bool:
        """Whether the last of these evaluations (update, misfit, self-consistency) are those of an imitator."""
        looked = points[-self.patience - 1 :]
        if len(looked) <= self.patience:
            return False
        (_, first, sure), *later = looked
        fell = later[-1][1] < (1 - self.min_drop) * first
        return fell and max(point[2] for point in later) < sure + self.min_rise

    def check(self, evaluation: Any, strategy: str) -> None:
        """Before training.

        Args:
            evaluation: the trainer's evaluation set, or a dict of them.
            strategy: its `eval_strategy`.

        Raises:
            ValueError: nothing would be looked at.
        """
        if evaluation is None or strategy == "no":
            raise ValueError(
                "`ImitationAlarm` looks at evaluations: give held-out rows with weak labels as `eval_dataset`, and "
                "set `eval_strategy` to 'steps' or 'epoch'."
            )
        names = list(evaluation) if isinstance(evaluation, dict) else [None]
        if self.dataset not in names:
            raise ValueError(f"`ImitationAlarm(dataset={self.dataset!r})`: the evaluation sets are {names}; name one.")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.alarmed_at = self._first(self._points(state.log_history))
        self._watching = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watching = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        metrics, prefix = metrics or {}, self._prefix()
        if f"{prefix}_loss" not in metrics:
            return  # of another set
        if not self._watching:
            return  # `evaluate` by hand, before or after: of any set, gold alone included
        if f"{prefix}_{MISFIT}" not in metrics:
            raise ValueError(
                f"`ImitationAlarm`: the evaluation set{'' if self.dataset is None else f' {self.dataset!r}'} has no "
                "weak labels. Hold out rows that the supervisors labelled; gold is not needed."
            )
        points = self._points(state.log_history)
        if self.alarmed_at is None and (step := self._first(points)) is not None:
            self.alarmed_at = step
            if state.is_world_process_zero:
                then, now = points[-self.patience - 1], points[-1]
                logger.warning(
                    "The student may only copy its supervisors: since update %d its misfit to their labels on "
                    "held-out rows fell from %.4f to %.4f, and its self-consistency went from %.4f to %.4f. Look at "
                    "the checkpoints before, or train less.",
                    then[0], then[1], now[1], then[2], now[2],
                )  # fmt: skip

    def _prefix(self) -> str:
        return "eval" if self.dataset is None else f"eval_{self.dataset}"

    def _points(self, history: Sequence[Mapping[str, Any]]) -> list[Point]:
        """The evaluations of the log, the last one of each update."""
        prefix, found = self._prefix(), {}
        for log in history:
            if f"{prefix}_{MISFIT}" in log:
                found[log["step"]] = (log["step"], log[f"{prefix}_{MISFIT}"], log[f"{prefix}_{CONSISTENCY}"])
        return list(found.values())

    def _first(self, points: Sequence[Point]) -> int | None:
        ends = range(1, len(points) + 1)
        return next((points[end - 1][0] for end in ends if self.sounds(points[:end])), None)


def class_numbers(probs: Tensor, labels: Tensor, counted: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Misfit and self-consistency of rows, as sums: probabilities and labels (B, K), and which rows count (B,)."""
    probs, labels = probs.float(), labels.float()
    misfit = (torch.special.xlogy(labels, labels) - labels * probs.clamp_min(1e-30).log()).sum(-1)
    sure = torch.special.xlogy(probs, probs).sum(-1).exp()
    return {MISFIT: (misfit.where(counted, 0.0), counted), CONSISTENCY: (sure.where(counted, 0.0), counted)}


def token_numbers(label_probs: Tensor, log_probs: Tensor, entropy: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Misfit and self-consistency of tokens, times their weights, all of one shape; 0 where a weight is."""
    counted = weights > 0
    chosen = log_probs.float().where(counted, -1.0)
    others = torch.log(-torch.expm1(chosen.clamp(max=-1e-7)))
    label = label_probs.float().where(counted, 1.0)
    misfit = torch.special.xlogy(label, label) + torch.special.xlogy(1 - label, 1 - label)
    misfit = misfit - label * chosen - (1 - label) * others
    return {MISFIT: weights * misfit, CONSISTENCY: weights * (-entropy.float().where(counted, 0.0)).exp()}
