"""Diagnostics of a completion study, from the answers that evaluation left: no further forward pass."""

from collections.abc import Mapping, Sequence

import numpy as np

from trl_weaks.metrics.distances import pairwise_word_distance
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.diagnostics.base import Diagnostics

NOT_KEPT = "evaluation keeps the answers, not the probabilities of their tokens"
MISSING = {
    "misfits and their bounds": f"{NOT_KEPT}; the word distance stands for them, without a bound",
    "kernel score": "evaluation generates and keeps no hidden states; `trl-weaks preflight` measures it",
    "CAPA": "it is defined for classes",
    "blind-spot share, variance of confidence": NOT_KEPT,
    "vacuity": NOT_KEPT,
}


def completion_diagnostics(runs: Sequence[SeedRun], answers: Mapping[str, Sequence[Sequence[str]]]) -> Diagnostics:
    """How far every student's answers to the test prompts are from those of the supervisors it learnt from.

    The word distance, 1 for nothing in common, is *ours* in the place of misfit: nobody has proved a bound for it.

    Args:
        answers: system -> per seed its answers to the test split.
    """
    names = runs[0].config.supervisor_names
    given = dict(zip(names, runs[0].config.weak_weights or [1.0] * len(names), strict=True))
    methods = {}
    for method in runs[0].methods:
        own = list(method.supervisors) or names
        weights = np.array([given[name] for name in own]) / sum(given[name] for name in own)
        entry: dict[str, list[float]] = {"word_distance": [], "disagreement": []}
        for seed in range(len(runs)):
            said = answers[method.name][seed]
            by_weak = [answers[name][seed] for name in own]
            apart = [pairwise_word_distance([said, other])[0][1] for other in by_weak]
            differ = [np.mean([a != b for a, b in zip(said, other, strict=True)]) for other in by_weak]
            entry["word_distance"].append(float(weights @ apart))
            entry["disagreement"].append(float(weights @ differ))
        methods[method.name] = entry
    tables = np.mean([pairwise_word_distance([answers[name][seed] for name in names]) for seed in range(len(runs))], 0)
    pairs = [
        {"first": first, "second": names[j], "word_distance": float(tables[i][j])}
        for i, first in enumerate(names)
        for j in range(i + 1, len(names))
    ]
    return Diagnostics(methods, {"pairs": pairs}, MISSING)
