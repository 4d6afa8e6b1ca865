"""The weak ensemble as a reward function for on-policy training, with a canary that never rewards. *ours*"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.messages import Completion, Prompt
from ..supervisors.supervisor import WeakSupervisor


class WeakEnsembleReward:
    """Joint score of each completion (Eq. 6 of arXiv 2406.03199, nats per token), for `reward_funcs` of GRPO and RLOO.

    The canary is a supervisor held out of the ensemble: it reads every completion and rewards none. A student that
    gets better pleases both; one that has learnt what the ensemble mistakes for good pleases only the ensemble.
    At every call three numbers go to the trainer's log (where it offers `log_metric`, as TRL does) and to `history`:

    - `canary/score`: its mean score, nats per token;
    - `canary/agreement`: share of pairs of different completions of one prompt that it orders as the reward does (ties
      of either count one half; left out where no prompt has two different completions);
    - `canary/divergence`: how far reward and canary have come apart since the first call, the gain in mean reward
      minus the gain in the canary's mean score. Rising while the reward rises: stop, the ensemble is being hacked.

    Args:
        ensemble: rewards.
        canary: held out; None reports nothing.

    Raises:
        ValueError: the canary is a member of the ensemble.
    """

    def __init__(self, ensemble: WeakEnsemble, canary: WeakSupervisor | None = None):
        inside = canary is not None and (
            canary.name in ensemble.names or any(canary.model is s.model for s in ensemble.supervisors)
        )
        if inside:
            raise ValueError(
                f"the canary {canary.name!r} is in the ensemble: hold out a supervisor that never rewards."
            )
        self.__name__ = "weak_ensemble"  # TRL logs rewards under this name
        self.ensemble = ensemble
        self.canary = canary
        self.history: list[dict[str, float]] = []

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], object] | None = None,
        **columns: Any,
    ) -> list[float]:
        """One reward for each completion; the dataset's other columns are not looked at."""
        rewards = self.ensemble.score(prompts, completions)
        if self.canary is not None:
            scores = [reading.mean_logp for reading in self.canary.score(prompts, completions)]
            report = self._watch(prompts, completions, rewards, scores)
            self.history.append(report)
            if log_metric is not None:
                for name, value in report.items():
                    if name != "reward":
                        log_metric(name, value)
        return rewards

    def _watch(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        rewards: Sequence[float],
        scores: Sequence[float],
    ) -> dict[str, float]:
        report = {"reward": fmean(rewards), "canary/score": fmean(scores)}
        first = self.history[0] if self.history else report
        gains = [report[name] - first[name] for name in ("reward", "canary/score")]
        report["canary/divergence"] = gains[0] - gains[1]
        share = agreement(prompts, completions, rewards, scores)
        if not math.isnan(share):
            report["canary/agreement"] = share
        return report


def agreement(
    prompts: Sequence[Prompt], completions: Sequence[Completion], rewards: Sequence[float], scores: Sequence[float]
) -> float:
    """Share of pairs of different completions of one prompt that both scores order alike; ties count one half.

    NaN where no prompt has two different completions.
    """
    groups: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for prompt, completion, reward, score in zip(prompts, completions, rewards, scores, strict=True):
        groups[repr(prompt)][repr(completion)] = (reward, score)
    alike = total = 0.0
    for group in groups.values():
        values = list(group.values())
        for i, (reward, score) in enumerate(values):
            for other_reward, other_score in values[:i]:
                product = (reward - other_reward) * (score - other_score)
                alike += 0.5 if product == 0 else float(product > 0)
                total += 1
    return alike / total if total else math.nan
