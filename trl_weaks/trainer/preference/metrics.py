"""Numbers logged during preference training: those of `DPOTrainer`, and those of weak pairs."""

import torch
from accelerate import Accelerator
from torch import Tensor

from ...losses.preference import optimum_margin
from ..common.running_sums import Ratio


def token_metrics(outputs: object, mask: Tensor) -> dict[str, Ratio]:
    """Entropy, mean logits and accuracy over the supervised tokens, by pair; `mask` (2n, L), chosen rows first."""
    length = mask.size(1)  # prompt-learning PEFT prepends virtual tokens to the outputs
    entropy, logits, is_top1 = (
        (field[:, -length:].detach() * mask).sum(1)
        for field in (outputs.entropy, outputs.mean_logits, outputs.is_top1)
    )
    tokens = mask.sum(1)
    chosen, rejected = tokens.chunk(2)
    chosen_logits, rejected_logits = logits.chunk(2)
    return {
        "entropy": (sum(entropy.chunk(2)), chosen + rejected),
        "logits/chosen": (chosen_logits, chosen),
        "logits/rejected": (rejected_logits, rejected),
        "mean_token_accuracy": (is_top1.chunk(2)[0], chosen),
    }


def reward_metrics(
    beta: float, chosen_logps: Tensor, rejected_logps: Tensor, ratios: tuple[Tensor, Tensor]
) -> dict[str, Ratio]:
    """Rewards beta * log-ratio (n,) of chosen and rejected, their order and margin, and the policy's own (n,) nats."""
    chosen, rejected = (beta * ratio.detach() for ratio in ratios)
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "logps/chosen": chosen_logps.detach(),
        "logps/rejected": rejected_logps.detach(),
    }
    return {name: (value, torch.ones_like(value)) for name, value in values.items()}


def epsilon_metrics(name: str | None, epsilon: Tensor, beta: float) -> dict[str, Ratio]:
    """Mean flip probability (n,) and, for cDPO, the mean log-ratio margin (nats) at which its pairs come to rest."""
    metrics = {"weak/epsilon": (epsilon, torch.ones_like(epsilon))}
    if name == "cdpo":
        doubted = epsilon > 0  # a pair without doubt has its optimum at infinity
        optimum = optimum_margin(epsilon.double().where(doubted, torch.full_like(epsilon, 0.5).double()), beta)
        metrics["weak/optimum_margin"] = (optimum, doubted.float())
    return metrics


class EffectivePairs:
    """
    Kish's effective number of pairs, (sum u)^2 / sum u^2, since it was last read.

    u is a pair's weight * `initial_pull`: the slope of the loss at margin 0 relative to a certain pair of weight 1,
    for cDPO weight * (1 - 2 epsilon). Equal pulls give the number of pairs; one that outweighs all others gives 1.
    """

    def __init__(self):
        self._sum = self._sum_of_squares = 0.0

    def add(self, accelerator: Accelerator, pull: Tensor, drop_repeated: bool) -> None:
        """Adds the pulls (n,) of this batch on every rank; in evaluation without the pairs that a sampler repeats."""
        pull = (accelerator.gather_for_metrics if drop_repeated else accelerator.gather)(pull).double()
        self._sum += pull.sum().item()
        self._sum_of_squares += pull.square().sum().item()

    def read(self) -> float | None:
        """The number, or None where no pair pulled; starts again from nothing."""
        total, squares = self._sum, self._sum_of_squares
        self._sum = self._sum_of_squares = 0.0
        return total**2 / squares if squares > 0 else None


def total_tokens(accelerator: Accelerator, attention_mask: Tensor) -> int:
    """Tokens of this batch over all ranks, those of pairs that a sampler repeats among them: they are trained on."""
    return accelerator.reduce(attention_mask.sum(), "sum").item()
