"""Diagnostics of a completion study, from the answers that evaluation left, and what it kept of their probabilities:
no further forward pass."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from trl_weaks.labelling.sources.tables import same_text
from trl_weaks.metrics.blind_spots import confidence_spread
from trl_weaks.metrics.calibration import brier_score, expected_calibration_error
from trl_weaks.metrics.distances import pairwise_word_distance
from trl_weaks.metrics.selective import area_under_risk, coverage_risk_curve
from trl_weaks.study.pipeline.predictions import CONFIDENCES
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.diagnostics.base import Diagnostics

Kept = Mapping[str, Sequence[Sequence[Mapping[str, Any]] | None]]  # system -> per seed its rows, as they are read

NOT_KEPT = "evaluation keeps the probabilities of the words that were said, and of no others"
MISSING = {
    "misfits and their bounds": f"{NOT_KEPT}; the word distance stands for them, without a bound",
    "kernel score": "evaluation generates and keeps no hidden states; `trl-weaks preflight` measures it",
    "CAPA": "it is defined for classes",
    "blind-spot share": "it is defined for classes",
    "vacuity": NOT_KEPT,
}


def completion_diagnostics(
    runs: Sequence[SeedRun], answers: Mapping[str, Sequence[Sequence[str]]], kept: Kept, gold: Sequence[Sequence[str]]
) -> Diagnostics:
    """How far every student's answers to the test prompts are from those of the supervisors it learnt from.

    The word distance, 1 for nothing in common, is *ours* in the place of misfit: nobody has proved a bound for it.

    Args:
        answers: system -> per seed its answers to the test split.
        kept: the same of [`~trl_weaks.study.pipeline.predictions.read_confidences`]; what was evaluated before
            confidences were kept has none, and is named.
        gold: per seed the gold answers.
    """
    missing = dict(MISSING)
    names = runs[0].config.supervisor_names
    given = dict(zip(names, runs[0].config.weak_weights or [1.0] * len(names), strict=True))
    methods = {}
    for method in runs[0].methods:
        own = list(method.supervisors) or names
        weights = np.array([given[name] for name in own]) / sum(given[name] for name in own)
        entry: dict[str, Any] = {"word_distance": [], "disagreement": []}
        for seed in range(len(runs)):
            said = answers[method.name][seed]
            by_weak = [answers[name][seed] for name in own]
            apart = [pairwise_word_distance([said, other])[0][1] for other in by_weak]
            differ = [np.mean([not same_text(a, b) for a, b in zip(said, other, strict=True)]) for other in by_weak]
            entry["word_distance"].append(float(weights @ apart))
            entry["disagreement"].append(float(weights @ differ))
        without = [name for name in (method.name, *own) if None in kept[name]]
        if without:
            missing["confidence of the answers"] = (
                f"evaluation kept none of {without[0]}'s, as before it did so; remove the folders in `predictions` "
                f"that have no `{CONFIDENCES}`, and they are evaluated again"
            )
        else:
            entry |= _spread(kept[method.name], [kept[name] for name in own], weights)
            entry["answers"] = own_answers(kept[method.name], answers[method.name], gold)
        methods[method.name] = entry
    tables = np.mean([pairwise_word_distance([answers[name][seed] for name in names]) for seed in range(len(runs))], 0)
    pairs = [
        {"first": first, "second": names[j], "word_distance": float(tables[i][j])}
        for i, first in enumerate(names)
        for j in range(i + 1, len(names))
    ]
    return Diagnostics(methods, {"pairs": pairs}, missing)


def _confidences(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Geometric mean of the probabilities of an answer's tokens, its end included; NaN where nothing was read."""
    return np.exp(np.array([row["mean_logp"] for row in rows], dtype=float))


def _spread(student: Sequence[Any], supervisors: Sequence[Sequence[Any]], weights: np.ndarray) -> dict[str, Any]:
    """Of a student's confidence in its own answers, and with the mean of its supervisors' in theirs (*ours*: the
    source has one score of one answer)."""
    found: dict[str, list[float]] = {"confidence_variance": [], "confidence_covariance": []}
    for seed, rows in enumerate(student):
        own, theirs = _confidences(rows), weights @ np.stack([_confidences(one[seed]) for one in supervisors])
        read = np.isfinite(own) & np.isfinite(theirs)
        spread = confidence_spread(own[read], theirs[read]) if read.any() else (np.nan, np.nan)
        for name, value in zip(found, spread, strict=True):
            found[name].append(value)
    return found


def own_answers(
    kept: Sequence[Any], answers: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Whether a student knows when it is wrong, per seed; NaN where there is nothing to say it of.

    Of words, right where the gold answer has the word there (as in `words_right`): `word_ece`, `word_brier`,
    `word_confidence`, `word_accuracy`. Of whole answers, wrong where they are not the gold text: `wrong`,
    `wrong_surer_half` (of the half that it is surest of), `area_under_risk`.
    """
    found: dict[str, list[float]] = {}
    for rows, said, wanted in zip(kept, answers, gold, strict=True):
        sure, right = [], []
        for row, text, truth in zip(rows, said, wanted, strict=True):
            if row["word_logps"] is not None:
                sure += np.exp(row["word_logps"]).clip(max=1).tolist()
                right += words_right(re.findall(r"\S+", text), truth)
        told = dict.fromkeys(("word_ece", "word_brier", "word_confidence", "word_accuracy"), np.nan)
        if sure:
            measured = expected_calibration_error(sure, right), brier_score(sure, right), np.mean(sure), np.mean(right)
            told = dict(zip(told, map(float, measured), strict=True))
        for name, value in (told | _whole(_confidences(rows), said, wanted)).items():
            found.setdefault(name, []).append(value)
    return found


def _whole(sure: np.ndarray, said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    right = np.array([one.strip() == other.strip() for one, other in zip(said, wanted, strict=True)])
    read = np.isfinite(sure)
    if not read.any():
        return {"wrong": float(1 - right.mean()), "wrong_surer_half": np.nan, "area_under_risk": np.nan}
    curve = coverage_risk_curve(sure[read], right[read])
    half = next(i for i, share in enumerate(curve["coverage"]) if share >= 0.5)
    return {
        "wrong": float(1 - right.mean()),
        "wrong_surer_half": curve["risk"][half],
        "area_under_risk": area_under_risk(sure[read], right[read]),
    }


def words_right(words: Sequence[str], gold: str) -> list[bool]:
    """Which words the gold answer has there, by a longest-common-subsequence alignment of the two."""
    blocks = SequenceMatcher(None, words, gold.split(), autojunk=False).get_matching_blocks()
    right = {i for block in blocks for i in range(block.a, block.a + block.size)}
    return [i in right for i in range(len(words))]
