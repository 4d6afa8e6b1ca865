"""A Dirichlet fitted to the votes themselves: the loss that sees how far the supervisors disagree."""

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from ..dirichlet import Evidence, concentration

_SMALLEST_VOTE = 1e-12  # log p of a vote of exactly 0 at infinite precision


@dataclass(frozen=True)
class DirichletVotes:
    r"""
    `-sum_i w_i log Dir(p_i; alpha)`, alpha = evidence(logits) + 1, over the votes p_i of N supervisors (*ours*).

    Eq. 2 and Eq. 4 of Cui et al. (arXiv 2406.03199) are linear in the vote, so they see the mean vote only: "all say
    0.5" and "half say 0, half say 1" train the same student. Here the first asks for a strong Dirichlet around 0.5,
    the second for a weak one.

    The density grows without bound where all votes are equal, and vanishes where a vote rules a class out. So a vote
    counts as `precision` observations on a flat prior: log p_ik becomes its mean under Dir(1 + precision p_i),
    `digamma(1 + precision p_ik) - digamma(K + precision)`. A single vote is then fitted best by exactly
    alpha = 1 + precision p (strength K + precision), and disagreement only lowers that. `math.inf` is the formula as
    printed above (votes below 1e-12 count as 1e-12).

    Args:
        evidence: `"exp"`, `"softplus"` or `"relu"`.
        precision: Observations a vote is worth, > 0; 100 is *ours*.

    Raises:
        ValueError: For an unknown evidence or a precision that is not positive.
    """

    evidence: Evidence = "exp"
    precision: float = 100.0
    sees_votes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.evidence not in get_args(Evidence):
            raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, not {self.evidence!r}")
        if not self.precision > 0:
            raise ValueError(f"precision must be > 0, not {self.precision}")

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
        alpha = concentration(logits, self.evidence).double()
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
