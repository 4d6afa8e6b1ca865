"""Evidential (Dirichlet) loss: Bayesian multi-weak supervision."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..dirichlet import NO_EVIDENCE, Evidence, class_term, kl_from_log_evidence, kl_strength_term, log_evidence
from .base import DirichletReading, WeakLoss, register_loss
from .vocabulary.evidential_parts import Penalty
from .vocabulary.evidential_tokens import evidential_token_form
from .vocabulary.token_rows import LogitGradient, TokenFormPlan, TokenLabel, TokenRows

KLTarget = Literal["soft", "expected"]


# "bayesian" is what the paper calls the evidential loss of several supervisors
@register_loss("bayesian", "evidential")
@dataclass(frozen=True)
class EvidentialLoss(WeakLoss):
    """
    Expected cross-entropy under a Dirichlet over the classes, plus a divergence that keeps evidence for wrong ones low
    (Eq. 3 and App. B of Cui et al., arXiv 2406.03199, after Sensoy et al., 2018). With concentration
    `alpha = evidence(logits + evidence_offset) + 1` of strength S:

        loss = sum_k y_k (log S - log alpha_k) + min(kl_clamp, kl_coef * min(1, progress / kl_anneal) * KL)

    where KL is the divergence to Dir(1) of `alpha` without the evidence for the target class. Computed in float64
    and in the logarithm of the evidence: finite for any finite logits, and exact where `exp` would overflow.

    Args:
        evidence: `"exp"` (*authors' code* for generation), `"softplus"` or `"relu"`.
        kl_coef: Weight of the divergence once fully annealed. 1e-4 is the *authors' code* for vocabularies (at that
            size the divergence is 1e4 nats and more); for a few classes 1 is the reference of Sensoy et al.
        kl_anneal: Share of the training over which the weight rises linearly from 0. 1 is the *authors' code*;
            0 means the full weight from the start.
        kl_clamp: Upper bound in nats, per row, of the *weighted* penalty; a row at the bound gets no gradient from
            the divergence. 20 is the *authors' code* (2e5 before their factor 1e-4); `None` for no bound.
        kl_target: What stands for the target class where labels are soft. `"soft"` (*authors' code*): one divergence
            of `y + (1 - y) alpha`, the printed formula read with a soft y. `"expected"` (Eq. 4 as printed): the mean
            over classes, `sum_k y_k KL_k`, where KL_k drops the evidence for class k; linear in the label. The two
            agree on hard labels.
        evidence_offset: Added to every logit, which a softmax does not see (*ours*; 0 is the *paper*). Where all
            evidence together is small beside the number of classes, the K ones in S hide it, and with it nearly all of
            the gradient; the logits of small models are like that. As the offset grows the first term becomes the
            cross-entropy.

    ```python
    >>> import torch
    >>> from trl_weaks.losses import EvidentialLoss
    >>> logits, targets = torch.log(torch.tensor([[8.0, 1.0]])), torch.tensor([[1.0, 0.0]])  # alpha = (9, 2)
    >>> EvidentialLoss(kl_coef=0)(logits, targets, 0.5)  # log 11 - log 9
    tensor([0.2007])
    >>> EvidentialLoss(kl_coef=1)(logits, targets, 0.5)  # and half of KL(Dir(1, 2) || Dir(1, 1)) = log 2 - 1/2
    tensor([0.2972])

    ```

    See also: [`DirichletVotes`], which sees how far the votes disagree, [`NaiveLoss`] for cross-entropy,
    [`AuxiliaryConfidence`], which goes over either.

    Raises:
        ValueError: For an unknown name, a negative number, `kl_anneal` above 1, or an offset that is not finite.
    """

    evidence: Evidence = "exp"
    kl_coef: float = 1e-4
    kl_anneal: float = 1.0
    kl_clamp: float | None = 20.0
    kl_target: KLTarget = "soft"
    evidence_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.evidence not in get_args(Evidence):
            raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, not {self.evidence!r}")
        if self.kl_target not in get_args(KLTarget):
            raise ValueError(f"kl_target must be one of {', '.join(get_args(KLTarget))}, not {self.kl_target!r}")
        if not (math.isfinite(self.kl_coef) and self.kl_coef >= 0):
            raise ValueError(f"kl_coef must be at least 0, not {self.kl_coef}; 0 turns the divergence off")
        if not 0 <= self.kl_anneal <= 1:
            raise ValueError(f"kl_anneal is a share of the training in [0, 1], not {self.kl_anneal}")
        if not math.isfinite(self.evidence_offset):
            raise ValueError(f"evidence_offset must be finite, not {self.evidence_offset}")
        if self.kl_clamp is not None and not self.kl_clamp > 0:
            raise ValueError(f"kl_clamp must be a positive number of nats or None, not {self.kl_clamp}")

    @property
    def linear_in_targets(self) -> bool:
        return self.kl_target == "expected" or self.kl_coef == 0

    @property
    def dirichlet(self) -> DirichletReading:
        return DirichletReading(self.evidence, offset=float(self.evidence_offset))

    def kl_weight(self, progress: float) -> float:
        """Weight of the divergence at this fraction of the training: linear, then flat."""
        return self.kl_coef * (min(1.0, progress / self.kl_anneal) if self.kl_anneal else 1.0)

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """`(n, K)`, `(n, K)`, fraction of the training -> nats `(n,)`."""
        targets = targets.detach().double()
        log_e = log_evidence(logits.double() + self.evidence_offset, self.evidence)
        log_alpha = torch.logaddexp(log_e, torch.zeros((), dtype=log_e.dtype, device=log_e.device))
        loss = (targets * (torch.logsumexp(log_alpha, -1, keepdim=True) - log_alpha)).sum(-1)
        weight = self.kl_weight(progress)
        if weight:
            if self.kl_target == "soft":
                loss = loss + self._bound(weight * kl_from_log_evidence(log_e + torch.log1p(-targets.clamp(max=1))))
            else:
                loss = loss + (targets * self._bound(weight * _kl_without_each_class(log_e))).sum(-1)
        return loss if logits.dtype == torch.float64 else loss.float()

    def token_form_plan(self, hard: bool, dtype: torch.dtype) -> TokenFormPlan | None:
        """
        The closed form covers exponential evidence, hard labels and, with one divergence per label, soft ones.

        Its limit keeps the evidence, and that of far smaller logits beside it, within the range of the dtype.
        """
        if self.evidence != "exp" or not hard and self.kl_coef and self.kl_target == "expected":
            return None
        limit = 300.0 if dtype == torch.float64 else 40.0
        return TokenFormPlan(limit, rival=not hard, squares=not hard, logits=True, offset=self.evidence_offset)

    def token_form(
        self, rows: TokenRows, labels: list[TokenLabel], progress: float, needs_grad: bool
    ) -> tuple[Tensor, LogitGradient | None]:
        """Sum of scale times loss, `(n,)`; the gradient is written over `rows.others`. See `evidential_tokens`."""
        penalty = Penalty(self.kl_weight(progress), math.inf if self.kl_clamp is None else self.kl_clamp)
        return evidential_token_form(rows, labels, penalty, self.evidence_offset, needs_grad)

    def _bound(self, penalty: Tensor) -> Tensor:
        return penalty if self.kl_clamp is None else penalty.clamp(max=self.kl_clamp)


def _kl_without_each_class(log_e: Tensor) -> Tensor:
    """KL_k for every class k, `(n, K)` -> `(n, K)`, by sums from both sides: nothing is subtracted."""
    terms = class_term(log_e.clamp(max=5.0).exp(), log_e)
    edge = torch.full_like(log_e[:, :1], NO_EVIDENCE)
    before = torch.cat([edge, torch.logcumsumexp(log_e, -1)[:, :-1]], -1)
    after = torch.cat([torch.logcumsumexp(log_e.flip(-1), -1).flip(-1)[:, 1:], edge], -1)
    strength = kl_strength_term(torch.logaddexp(before, after), log_e.shape[-1])
    return strength + terms.sum(-1, keepdim=True) - terms
