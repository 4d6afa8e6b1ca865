"""Numbers logged during preference training: those of `DPOTrainer`, and those of weak pairs."""

from accelerate import Accelerator
from torch import Tensor

from ..losses.preference import optimum_margin


def _ratio(accelerator: Accelerator, numerator: Tensor, denominator: Tensor) -> float:
    """Sum over all ranks of one scalar per rank, divided by the other; 0 where there is nothing to divide by."""
    numerator, denominator = accelerator.gather_for_metrics((numerator, denominator))
    return (numerator.sum() / denominator.sum()).item() if denominator.sum() > 0 else 0.0


def token_metrics(accelerator: Accelerator, outputs: object, mask: Tensor) -> dict[str, float]:
    """Entropy, mean logits and accuracy over the supervised tokens; `mask` (2n, L), chosen rows first."""
    length = mask.size(1)  # prompt-learning PEFT prepends virtual tokens to the outputs
    entropy, logits, is_top1 = (
        field[:, -length:].detach() for field in (outputs.entropy, outputs.mean_logits, outputs.is_top1)
    )
    chosen, rejected = (half.bool() for half in mask.chunk(2))
    chosen_logits, rejected_logits = logits.chunk(2)
    return {
        "entropy": _ratio(accelerator, (entropy * mask).sum(), mask.sum()),
        "logits/chosen": _ratio(accelerator, chosen_logits[chosen].sum(), chosen.sum()),
        "logits/rejected": _ratio(accelerator, rejected_logits[rejected].sum(), rejected.sum()),
        "mean_token_accuracy": _ratio(accelerator, (is_top1.chunk(2)[0].bool() & chosen).sum(), chosen.sum()),
    }


def reward_metrics(
    accelerator: Accelerator, beta: float, chosen_logps: Tensor, rejected_logps: Tensor, ratios: tuple[Tensor, Tensor]
) -> dict[str, float]:
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
    return {name: accelerator.gather(value).mean().item() for name, value in values.items()}


def epsilon_metrics(accelerator: Accelerator, name: str, epsilon: Tensor, beta: float) -> dict[str, float]:
    """Mean flip probability (n,) and, for cDPO, the mean log-ratio margin (nats) at which its pairs come to rest."""
    epsilon = accelerator.gather(epsilon)
    metrics = {"weak/epsilon": epsilon.mean().item()}
    doubted = epsilon[epsilon > 0]  # a pair without doubt has its optimum at infinity
    if name == "cdpo" and doubted.numel():
        metrics["weak/optimum_margin"] = optimum_margin(doubted.double(), beta).mean().item()
    return metrics


class EffectivePairs:
    """
    Kish's effective number of pairs, (sum u)^2 / sum u^2, since it was last read.

    u is a pair's initial pull, weight * (1 - 2 epsilon): the slope of cDPO at margin 0 relative to a certain pair of
    weight 1. Equal pulls give the number of pairs; one pair that outweighs all others gives 1.
    """

    def __init__(self):
        self._sum = self._sum_of_squares = 0.0

    def add(self, accelerator: Accelerator, pull: Tensor) -> None:
        """Adds the pulls (n,) of this batch on every rank."""
        pull = accelerator.gather(pull).double()
        self._sum += pull.sum().item()
        self._sum_of_squares += pull.square().sum().item()

    def read(self) -> float | None:
        """The number, or None where no pair pulled; starts again from nothing."""
        total, squares = self._sum, self._sum_of_squares
        self._sum = self._sum_of_squares = 0.0
        return total**2 / squares if squares > 0 else None


def total_tokens(accelerator: Accelerator, attention_mask: Tensor) -> int:
    """Tokens of this batch over all ranks."""
    return accelerator.gather_for_metrics(attention_mask.sum()).sum().item()
