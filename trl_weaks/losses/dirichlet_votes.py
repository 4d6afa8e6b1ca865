"""A Dirichlet fitted to the votes themselves: the loss that sees how far the supervisors disagree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor

from ..dirichlet import Evidence, concentration, log_evidence
from .base import DirichletReading, WeakLoss, register_loss

_SMALLEST_VOTE = 1e-12  # log p of a vote of exactly 0 at infinite precision


@register_loss("dirichlet_votes")
@dataclass(frozen=True)
class DirichletVotes(WeakLoss):
    r"""
    `-sum_i w_i log Dir(p_i; alpha)`, alpha = evidence(logits) + prior, over the votes p_i of N supervisors (*ours*).

    Eq. 2 and Eq. 4 of Cui et al. (arXiv 2406.03199) are linear in the vote, so they see the mean vote only: "all say
    0.5" and "half say 0, half say 1" train the same student. Here the first asks for a strong Dirichlet around 0.5,
    the second for a weak one.

    The density grows without bound where all votes are equal, and vanishes where a vote rules a class out. So a vote
    counts as `precision` observations on a flat prior: log p_ik becomes its mean under Dir(1 + precision p_i),
    `digamma(1 + precision p_ik) - digamma(K + precision)`. A single vote is then fitted best by exactly
    alpha = 1 + precision p (strength K + precision), and disagreement only lowers that. `math.inf` is the formula as
    printed above (votes below 1e-12 count as 1e-12).

    The `prior` is 0, not the 1 of the evidential loss: votes for different classes are fitted by alpha below 1. With a
    floor of 1 a student that cannot tell the classes apart yet is driven to no evidence at all, where the evidence
    functions are flat, and stays there (seen with 18 classes: accuracy of chance, vacuity 1).

    Args:
        evidence: `"exp"`, `"softplus"` or `"relu"`.
        prior: Concentration without evidence, at least 0; above 0 with `"relu"`.
        precision: Observations a vote is worth, > 0; 100 is *ours*.

    ```python
    >>> import torch
    >>> from trl_weaks.losses.dirichlet_votes import DirichletVotes
    >>> agree, differ = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> strong = torch.log(torch.tensor([[50.0, 50.0]]))  # much evidence for neither class
    >>> loss = DirichletVotes()
    >>> [round(loss(strong, votes, 1.0).item(), 2) for votes in (agree, differ)]
    [-1.59, 185.15]

    ```

    See also: [`EvidentialLoss`], which sees the mean vote alone, [`Realm`] for votes that may be guessed.

    Raises:
        ValueError: For an unknown evidence, a precision that is not positive, a negative prior, or relu without one.
    """

    evidence: Evidence = "exp"
    precision: float = 100.0
    prior: float = 0.0
    needs_votes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.evidence not in get_args(Evidence):
            raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, not {self.evidence!r}")
        if not self.precision > 0:
            raise ValueError(f"precision must be > 0, not {self.precision}")
        if not 0 <= self.prior < math.inf:
            raise ValueError(f"prior must be at least 0, not {self.prior}")
        if self.evidence == "relu" and self.prior == 0:
            raise ValueError(
                "needs evidence above 0, or a prior above 0 with relu: set `evidence` to 'exp' or 'softplus'"
            )

    @property
    def dirichlet(self) -> DirichletReading:
        return DirichletReading(self.evidence, float(self.prior))

    @classmethod
    def from_config(cls, settings: Any, given: Mapping[str, Any] | None = None, **instead: Any) -> Self:
        """`precision` is the setting `vote_precision`."""
        return super().from_config(settings, given, precision=settings.vote_precision, **instead)

    def __call__(self, logits: Tensor, votes: Tensor, progress: float, weights: Tensor | None = None) -> Tensor:
        """
        Args:
            logits: `(n, K)`.
            votes: `(n, N, K)`, rows that sum to 1; no gradient flows into them.
            progress: Fraction of the training; not used.
            weights: `(n, N)` that sum to 1 over N; uniform by default.

        Returns:
            Nats `(n,)`; negative where the fitted density is above 1.
        """
        alpha = self.prior + _evidence(logits, self.evidence)
        votes = votes.detach().double()
        mean_log = self._log_votes(votes)
        if weights is None:
            mean_log = mean_log.mean(-2)
        else:
            mean_log = (weights.double().unsqueeze(-1) * mean_log).sum(-2)
        log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
        loss = log_beta - ((alpha - 1) * mean_log).sum(-1)
        return loss if logits.dtype == torch.float64 else loss.float()

    def _log_votes(self, votes: Tensor) -> Tensor:
        if math.isinf(self.precision):
            return votes.clamp_min(_SMALLEST_VOTE).log()
        counts = 1 + self.precision * votes
        return torch.digamma(counts) - torch.digamma(counts.sum(-1, keepdim=True))


def _evidence(logits: Tensor, evidence: Evidence) -> Tensor:
    """Evidence in float64, exact for small values and without overflow for large ones."""
    large = concentration(logits, evidence).double() - 1
    small = log_evidence(logits.double().clamp(max=0), evidence).exp()
    return torch.where(logits < 0, small, large)
