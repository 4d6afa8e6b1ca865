"""RAVEN: the supervisors' weights are learned together with the student."""

import logging
from typing import TYPE_CHECKING, Self

import numpy as np

from .agreement import GUARD, agreement_weights, one_sided
from .base import AGGREGATORS, NotComputable, checked_votes, shares
from .with_student import WeighsVotes

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

COMBINE = ("linear", "log_linear")
INIT = ("uniform", "agreement")
EASY_START = 0.1  # the authors' 0.2 of two epochs
_SMALLEST = -69.0  # stands for the logarithm of a probability of 0


@AGGREGATORS.register("raven")
class Raven(WeighsVotes):
    r"""
    Weights on the simplex, moved by the student's own loss (arXiv 2510.21332; public code mlbio-epfl/raven read).

    The student is trained on $\tilde y = \sum_m w_m y^m$. After every update

    $$w \leftarrow \Pi(w - \eta\, g), \qquad g_m = \mathrm{mean}_r \mathrm{CE}(y^m_r, p_r), \qquad
    \Pi(w)_m = \max(w_m, \epsilon) / \sum_j \max(w_j, \epsilon)$$

    with the student's probabilities p before the update: weights drift to the supervisors that the student agrees
    with already. With `combine="log_linear"`, which the authors' code for text does,
    $\tilde y \propto \prod_m (y^m)^{w_m}$ and $g_m = -\mathrm{mean}_r \mathrm{Cov}_{\tilde y}(\log p, \log y^m)$. The
    paper reports more than 30 % (first versions' abstract) or 40 % (project page) relative gain out of distribution,
    over its baselines; its tables were not seen.

    What is *ours*: one step for each update, over the rows of all its batches and processes (the code: one for each
    batch); a row's own weights multiply w and weigh its part of g; a supervisor that an update's rows lack is moved as
    the others are on average; and the guard, since a supervisor that always says one class is agreed with ever more
    by a student that learns it: those leave the weighing (cf. BT-sigma, where unanimous judges do).

    Args:
        learning_rate: η; the authors' setting for text classification (1e-3 for DPO). 0 keeps the weights.
        easy_start: fraction of the training in which w rests and only rows teach on which all supervisors' largest
            classes are one. None is 0.1, the authors' 0.2 of two epochs (they sort such rows to the front; skipping
            the others is their code's way for images), and with a warning 0 where there is no such row (*ours*).
        combine: `"linear"`, as in the paper and for images, or `"log_linear"`, as in the code for text, which needs
            votes without 0.
        init: `"uniform"` (authors), or `"agreement"`, the weights of the static control, [`Agreement`]. *ours*
        floor: ε, of the authors' code.
        guard: see [`one_sided`]; 0 turns it off. *ours*

    Attributes:
        weights: `(supervisors,)`, after `fit`; they sum to 1.
        silent: `(supervisors,)`, those that the guard left out.
        easy_start: the fraction in use.

    Raises:
        ValueError: an argument that is out of range.

    Example:

    >>> ann, bob = np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[0, 1, 1, 0]]
    >>> fitted = Raven(learning_rate=0.1).fit(np.stack([ann, bob], 1))
    >>> fitted.update(np.array([[4.0, 12.0], [4.0, 4.0]]))  # four rows: nats of cross-entropy to each, weights
    >>> fitted.weights  # (0.5 - 0.1 * 1, 0.5 - 0.1 * 3) / 0.6
    array([0.66666667, 0.33333333])

    See also: [`Agreement`], its static control, [`StudentDawidSkene`], which relabels rows, [`LearnedRealm`], a loss.
    """

    min_supervisors = 2

    def __init__(
        self,
        learning_rate: float = 0.01,
        easy_start: float | None = None,
        combine: str = "linear",
        init: str = "uniform",
        floor: float = 1e-6,
        guard: float = GUARD,
    ):
        for name, value, choices in (("combine", combine, COMBINE), ("init", init, INIT)):
            if value not in choices:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}.")
        if not 0 <= learning_rate < np.inf:
            raise ValueError(f"learning_rate={learning_rate} must be at least 0, and finite.")
        if easy_start is not None and not 0 <= easy_start < 1:
            raise ValueError(f"easy_start={easy_start} is a fraction of the training, in [0, 1).")
        if not 0 < floor < 1:
            raise ValueError(f"floor={floor} must be in (0, 1).")
        if not 0 <= guard < 1:
            raise ValueError(f"guard={guard} must be in [0, 1); 0 lets everybody vote.")
        self.learning_rate, self.combine, self._easy_start = learning_rate, combine, easy_start
        self.easy_start = EASY_START if easy_start is None else easy_start
        self.init, self.floor, self.guard = init, floor, guard

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Raises NotComputable: votes of 0 under `combine="log_linear"`, or no row for a given `easy_start`."""
        votes, weights = checked_votes(votes, weights)
        self.silent = one_sided(votes, weights, self.guard)
        heard = (shares(votes, weights) > 0) & ~self.silent
        if self.combine == "log_linear" and (bad := (heard & (votes.min(-1) <= 0)).any(-1)).any():
            raise NotComputable(
                f"row {int(bad.argmax())} has a vote of probability 0, which combine='log_linear' cannot weigh. "
                "Calibrate the votes, or combine linearly."
            )
        self._check_start(self._unanimous(votes, heard))
        start: np.ndarray = (~self.silent).astype(float)
        if self.init == "agreement":
            start = agreement_weights(votes, weights, self.guard)
        self._start = start / start.sum()
        self.reset()
        return self

    def _check_start(self, unanimous: np.ndarray) -> None:
        self.easy_start = EASY_START if self._easy_start is None else self._easy_start
        if not self.easy_start or unanimous.any():
            return
        if self._easy_start is not None:
            raise NotComputable(
                "the supervisors agree on no row, so there is none to start with. Set `easy_start` to 0 in "
                "`pooling_kwargs`."
            )
        logger.warning("RAVEN: the supervisors agree on no row, so all rows teach from the start (`easy_start` = 0).")
        self.easy_start = 0.0

    @staticmethod
    def _unanimous(votes: np.ndarray, heard: np.ndarray) -> np.ndarray:
        filled = np.nan_to_num(votes)
        top = (filled >= filled.max(-1, keepdims=True)) | ~heard[..., None]
        return top.all(1).any(-1)

    def reset(self) -> None:
        self.weights = self._start.copy()

    def state(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights}

    def load(self, state: dict[str, np.ndarray]) -> None:
        found = state.get("weights")
        if found is None or found.shape != self._start.shape:
            raise ValueError(f"the checkpoint's weights are not those of {len(self._start)} supervisors.")
        self.weights = np.array(found, dtype=np.float64)

    def logged(self, names: list[str]) -> dict[str, float]:
        return {f"weight_{name}": float(weight) for name, weight in zip(names, self.weights, strict=True)}

    def __call__(self, votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The label of every row under the weights of now."""
        votes, weights = checked_votes(votes, weights)
        share = shares(votes, weights) * self.weights
        total = share.sum(-1, keepdims=True)
        if not (total > 0).all():
            raise NotComputable(
                f"row {int((total[:, 0] <= 0).argmax())} has only votes of supervisors that the guard left out. Drop "
                "the row, or set `guard` to 0."
            )
        share = share / total
        if self.combine == "linear":
            return np.einsum("rv,rvk->rk", share, np.nan_to_num(votes))
        counted = np.where((share > 0)[..., None], votes, 1.0)  # who is left out may rule classes out
        if not (counted > 0).all():
            raise NotComputable(
                f"row {int((counted <= 0).any((1, 2)).argmax())} has a vote of probability 0, which "
                "combine='log_linear' cannot weigh. Calibrate the votes, or combine linearly."
            )
        logs = np.einsum("rv,rvk->rk", share, np.log(counted))
        found = np.exp(logs - logs.max(-1, keepdims=True))
        return found / found.sum(-1, keepdims=True)

    def scaled(self, weights: "Tensor") -> "Tensor":
        found = weights * weights.new_tensor(self.weights)
        return found / found.sum(-1, keepdim=True)

    def teaching(self, votes: "Tensor", weights: "Tensor", progress: float) -> "Tensor | None":
        if progress >= self.easy_start:
            return None
        unheard = (weights == 0) | weights.new_tensor(self.silent).bool()
        top = (votes >= votes.amax(-1, keepdim=True)) | unheard[..., None]
        return top.all(1).any(-1)

    def observe(self, log_probs: "Tensor", votes: "Tensor", weights: "Tensor", progress: float) -> "Tensor":
        """`(2, N)`: sums of each supervisor's weighted part of the gradient, and of its weights."""
        import torch  # takes seconds, and a command's help lists the aggregators

        wide = torch.float32 if votes.device.type == "mps" else torch.float64  # which has nothing wider
        votes, weights = votes.to(wide), weights.to(wide)
        if progress < self.easy_start:
            return weights.new_zeros(2, weights.shape[1])
        logs = log_probs.detach().to(wide).clamp_min(_SMALLEST)[:, None]
        if self.combine == "linear":
            parts = -(votes * logs).sum(-1)
        else:
            vote_logs = votes.log().clamp_min(_SMALLEST)
            target = (self.scaled(weights)[..., None] * vote_logs).sum(1, keepdim=True).softmax(-1)
            parts = -(target * (logs - (target * logs).sum(-1, keepdim=True)) * vote_logs).sum(-1)
        return torch.stack([(parts * weights).sum(0), weights.sum(0)])

    def update(self, sums: np.ndarray) -> None:
        parts, seen = sums
        here = (seen > 0) & ~self.silent
        if not here.any() or not np.isfinite(parts).all():  # a step that diverged teaches nothing of supervisors
            return
        gradient = np.where(here, parts / np.where(seen > 0, seen, 1), 0.0)
        held = self.weights * here
        gradient = np.where(here, gradient, (held * gradient).sum() / held.sum())
        moved = np.maximum(self.weights - self.learning_rate * gradient, self.floor) * ~self.silent
        self.weights = moved / moved.sum()
