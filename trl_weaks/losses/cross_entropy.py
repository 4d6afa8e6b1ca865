"""Cross-entropy with soft or hard weak labels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import WeakLoss, register_loss
from .vocabulary import triton_tokens
from .vocabulary.token_rows import LogitGradient, TokenFormPlan, TokenLabel, TokenRows


@register_loss("naive")
@dataclass(frozen=True)
class NaiveLoss(WeakLoss):
    """
    Cross-entropy of the weak label, Eq. 2 of Cui et al. (arXiv 2406.03199) for one supervisor: `-sum_k y_k log p_k`.

    Linear in the target, so the weighted sum over supervisors is the loss of the weighted mean label.

    ```python
    >>> import torch
    >>> from trl_weaks.losses import NaiveLoss
    >>> NaiveLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.75, 0.25]]))  # log(1 + e^-2) + 0.25 * 2
    tensor([0.6269])

    ```

    See also: [`EvidentialLoss`] for a label read as a Dirichlet, [`ReverseKL`] for the other direction.
    """

    linear_in_targets: ClassVar[bool] = True

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """`(n, K)`, `(n, K)` -> nats `(n,)`; `progress` is not used."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return -(targets.detach().to(logits.dtype) * torch.log_softmax(logits, -1)).sum(-1)

    def token_form_plan(self, hard: bool, dtype: torch.dtype) -> TokenFormPlan:
        """The closed form below covers every label and logit."""
        return TokenFormPlan(limit=math.inf)

    def token_form(
        self, rows: TokenRows, labels: list[TokenLabel], progress: float, needs_grad: bool
    ) -> tuple[Tensor, LogitGradient | None]:
        r"""
        The loss of `labels`, summed with their scales, `(n,)`, and its gradient: `rows.others` with factors.

        With q the student's distribution over the tokens other than the emitted t, `p_j = (1 - p_t) q_j` and the soft
        label is `y_t = P, y_j = (1 - P) q_j`. Hence, H(q) its entropy,

            loss = -P log p_t - (1 - P) log(1 - p_t) + (1 - P) H(q)
            dloss/dz_t = p_t - P,    dloss/dz_j = p_j - y_j = (P - p_t) q_j,

        the gradient of a binary cross-entropy between P and p_t: no `(n, V)` target, and exact where p_t rounds to 1.
        A hard label on the own top token a adds `p - e_a`.
        """
        places = [rows.ids] if rows.rival_ids is None else [rows.ids, rows.rival_ids]
        found = None if rows.table is None else triton_tokens.soft_label_numbers(rows, labels)
        if found is not None:
            loss, factors, values = found
            columns = tuple(zip(places, values.unbind(-1), strict=True))
            return loss, LogitGradient(rows.others, factors, columns, rows.tops) if needs_grad else None
        log_p, log_r = rows.log_prob, rows.log_rest_prob
        others = log_r.exp()
        loss, share, at_target, at_rival = (torch.zeros_like(log_p) for _ in range(4))
        for label in labels:
            if label.own:
                elsewhere = torch.where(rows.is_top1, 0, label.scales)
                loss -= label.scales * torch.maximum(log_p, rows.rest_max - rows.log_normaliser)
                share += label.scales * others
                at_target += elsewhere * log_p.exp() - (label.scales - elsewhere) * others
                at_rival -= elsewhere
            else:
                missing = torch.zeros_like(log_p) if label.probs is None else 1 - label.probs
                loss -= label.scales * ((1 - missing) * log_p + missing * (log_r - rows.rest_entropy))
                share += label.scales * (others - missing)
                at_target -= label.scales * (others - missing)
        if not needs_grad:
            return loss, None
        columns = tuple(zip(places, (at_target, at_rival), strict=False))
        return loss, LogitGradient(rows.others, share / rows.rest_sum, columns, rows.tops)


CrossEntropyLoss = NaiveLoss  # the field's name for it
