"""Diagnostics of a classification study, from the predictions and states that evaluation left: no model runs again."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trl_weaks.metrics.agreement import right, top_shares
from trl_weaks.metrics.blind_spots import blind_spot_intervals, blind_spot_share, confidence_spread
from trl_weaks.metrics.chance_corrected import capa
from trl_weaks.metrics.gain_bounds import misfit, misfit_bound, reverse_kl_misfit
from trl_weaks.metrics.kernels import principal_kernel, unseen
from trl_weaks.study.annotators import ANNOTATORS
from trl_weaks.study.pipeline.predictions import read_states
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.class_results import Predictions
from trl_weaks.study.report.diagnostics.base import Diagnostics

FLOOR = 1e-3  # least probability of the supervisors in a gain measured in nats, as in `reverse_kl_misfit`


def class_diagnostics(runs: Sequence[SeedRun], found: Predictions) -> Diagnostics:
    """What the students' and their supervisors' answers to the test texts tell without gold, and beside it with gold.

    A student is held against the weighted mean vote of the supervisors it learnt from.
    """
    methods, missing = {}, {}
    kernels = [_Kernels(run) for run in runs]
    for method in runs[0].methods:
        if method.labels == ANNOTATORS:
            missing["students of simulated annotators"] = "these vote on half B alone, not on the test examples"
            continue
        own = list(method.supervisors) or runs[0].config.supervisor_names
        taught = np.stack([_mean_vote(runs[0], found, own, seed) for seed in range(len(runs))])
        entry = without_gold(_normalised(found.probabilities[method.name]), taught)
        if method.name in found.vacuity:
            entry["vacuity"] = found.vacuity[method.name].mean(1).tolist()
        scores = [one.score(method.name, own) for one in kernels]
        reasons = [score for score in scores if isinstance(score, str)]
        if reasons:
            missing["kernel score"] = reasons[0]
        else:
            entry["kernel_score"] = scores
        ceiling = _normalised(found.probabilities["ceiling"])
        entry |= with_gold(_normalised(found.probabilities[method.name]), taught, ceiling, found.labels)
        methods[method.name] = entry
    if not found.vacuity:
        missing["vacuity"] = "no student of this study is evidential"
    return Diagnostics(methods, committee(runs[0].config.supervisor_names, found), missing)


def without_gold(student: np.ndarray, taught: np.ndarray) -> dict[str, list[float]]:
    """Per seed, of (seeds, rows, K) probabilities: misfit, reverse-KL misfit, disagreement, confidence's spread."""
    entry: dict[str, list[float]] = {}
    for s, w in zip(student, taught, strict=True):
        spread = confidence_spread(_top(s), _top(w))
        told = {
            "misfit": misfit(s, w),
            "reverse_kl_misfit": reverse_kl_misfit(s, w),
            "disagreement": _unlike(s, w),
            "confidence_variance": spread.variance,
            "confidence_covariance": spread.covariance,
        }
        for name, value in told.items():
            entry.setdefault(name, []).append(value)
    return entry


def with_gold(student: np.ndarray, taught: np.ndarray, ceiling: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The same with gold: the misfit bound and what it bounds, realised gains, CAPA, blind spots."""
    entry: dict[str, Any] = {}
    gold, rows = np.eye(student.shape[-1])[labels], np.arange(len(labels))
    for s, w in zip(student, taught, strict=True):
        weak, own = misfit(w, gold), misfit(s, gold)
        floored = np.maximum(w, FLOOR)
        floored = floored / floored.sum(1, keepdims=True)
        nats = np.log(np.maximum(s[rows, labels], FLOOR)) - np.log(floored[rows, labels])
        told = {
            "weak_error": weak,
            "student_error_bound": misfit_bound(weak, misfit(s, w)),
            "student_error": own,
            "gain_squared_error": weak - own,
            "gain_nats": float(nats.mean()),
            "gain": float(right(s, labels).mean() - right(w, labels).mean()),
            "capa": capa(s, w, labels),
        }
        for name, value in told.items():
            entry.setdefault(name, []).append(value)
    return entry | {"blind_spots": _blind_spots(student, taught, ceiling, labels)}


def _blind_spots(student: np.ndarray, taught: np.ndarray, ceiling: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Over all seeds; a seed's blind spots are those of its own ceiling and supervisors."""
    ceiling = np.broadcast_to(ceiling, student.shape)
    before, after = ceiling.argmax(-1) == labels, student.argmax(-1) == labels
    found = blind_spot_share(before.ravel(), after.ravel(), _top(ceiling).ravel(), _top(taught).ravel())
    limits = blind_spot_intervals(before, after, _top(ceiling), _top(taught))
    return found._asdict() | {f"{name}_interval": list(value) for name, value in limits.items()}


def committee(supervisors: Sequence[str], found: Predictions) -> dict[str, Any]:
    """How unlike the supervisors are, pair by pair and on average over the seeds; CAPA needs gold."""
    pairs = []
    for i, first in enumerate(supervisors):
        for second in supervisors[i + 1 :]:
            a, b = (_normalised(found.probabilities[name]) for name in (first, second))
            similar = [capa(x, y, found.labels) for x, y in zip(a, b, strict=True)]
            pairs.append(
                {
                    "first": first,
                    "second": second,
                    "disagreement": _unlike(a, b),
                    "total_variation": float(np.abs(a - b).sum(-1).mean() / 2),
                    "capa": float(np.mean(similar)),
                }
            )
    return {"pairs": pairs}


class _Kernels:
    """The kernels of one seed's systems, each made once, when it is asked for; where there is none, why."""

    def __init__(self, run: SeedRun):
        self._run = run
        self._made: dict[str, np.ndarray | str] = {}

    def _of(self, name: str) -> np.ndarray | str:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> np.ndarray | str:
        states = read_states(self._run.systems[name].folder)
        if states is None:
            return f"{name} was evaluated before states were kept, or its head is no linear layer"
        try:
            return principal_kernel(states)
        except ValueError as error:
            return f"{name}: {str(error).rstrip('.')}"

    def score(self, student: str, supervisors: Sequence[str]) -> float | str:
        """Mean kernel score against the supervisors (the mean is *ours*)."""
        scores = []
        for name in supervisors:
            pair = [self._of(student), self._of(name)]
            for kernel in pair:
                if isinstance(kernel, str):
                    return kernel
            scores.append(unseen(*pair))
        return float(np.mean(scores))


def _mean_vote(run: SeedRun, found: Predictions, supervisors: Sequence[str], seed: int) -> np.ndarray:
    names = run.config.supervisor_names
    given: Mapping[str, float] = dict(zip(names, run.config.weak_weights or [1.0] * len(names), strict=True))
    weights = np.array([given[name] for name in supervisors])
    votes = np.stack([_normalised(found.probabilities[name][seed]) for name in supervisors])
    return np.tensordot(weights / weights.sum(), votes, 1)


def _unlike(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the rows on which two name different classes; of classes that tie, each in its part."""
    return float((1 - (top_shares(first) * top_shares(second)).sum(-1)).mean())


def _normalised(table: np.ndarray) -> np.ndarray:
    """Probabilities as written, which float32 rounded, summing to 1 again."""
    return table / table.sum(-1, keepdims=True)


def _top(table: np.ndarray) -> np.ndarray:
    return table.max(-1).clip(max=1.0)
