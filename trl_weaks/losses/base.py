"""What a weak loss is, and the registry of those that have a name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..dirichlet import Evidence
from ..registry import Registry
from .vocabulary.token_rows import LogitGradient, TokenFormPlan, TokenLabel, TokenRows


@dataclass(frozen=True)
class DirichletReading:
    """How the Dirichlet that a loss trains is read from logits: `alpha = evidence(logits + offset) + prior`."""

    evidence: Evidence
    prior: float = 1.0
    offset: float = 0.0


class WeakLoss(ABC):
    r"""
    A loss over K classes; a classifier calls it with its classes, the language-model head with K = vocabulary.

    A loss of your own is a subclass with `__call__`, or a plain function of the same arguments (see [`as_weak_loss`]).
    What it can do beside that is declared here, never guessed: a subclass overrides what it changes.

    Attributes:
        linear_in_targets: Whether the value and the gradient are linear in `targets`. Then several supervisors of
            one row are merged into their weighted mean target before the call, which is exact and cheaper.
        needs_votes: Whether it is called as `loss(logits, votes (n, N, K), progress, weights (n, N))`, with the votes
            of all supervisors; completions have none. A class attribute.
        trusts_student: Whether it already trains on the student's own prediction, so that the auxiliary confidence
            loss is not put around it. A class attribute.
        has_closed_form: Whether `token_form` is the closed form of `__call__`. Set by the class itself: a subclass
            that changes `__call__` alone has another loss, and does not inherit the closed form.
        window: What the loss remembers from update to update, or `None`: a `PredictionWindow`, or an object of yours
            with its `hold`, `release`, `state_dict`, `load_state_dict` and `__len__`. A classifier's trainer feeds it
            with what `observed` gives, gathered over processes, and keeps it in checkpoints.
        tells_supervisors_apart: Whether the places of the votes matter, so that every row needs the same supervisors
            in the same order. A class attribute, or one of an instance whose arguments make it so.
        min_supervisors, max_supervisors: With fewer, or more (`None`: any number), a trainer refuses the rows, before
            it trains. Attributes as the one above.

    ```python
    >>> import torch
    >>> from trl_weaks.losses import LOSSES, WeakLoss, register_loss
    >>> @register_loss("brier")
    ... class Brier(WeakLoss):
    ...     def __call__(self, logits, targets, progress):
    ...         return (logits.softmax(-1) - targets).square().sum(-1)
    >>> LOSSES["brier"]()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 0.5)  # weak_loss="brier" in a configuration
    tensor([0.5000])

    ```
    """

    linear_in_targets: bool = False
    needs_votes: ClassVar[bool] = False
    trusts_student: ClassVar[bool] = False
    has_closed_form: ClassVar[bool] = False
    tells_supervisors_apart: ClassVar[bool] = False
    min_supervisors: ClassVar[int] = 1
    max_supervisors: ClassVar[int | None] = None
    window = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        wrote = (vars(base) for base in cls.__mro__ if base is not WeakLoss)  # from the subclass upwards
        cls.has_closed_form = next(
            ("token_form" in own for own in wrote if {"token_form", "__call__"} & set(own)), False
        )

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """
        Args:
            logits: `(n, K)`, any floating dtype.
            targets: `(n, K)`, rows that sum to 1; constant, no gradient flows into them.
            progress: Fraction of the training done, in [0, 1].

        Returns:
            Nats per row, `(n,)`, unreduced, float32 or float64.
        """

    @property
    def dirichlet(self) -> DirichletReading | None:
        """The Dirichlet that the student's logits stand for after training with it; `None`: a softmax."""
        return None

    @property
    def title(self) -> str:
        """What errors call it."""
        return type(self).__name__

    def observed(self, logits: Tensor, votes: Tensor, weights: Tensor, target: Tensor) -> Tensor:
        """
        What `window.hold` is told of these rows, `(n, 2, width)`: its two arguments, at least 0, without gradient.

        Args:
            logits, votes, weights: `(n, K)`, `(n, N, K)`, `(n, N)`.
            target: The pooled label, `(n, K)`.
        """
        return torch.stack([torch.softmax(logits.detach().float(), -1), target.float()], 1)

    def logged(self, progress: float) -> dict[str, float]:
        """What a trainer logs of it at this fraction of the training, by name."""
        return {}

    def token_form_plan(self, hard: bool, dtype: torch.dtype) -> TokenFormPlan | None:
        """What the closed form asks for, or `None` where it has none for these labels."""
        return None

    def token_form(
        self, rows: TokenRows, labels: list[TokenLabel], progress: float, needs_grad: bool
    ) -> tuple[Tensor, LogitGradient | None]:
        """The loss of token labels, summed with their scales, `(n,)`, and its gradient; see `losses/vocabulary`."""
        raise NotImplementedError(f"`{self.title}` has no closed form over a vocabulary")

    @classmethod
    def from_config(cls, settings: Any, given: Mapping[str, Any] | None = None, **instead: Any) -> Self:
        """
        The loss that a configuration describes: its arguments are the settings of equal names.

        Args:
            settings: A dataclass.
            given: Arguments that are no settings, as the user names them (`loss_kwargs`).
            instead: Arguments that the trainer gives where the loss has them.

        Raises:
            ValueError: `given` has something that is no argument, or is a setting.
        """
        kinds = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        names = [p.name for p in signature(cls).parameters.values() if p.kind not in kinds]
        known = {field.name for field in fields(settings)}
        given = dict(given or {})
        for name in given:
            if name in known:
                raise ValueError(f"`loss_kwargs` has `{name}`, which is a setting of its own: set `{name}` instead.")
            if name not in names:
                has = ", ".join(f"`{one}`" for one in names if one not in known) or "none"
                raise ValueError(
                    f"`loss_kwargs` has `{name}`, which is no argument of `{cls.__name__}`. There is {has}."
                )
        own = {name: getattr(settings, name) for name in names if name in known}
        return cls(**own | {name: value for name, value in instead.items() if name in names} | given)


