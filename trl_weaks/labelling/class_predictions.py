"""What a classifier says about each text: probabilities and, for an evidential one, how much evidence backs them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dirichlet import Evidence, concentration, expected_probability, strength, vacuity

EVIDENCE_KEY = "weak_evidence"  # where a model's config remembers the evidence function it was trained with


@dataclass(frozen=True)
class ClassPredictions:
    """
    Predictions for n texts.

    Args:
        probabilities: (n, K). The Dirichlet's mean for an evidential student, else the softmax.
        strength: (n,) Dirichlet strength, K plus the evidence; None for a student trained with cross-entropy.
        vacuity: (n,) in (0, 1], the share of belief that no evidence backs, K / strength; None likewise. A user may
            abstain where it is high.
    """

    probabilities: Tensor
    strength: Tensor | None = None
    vacuity: Tensor | None = None

    @classmethod
    def from_logits(cls, logits: Tensor, evidence: Evidence | None) -> "ClassPredictions":
        """(n, K) logits; `evidence` is the student's, None for a plain classifier."""
        if evidence is None:
            return cls(torch.softmax(logits.float(), -1))
        alpha = concentration(logits, evidence)
        return cls(expected_probability(alpha), strength(alpha), vacuity(alpha))

    @property
    def classes(self) -> Tensor:
        """(n,) most probable class."""
        return self.probabilities.argmax(-1)
