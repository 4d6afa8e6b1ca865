"""The weak ensemble as a reward function for on-policy training, with a canary that never rewards. *ours*"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ..supervisors.ensemble import WeakEnsemble, same_reader
from ..supervisors.reading.messages import Completion, Prompt, is_messages
from ..supervisors.supervisor import WeakSupervisor

logger = logging.getLogger(__name__)


class WeakEnsembleReward:
    """Joint score of each completion (Eq. 6 of arXiv 2406.03199, nats per token), for `reward_funcs` of GRPO and RLOO.

    A completion that the ensemble cannot judge is rewarded with None, which TRL leaves out, and stops nothing: one
    that does not fit the context of a supervisor together with its prompt, calls tools, has no text (`content: None`)
    or content blocks, or answers such a prompt. They are counted by reason in `unscored`, named in the log, and their
    share is the metric `weak_ensemble/unscored`.

    The canary is a supervisor held out of the ensemble: it reads every completion and rewards none. A student that
    gets better pleases both; one that has learnt what the ensemble mistakes for good pleases only the ensemble.
    At every call three more numbers go to the trainer's log (where it offers `log_metric`, as TRL does) and `history`:

    - `canary/score`: its mean score, nats per token;
    - `canary/agreement`: share of pairs of different completions of one prompt that it orders as the reward does (ties
      of either count one half; left out where no prompt has two different completions);
    - `canary/divergence`: how far reward and canary have come apart since the first call, the gain in mean reward
      minus the gain in the canary's mean score. Rising while the reward rises: stop, the ensemble is being hacked.

    Args:
        ensemble: rewards.
        canary: held out; None reports nothing about itself.

    Raises:
        ValueError: the canary is a member of the ensemble.
    """

    def __init__(self, ensemble: WeakEnsemble, canary: WeakSupervisor | None = None):
        inside = canary is not None and (
            canary.name in ensemble.names or any(same_reader(canary, s) for s in ensemble.supervisors)
        )
        if inside:
            raise ValueError(
                f"the canary {canary.name!r} is in the ensemble: hold out a supervisor that never rewards."
            )
        self.__name__ = "weak_ensemble"  # TRL logs rewards under this name
        self.ensemble = ensemble
        self.canary = canary
        self.history: list[dict[str, float]] = []
        self.unscored: Counter[str] = Counter()

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], object] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward for each completion, or None; the dataset's other columns are not looked at.

        Raises:
            ValueError: a supervisor without a chat template for messages, or that gives what is not finite.
        """
        members = [*self.ensemble.supervisors, *([self.canary] if self.canary else [])]
        readable = _readable(prompts, completions, members)
        asked = [i for i, reason in enumerate(readable) if reason is None]
        rows = [prompts[i] for i in asked], [completions[i] for i in asked], [f"completion {i}" for i in asked]
        by_supervisor = [supervisor.score_fitting(*rows) for supervisor in members]
        rewards: list[float | None] = [None] * len(prompts)
        scores = dict.fromkeys(range(len(prompts)))
        for i, row in zip(asked, zip(*by_supervisor, strict=True), strict=True):
            judges = row[: len(self.ensemble.supervisors)]
            long = [s.name for s, reading in zip(self.ensemble.supervisors, judges, strict=True) if reading is None]
            readable[i] = f"it is too long for the context of {long[0]!r}" if long else None
            rewards[i] = None if long else self.ensemble.combine(judges)
            scores[i] = row[-1].mean_logp if self.canary and row[-1] is not None else None
        report = {"weak_ensemble/unscored": self._count(readable)}
        seen = [i for i in range(len(prompts)) if rewards[i] is not None and scores[i] is not None]
        if seen:
            report |= self._watch(*([values[i] for i in seen] for values in (prompts, completions, rewards, scores)))
        if self.canary is not None:
            self.history.append(report)
        if log_metric is not None:
            for name, value in report.items():
                if name != "reward":
                    log_metric(name, value)
        return rewards

    def _count(self, reasons: Sequence[str | None]) -> float:
        """The share of completions without a reward; a reason is logged when it comes up first."""
        for i, reason in enumerate(reasons):
            if reason is not None:
                kind = reason.partition(":")[0]
                if kind not in self.unscored:
                    logger.warning("completion %d has no reward: %s. More of them are only counted.", i, reason)
                self.unscored[kind] += 1
        return sum(reason is not None for reason in reasons) / max(1, len(reasons))

    def _watch(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        rewards: Sequence[float],
        scores: Sequence[float],
    ) -> dict[str, float]:
        report = {"reward": fmean(rewards), "canary/score": fmean(scores)}
        first = next((earlier for earlier in self.history if "reward" in earlier), report)
        gains = [report[name] - first[name] for name in ("reward", "canary/score")]
        report["canary/divergence"] = gains[0] - gains[1]
        share = agreement(prompts, completions, rewards, scores)
        if not math.isnan(share):
            report["canary/agreement"] = share
        return report


def _readable(
    prompts: Sequence[Prompt], completions: Sequence[Completion], supervisors: Sequence[WeakSupervisor]
) -> list[str | None]:
    """Why a completion cannot be judged, each; None where it can."""
    known: dict[str, str | None] = {}
    reasons = []
    for prompt, completion in zip(prompts, completions, strict=True):
        key = repr(prompt)
        if key not in known:
            known[key] = _unfit(prompt, supervisors)
        reasons.append(_unread(completion) or known[key])
    return reasons


def _unread(completion: Completion) -> str | None:
    if isinstance(completion, str):
        return None
    if not is_messages(completion) or len(completion) != 1 or completion[0]["role"] != "assistant":
        return "it is not one message of the assistant"
    (message,) = completion
    if message.get("tool_calls"):
        return "it calls tools"
    return None if isinstance(message["content"], str) else "its content is not a text"


def _unfit(prompt: Prompt, supervisors: Sequence[WeakSupervisor]) -> str | None:
    if not isinstance(prompt, str):
        if not is_messages(prompt) or not all(isinstance(message["content"], str) for message in prompt):
            return "the content of its prompt is not a text"
    for supervisor in supervisors:
        if isinstance(prompt, str) or supervisor.tokenizer.chat_template:
            try:
                supervisor.encode([prompt], ["its prompt"])
            except ValueError as error:
                return f"{supervisor.name!r} cannot read its prompt: {error}"
    return None


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