@dataclass(frozen=True)
class CallableLoss(WeakLoss):
    """
    A user's function as a [`WeakLoss`]; nothing is assumed about it, so supervisors are never averaged first.

    Args:
        function: `(logits (n, K), targets (n, K), progress) -> (n,)`, nats.
        linear_in_targets: Whether it is linear in its targets.
    """

    function: Callable[..., Tensor]
    linear_in_targets: bool = False

    @property
    def title(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return self.function(logits, targets, progress)


class CallableVoteLoss(CallableLoss):
    """A user's function of all votes, `(logits (n, K), votes (n, N, K), progress, weights (n, N)) -> (n,)`."""

    needs_votes = True

    def __call__(self, logits: Tensor, votes: Tensor, progress: float, weights: Tensor | None = None) -> Tensor:
        return self.function(logits, votes, progress, weights)


def as_weak_loss(loss: Callable[..., Tensor]) -> WeakLoss:
    """
    The loss itself if it is a [`WeakLoss`], else the function made one: here, once, and nowhere else.

    Of a foreign object only `linear_in_targets`, `sees_votes` (`needs_votes`) and, beside the latter,
    `tells_supervisors_apart` are read, and only where they are exactly `True`; all else it has is its own business.

    Raises:
        ValueError: it cannot be called.
    """
    if isinstance(loss, WeakLoss):
        return loss
    if not callable(loss):
        raise ValueError(f"loss must be callable as (logits, targets, progress) -> (n,), not {loss!r}")
    if any(getattr(loss, name, None) is True for name in ("needs_votes", "sees_votes")):
        made = CallableVoteLoss(loss)
        if getattr(loss, "tells_supervisors_apart", None) is True:
            object.__setattr__(made, "tells_supervisors_apart", True)
        return made
    return CallableLoss(loss, getattr(loss, "linear_in_targets", None) is True)


def _check_entry(entry: Any, name: str) -> None:
    if not (isinstance(entry, type) and issubclass(entry, WeakLoss)):
        raise ValueError(f"the loss {name!r} must be a subclass of WeakLoss or a function, not {entry!r}")
    if entry.__abstractmethods__:
        raise ValueError(f"the loss {name!r} has no `__call__(self, logits, targets, progress)`")
    for capability in ("needs_votes", "trusts_student", "tells_supervisors_apart"):
        if not isinstance(getattr(entry, capability), bool):
            raise ValueError(f"the loss {name!r}: `{capability}` must be True or False in the class")


# Losses that a trainer can be given by name: classes, in the order of registration.
LOSSES: Registry[type[WeakLoss]] = Registry("loss", _check_entry)


def register_loss(*names: str) -> Callable[[Any], Any]:
    """
    Decorator: a subclass of [`WeakLoss`], or a function of logits, targets and progress, can be chosen by these names.

    Configurations, their parsers and `loss=` know it from then on, so the file that holds it is imported before they
    are used. The arguments of a class need defaults; those called like a setting of the trainer get its value, the
    others come from `loss_kwargs`.

    Raises:
        ValueError: no plain word, or the name of another loss.
    """

    def add(loss: Any) -> Any:
        entry = loss if isinstance(loss, type) else _class_of(loss)
        for name in names or (entry.__name__,):
            LOSSES.register(name)(entry)
        return loss

    return add


def _class_of(function: Callable[..., Tensor]) -> type[WeakLoss]:
    """A class whose instances are `function`, so that the registry holds classes alone."""
    loss = as_weak_loss(function)
    base, linear = type(loss), loss.linear_in_targets
    own = {"__module__": function.__module__, "__doc__": function.__doc__, "__wrapped__": function}
    own["tells_supervisors_apart"] = loss.tells_supervisors_apart
    return type(loss.title, (base,), {**own, "__init__": lambda self: base.__init__(self, function, linear)})


def closed_form_plan(loss: WeakLoss, hard: bool, dtype: torch.dtype) -> TokenFormPlan | None:
    """
    What the closed form of `loss` over a vocabulary asks for, or `None` where it has none for these labels.

    Args:
        loss: Any loss.
        hard: Whether the labels are hard.
        dtype: Of the logits, float32 or float64.
    """
    return loss.token_form_plan(hard, dtype) if loss.has_closed_form else None


def checked_values(loss: WeakLoss, values: Tensor, logits: Tensor) -> Tensor:
    """
    What `loss` returned for `logits`, `(n, K)`, once it is known to be a loss for every row.

    Raises:
        ValueError: it is not `(n,)`, which would be broadcast over rows in silence, or has no gradient.
    """
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"The loss `{loss.title}` must return one number per row, shape {tuple(logits.shape[:1])} for logits "
            f"{tuple(logits.shape)}, but returned {found}. Sum over the classes, `.sum(-1)`, and not over the rows."
        )
    if torch.is_grad_enabled() and logits.requires_grad and not values.requires_grad:
        raise ValueError(
            f"The loss `{loss.title}` returned numbers that have no gradient with respect to the logits. Compute them "
            "from the logits with torch, without `detach`, `item` or `no_grad`."
        )
    return values
