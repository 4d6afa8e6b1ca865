"""What a classifier says about each text: probabilities and, for an evidential one, how much evidence backs them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dirichlet import Evidence, concentration, expected_probability, log_evidence

# Where a model's config remembers how it was trained: alpha = evidence(logits + offset) + prior
EVIDENCE_KEY = "weak_evidence"
PRIOR_KEY = "weak_prior"
OFFSET_KEY = "weak_evidence_offset"


@dataclass(frozen=True)
class ClassPredictions:
    """
    Predictions for n texts.

    Args:
        probabilities: (n, K). The Dirichlet's mean for an evidential student, else the softmax.
        strength: (n,) Dirichlet strength, the sum of alpha = evidence + prior; None for a student trained with
            cross-entropy.
        vacuity: (n,) in (0, 1], the share of belief that no evidence backs, K / (K + evidence), which is K / strength
            under the usual prior of 1; None likewise. A user may abstain where it is high.
    """

    probabilities: Tensor
    strength: Tensor | None = None
    vacuity: Tensor | None = None

    @classmethod
    def from_logits(
        cls, logits: Tensor, evidence: Evidence | None, prior: float = 1.0, offset: float = 0.0
    ) -> "ClassPredictions":
        """(n, K) logits; `evidence`, `prior` and `offset` are the student's, evidence None for a plain classifier."""
        if evidence is None:
            return cls(torch.softmax(logits.float(), -1))
        logits = logits + offset
        found = concentration(logits, evidence).double() - 1
        alpha = found + prior
        if prior == 0:  # all alpha may round to 0: the mean of tiny evidence is that of its logarithms
            mean = torch.softmax(log_evidence(logits.double(), evidence), -1)
        else:
            mean = expected_probability(alpha)
        classes = logits.shape[-1]
        empty = classes / (classes + found.sum(-1))
        return cls(mean.float(), alpha.sum(-1).float(), empty.float())

    @property
    def classes(self) -> Tensor:
        """(n,) most probable class."""
        return self.probabilities.argmax(-1)
