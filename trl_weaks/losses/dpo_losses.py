"""TRL's DPO losses pair by pair, unreduced, so that each pair can have a weight; the formulas of their papers.

With r = log pi(y) - log ref(y) in nats, s = f'(exp r) the score under the f-divergence (r itself for the reverse KL),
d = s_chosen - s_rejected and m = beta d. `DPO_LOSSES` has every name that `trl.DPOConfig.loss_type` takes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .preference import rdpo_loss, sigmoid_loss

# These sort the log-ratios of a batch, so that their terms belong to quantiles and to no pair.
SORTING = ("aot", "aot_unpaired")


@dataclass
class PairBatch:
    """
    What the losses read of n pairs; every tensor (n,).

    Attributes:
        chosen, rejected: the policy's log-probabilities of the completions, nats.
        chosen_ratio, rejected_ratio: those minus the reference's.
        chosen_score, rejected_score: the ratios under the f-divergence (`divergence_score`).
        chosen_tokens, rejected_tokens: tokens of the completions.
        chosen_nll: negative log-likelihood of the chosen completion without length terms, nats.
        chosen_predicted: its tokens that another comes before: all, but for the first where the prompt has none.
        beta, smoothing, tau: the settings `beta`, `label_smoothing` and `discopop_tau`.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_ratio: Tensor
    rejected_ratio: Tensor
    chosen_score: Tensor
    rejected_score: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    chosen_nll: Tensor
    chosen_predicted: Tensor
    beta: float
    smoothing: float
    tau: float

    @property
    def margin(self) -> Tensor:
        return self.beta * (self.chosen_score - self.rejected_score)

    @property
    def mean_margin(self) -> Tensor:
        """Difference of the scores per token, without beta."""
        chosen = self.chosen_score / self.chosen_tokens.clamp(min=1)
        return chosen - self.rejected_score / self.rejected_tokens.clamp(min=1)


def divergence_score(ratio: Tensor, kind: str, alpha: float = 0.5) -> Tensor:
    """f'(t) at t = exp(ratio), up to a constant (f-DPO, arXiv 2309.16240): (n,) -> (n,).

    Raises:
        ValueError: `kind` is none of `reverse_kl`, `forward_kl`, `js_divergence` and `alpha_divergence`.
    """
    if kind == "reverse_kl" or (kind == "alpha_divergence" and abs(alpha - 1.0) < 1e-6):
        return ratio
    if kind == "forward_kl":
        return 1 - torch.exp(-ratio)
    if kind == "js_divergence":
        return math.log(2) + F.logsigmoid(ratio)
    if kind == "alpha_divergence":
        largest = 11.0 if ratio.dtype == torch.float16 else 80.0
        return torch.expm1(((alpha - 1.0) * ratio.float()).clamp(max=largest)).to(ratio.dtype) / (alpha - 1.0)
    raise ValueError(f"unknown `f_divergence_type` {kind!r}")


def _exo(b: PairBatch) -> Tensor:
    log_p, log_q = F.logsigmoid(b.margin), F.logsigmoid(-b.margin)
    return log_p.exp() * (log_p - math.log1p(-b.smoothing)) + log_q.exp() * (log_q - math.log(b.smoothing))


def _nca(b: PairBatch) -> Tensor:
    chosen, rejected = b.beta * b.chosen_ratio, b.beta * b.rejected_ratio
    return sigmoid_loss(chosen) + 0.5 * sigmoid_loss(-chosen) + 0.5 * sigmoid_loss(-rejected)


def _aot(first: Tensor, second: Tensor, b: PairBatch) -> Tensor:
    margin = b.beta * (first.sort().values - second.sort().values)
    return (1 - b.smoothing) * sigmoid_loss(margin) + b.smoothing * sigmoid_loss(-margin)


def _discopop(b: PairBatch) -> Tensor:
    share = torch.sigmoid(b.margin / b.tau)
    return (1 - share) * sigmoid_loss(b.margin) + share * torch.exp(-b.margin)


DPO_LOSSES: dict[str, Callable[[PairBatch], Tensor]] = {
    "sigmoid": lambda b: sigmoid_loss(b.margin),
    "hinge": lambda b: torch.relu(1 - b.margin),
    "ipo": lambda b: (b.mean_margin - 1 / (2 * b.beta)) ** 2,
    "exo_pair": _exo,
    "nca_pair": _nca,
    "robust": lambda b: rdpo_loss(b.margin, b.smoothing),
    "bco_pair": lambda b: sigmoid_loss(b.beta * b.chosen_ratio) + sigmoid_loss(-b.beta * b.rejected_ratio),
    "sppo_hard": lambda b: (b.chosen_ratio - 0.5 / b.beta) ** 2 + (b.rejected_ratio + 0.5 / b.beta) ** 2,
    "aot": lambda b: _aot(b.chosen - b.rejected, (b.chosen - b.chosen_ratio) - (b.rejected - b.rejected_ratio), b),
    "aot_unpaired": lambda b: _aot(b.chosen_ratio, b.rejected_ratio, b),
    "apo_zero": lambda b: torch.sigmoid(-b.beta * b.chosen_ratio) + torch.sigmoid(b.beta * b.rejected_ratio),
    "apo_down": lambda b: (
        torch.sigmoid(b.beta * b.chosen_ratio) + torch.sigmoid(-b.beta * (b.chosen_ratio - b.rejected_ratio))
    ),
    "discopop": _discopop,
    # The batch's mean over tokens, told apart by pair: the mean over pairs is that mean.
    "sft": lambda b: b.chosen_nll * len(b.chosen_nll) / b.chosen_predicted.sum(),
    "sigmoid_norm": lambda b: sigmoid_loss(b.beta * b.mean_margin),
}
