"""Auxiliary confidence: part of the loss trusts the student's own prediction."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from .base import DirichletReading, WeakLoss, as_weak_loss, closed_form_plan
from .prediction_window import PredictionWindow
from .vocabulary.token_rows import LogitGradient, TokenFormPlan, TokenLabel, TokenRows

Threshold = Literal["argmax", "balanced"]


@dataclass
class AuxiliaryConfidence(WeakLoss):
    """
    Eq. 1 and Eq. 5 of Cui et al. (arXiv 2406.03199), after Burns et al. (2023), over any weak loss:
    `(1 - gamma) loss(weak label) + gamma loss(own predicted class)`. The prediction is hardened and detached.

    Two losses are mixed, as printed; the authors' generation code mixes the two targets instead, which is the same
    wherever the loss is linear in its target.

    Args:
        loss: The weak loss, e.g. `NaiveLoss()` or `EvidentialLoss()`, or any function of its kind.
        gamma_max: Final weight of the own prediction, in [0, 1]. 0.25 is the *authors' code* for the evidential
            generation loss (they use 0.5 for the soft naive one, Burns et al. 0.5 for classification).
        warmup: Share of the training over which gamma rises linearly from 0 to `gamma_max`; it stays there. 0.25 is
            the *authors' code*. Both reference codes jump at the end of the warm-up; this rise is continuous.
        threshold: `"argmax"` (*paper*), or `"balanced"` (Burns et al., classification only): thresholds under which
            the predicted classes are as frequent as the weak labels say.
        window: Recent predictions over which `"balanced"` balances. Feed it, after gathering over processes: with
            `window.update(probabilities, weak_labels)` before each call, or, where an optimiser update takes several
            calls, with `window.hold` in each and `window.release` after the last. While it is empty, the rows of the
            call itself are balanced; while its first rows are on hold, `"argmax"` stands in, since thresholds of one
            micro-batch would make the gradient depend on how the update was cut. Default: a `PredictionWindow()`.

    ```python
    >>> import torch
    >>> from trl_weaks.losses import AuxiliaryConfidence, NaiveLoss
    >>> logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> AuxiliaryConfidence(NaiveLoss(), gamma_max=0.5, warmup=0.2)(logits, targets, 0.1)  # gamma = 0.25
    tensor([1.6269])

    ```

    See also: [`AdaptiveConfidence`] for a share of each row, [`PredictionWindow`] for balanced thresholds.

    Raises:
        ValueError: For numbers outside [0, 1], an unknown threshold, a window without `"balanced"`, or a loss that is
            no function of logits and one target per row.
    """

    loss: WeakLoss
    gamma_max: float = 0.25
    warmup: float = 0.25
    threshold: Threshold = "argmax"
    window: PredictionWindow | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self._inner.needs_votes:
            raise ValueError(f"{self._inner.title} takes all votes of a row; a prediction is only one")
        for name in ("gamma_max", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.threshold not in get_args(Threshold):
            raise ValueError(f"threshold must be one of {', '.join(get_args(Threshold))}, not {self.threshold!r}")
        if self.threshold == "balanced" and self.window is None:
            self.window = PredictionWindow()
        if self.threshold == "argmax" and self.window is not None:
            raise ValueError('a window is only used with threshold="balanced"')

    @property
    def _inner(self) -> WeakLoss:
        return as_weak_loss(self.loss)

    @property
    def linear_in_targets(self) -> bool:
        """As the inner loss says; of a plain function nothing is assumed."""
        return self._inner.linear_in_targets

    @property
    def dirichlet(self) -> DirichletReading | None:
        """That of the inner loss."""
        return self._inner.dirichlet

    @property
    def title(self) -> str:
        """That of the inner loss: its values are what can be wrong."""
        return self._inner.title

    def logged(self, progress: float) -> dict[str, float]:
        """`weak/gamma`, the weight of the own prediction, beside what the inner loss logs."""
        return self._inner.logged(progress) | {"weak/gamma": float(self.gamma(progress))}

    def gamma(self, progress: float) -> float:
        """Weight of the own prediction at this fraction of the training: linear, then flat."""
        return self.gamma_max * (min(1.0, progress / self.warmup) if self.warmup else 1.0)

    def predict(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The student's own hard labels, `(n, K)`, `(n, K)` -> `(n,)` class ids, no gradient."""
        logits, window = logits.detach(), self.window
        if window is None or not len(window) and window.holding:
            return logits.argmax(-1)
        if not len(window):
            window = PredictionWindow(size=len(logits))
            window.update(torch.softmax(logits.double(), -1), targets)
        return window.predict(logits)

    def token_form_plan(self, hard: bool, dtype: torch.dtype) -> TokenFormPlan | None:
        """The closed form of the inner loss, if it has one, with the student's own top token found on the way."""
        argmax = self.window is None and type(self).predict is AuxiliaryConfidence.predict
        plan = closed_form_plan(self._inner, hard, dtype) if argmax else None
        return None if plan is None else replace(plan, rival=True)

    def token_form(
        self, rows: TokenRows, labels: list[TokenLabel], progress: float, needs_grad: bool
    ) -> tuple[Tensor, LogitGradient | None]:
        """Sum of scale times loss, `(n,)`: the labels at 1 - gamma and one more, the own top token, at gamma."""
        gamma = self.gamma(progress)
        if gamma:
            own = TokenLabel(gamma * sum(label.scales for label in labels), own=True)
            labels = [*(replace(label, scales=(1 - gamma) * label.scales) for label in labels), own]
        return self._inner.token_form(rows, labels, progress, needs_grad)

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """`(n, K)`, `(n, K)`, fraction of the training -> nats `(n,)`."""
        gamma = self.gamma(progress)
        weak = self._inner(logits, targets, progress)
        if not gamma:
            return weak
        own = torch.zeros_like(targets).scatter_(-1, self.predict(logits, targets)[:, None], 1)
        return (1 - gamma) * weak + gamma * self._inner(logits, own, progress)
