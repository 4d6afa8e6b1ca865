"""Settings of the weak losses that the trainers of completions and of classes share, and checks of settings."""

import copy
from collections.abc import Container
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..losses.base import LOSSES, WeakLoss
from .common.parallel_checks import forget_earlier_trainers
from .common.publishing import PublicSettings

EVIDENCE = ("exp", "softplus", "relu")


@dataclass
class ObjectiveConfig(PublicSettings):
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
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the `weak_loss` that are no settings here, as JSON."}
    )
    cache_frozen_layers: bool = field(
        default=False,
        metadata={
            "help": "Compute the hidden states of the student's frozen lower layers once per text, keep them on disk "
            "in `output_dir` while training, and read them in later epochs. Ours."
        },
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
        if name not in choices:
            raise ValueError(f"`loss` must be one of {', '.join(choices)}, or a function; got {name!r}.")
        settings = copy.copy(self)
        settings.weak_loss = name
        settings.check_objective()
        return settings

    def build_loss(self) -> WeakLoss:
        """The loss that these settings describe."""
        raise NotImplementedError

    def check_loss(self) -> None:
        """Raises ValueError where the other settings do not go with `weak_loss`, which is one of its choices."""
        if isinstance(self.loss_kwargs, str):
            raise ValueError(
                f"`loss_kwargs` must be a JSON object, such as '{{\"alpha\": 1.0}}'; got {self.loss_kwargs!r}."
            )
        kind = LOSSES[self.weak_loss]
        if kind.needs_votes and self.gamma_max > 0.0:
            raise ValueError(
                f"`weak_loss={self.weak_loss!r}` fits every vote by itself: set `gamma_max=0` (a student's hardened "
                "label is no vote)."
            )
        if kind.trusts_student and self.gamma_max > 0.0:
            raise ValueError(
                f"`weak_loss={self.weak_loss!r}` trains on the student's own prediction already: set `gamma_max=0`."
            )
        try:
            self.build_loss()
        except (TypeError, ValueError) as error:
            raise ValueError(f"`weak_loss={self.weak_loss!r}`: {error}") from error

    def _supervised_loss(self, **instead: Any) -> WeakLoss:
        """`weak_loss` without the auxiliary loss; `instead` as in `WeakLoss.from_config`."""
        return LOSSES[self.weak_loss].from_config(self, self.loss_kwargs, **instead)


def check_choices(settings: Any, choices: dict[str, Container[str]]) -> None:
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
