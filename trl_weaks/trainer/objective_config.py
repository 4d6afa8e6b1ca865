"""Settings of the weak losses that the trainers of completions and of classes share, and checks of settings."""

import copy
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..losses import LOSSES
from ..losses.base import WeakLoss
from ..losses.cross_entropy import NaiveLoss
from ..losses.evidential import EvidentialLoss
from .parallel_checks import forget_earlier_trainers

EVIDENCE = ("exp", "softplus", "relu")


@dataclass
class ObjectiveConfig:
    """
    Mixin for configurations, before TRL's in the bases. A subclass has `weak_loss`, `gamma_max`, `gamma_warmup` and
    `kl_coef` with defaults of its own, and documents these fields beside them.
    """

    soft_labels: bool = field(
        default=True,
        metadata={"help": "Use the supervisors' probabilities as soft labels (paper) instead of hard labels."},
    )
    evidence: str = field(
        default="exp",
        metadata={
            "help": "Evidence function of the evidential loss: 'exp' (authors' code), 'softplus' or 'relu'.",
            "choices": EVIDENCE,
        },
    )
    kl_anneal: float = field(
        default=1.0, metadata={"help": "Fraction of training over which the KL weight rises from 0. Authors' code."}
    )

    def __post_init__(self):
        forget_earlier_trainers()
        super().__post_init__()
        self.check_objective()

    def check_objective(self) -> None:
        """Raises ValueError for settings of the loss that are wrong, or wrong together."""
        if not 0.0 <= self.gamma_max < 1.0:
            raise ValueError(f"`gamma_max` must be in [0, 1); got {self.gamma_max}.")
        for name in ("gamma_warmup", "kl_anneal"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` is a fraction of training, in [0, 1]; got {getattr(self, name)}.")
        if self.kl_coef < 0.0:
            raise ValueError(f"`kl_coef` must not be negative; got {self.kl_coef}.")

    def with_loss(self, name: str) -> Self:
        """A copy of these settings with the `weak_loss` of that name: a choice of `weak_loss`, or a key of `LOSSES`.

        Raises:
            ValueError: no such loss, or one that the other settings do not go with.
        """
        choices = next(f for f in fields(self) if f.name == "weak_loss").metadata["choices"]
        known = "bayesian" if LOSSES.get(name) is EvidentialLoss else name
        if known not in choices:
            raise ValueError(f"`loss` must be one of {', '.join(choices)}, or a function; got {name!r}.")
        settings = copy.copy(self)
        settings.weak_loss = known
        settings.check_objective()
        return settings

    def _supervised_loss(self, **evidential: Any) -> WeakLoss:
        """`weak_loss` without the auxiliary loss; `evidential` are further fields of the evidential one."""
        if self.weak_loss == "naive":
            return NaiveLoss()
        return EvidentialLoss(evidence=self.evidence, kl_coef=self.kl_coef, kl_anneal=self.kl_anneal, **evidential)


def check_choices(settings: Any, choices: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError where a setting is none of its choices."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}; got {getattr(settings, name)!r}.")


def check_positive(settings: Any, names: tuple[str, ...]) -> None:
    """Raises ValueError where a whole number that is set is below 1."""
    for name in names:
        if getattr(settings, name) is not None and getattr(settings, name) < 1:
            raise ValueError(f"`{name}` must be at least 1; got {getattr(settings, name)}.")


def refuse_settings(settings: Any, fixed: dict[str, tuple[Any, str]]) -> None:
    """Raises ValueError where an inherited setting is not the only value that can be honoured, with the reason.

    `fixed` maps a name to that value and the reason; where it is `None`, anything false passes too.
    """
    for name, (only, reason) in fixed.items():
        value = getattr(settings, name)
        if value != only and not (only is None and not value):
            raise ValueError(f"`{name}={value!r}` is not supported: {reason}.")
