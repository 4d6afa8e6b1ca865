"""REALM with an expertise of each supervisor that is learnt along with the student."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss
from .realm import vote_losses

LEAST, MOST = (
    0.02,
    0.98,
)  # expertise that no evidence leads beyond, so that none is dropped or believed for good. *ours*


class Expertise:
    """
    A running estimate of each supervisor's expertise, `(N,)`: what `LearnedRealm` remembers from update to update.

    Args:
        size: rows that the estimate reaches back, as an exponential mean.
        start: of every supervisor, before anything is seen.
    """

    def __init__(self, size: int, start: float) -> None:
        self.size, self.start = size, start
        self.values: Tensor | None = None
        self._held: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return 0 if self.values is None else len(self.values)

    def hold(self, known: Tensor, counted: Tensor) -> None:
        """Keep aside, until `release`, how likely each vote was known and not guessed, and whether it is there."""
        self._held.append((known.detach().cpu().double(), counted.detach().cpu().double()))

    def release(self) -> None:
        """Move towards the mean of what was held, the further the more rows: call it when an update is complete."""
        held, self._held = self._held, []
        if not held:
            return
        known, counted = (torch.cat(part) for part in zip(*held, strict=True))
        rows = counted.sum(0)
        mean = (known * counted).sum(0) / rows.clamp(min=1)
        values = torch.full_like(mean, self.start) if self.values is None else self.values
        stay = (1 - 1 / self.size) ** rows
        self.values = (stay * values + (1 - stay) * mean).clamp(LEAST, MOST)

    def state_dict(self) -> dict[str, Tensor]:
        """The estimate, for a checkpoint; empty before the first update. What is on hold is not in it."""
        return {} if self.values is None else {"expertise": self.values}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the estimate of `state_dict` in place of the present one."""
        self.values, self._held = state.get("expertise"), []


@register_loss("realm_learned")
@dataclass
class LearnedRealm(WeakLoss):
    """
    [`Realm`] with e_i of each supervisor: `-sum_i w_i sum_k y_ik log(e_i p_k + (1 - e_i) / K)`. After arXiv
    2604.17289, which reports gains of up to 50 points where most supervisors are adversaries.

    The paper learns e_i by gradient, through a sigmoid. Here it is the mean, over the rows seen lately, of the
    probability that the vote was known and not guessed, `sum_k y_ik e_i p_k / (e_i p_k + (1 - e_i) / K)`, which is the
    step of expectation maximisation and needs no learning rate (*ours*). While the student knows nothing that is e_i
    itself, so nothing moves. All rows of an update meet the expertise of the updates before it.

    Supervisors are told apart by their places in the votes, so every row needs those of all, two or more. Gold that is
    evaluated, one vote alone, counts as one of the expertise that supervisors start with.

    Args:
        expertise: where all start, in (0, 1); 0.9 is *ours*.
        rows: how far back the mean reaches; 256 is *ours*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.realm_learned import LearnedRealm
    >>> loss = LearnedRealm(rows=1)
    >>> sure, votes = torch.tensor([[9.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> loss.window.hold(*loss.observed(sure, votes, torch.ones(1, 2), None).unbind(1))
    >>> loss.window.release()
    >>> loss.window.values.round(decimals=2).tolist()
    [0.95, 0.02]

    ```

    See also: [`Realm`] with an expertise that is given, [`Raven`] for learnt weights of one mean label.
    """

    expertise: float = 0.9
    rows: int = 256
    window: Expertise = field(init=False, repr=False, compare=False)
    needs_votes: ClassVar[bool] = True
    tells_supervisors_apart: ClassVar[bool] = True
    min_supervisors: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.expertise < 1:
            raise ValueError(f"expertise must lie in (0, 1), not {self.expertise}")
        if not (isinstance(self.rows, int) and self.rows >= 1):
            raise ValueError(f"rows must be a whole number of at least 1, not {self.rows}")
        self.window = Expertise(self.rows, self.expertise)

    def logged(self, progress: float) -> dict[str, float]:
        """`weak/expertise_0` and so on, in the order of the votes."""
        return {f"weak/expertise_{i}": float(value) for i, value in enumerate(self._of(len(self.window)))}

    def observed(self, logits: Tensor, votes: Tensor, weights: Tensor, target: Tensor | None) -> Tensor:
        """How likely each vote was known, and whether it is there, `(n, 2, N)`."""
        p = torch.softmax(logits.detach().float(), -1)[:, None]
        e = self._of(votes.shape[1]).to(p)[:, None]
        known = (votes.to(p) * e * p / (e * p + (1 - e) / p.shape[-1])).sum(-1)
        return torch.stack([known, (weights > 0).to(p)], 1)

    def _of(self, supervisors: int) -> Tensor:
        values = self.window.values
        return torch.full((supervisors,), self.expertise).double() if values is None or supervisors == 1 else values

    def __call__(self, logits: Tensor, votes: Tensor, progress: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """`(n, K)`, votes `(n, N, K)`, weights `(n, N)` that sum to 1 over N, equal by default -> nats `(n,)`."""
        return vote_losses(logits, votes, weights, self._of(votes.shape[1]))
