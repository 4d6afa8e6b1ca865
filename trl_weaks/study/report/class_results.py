"""Every evaluated system with its per-seed numbers, from the predictions on disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from trl_weaks.labelling.label_classes import TEMPERATURES
from trl_weaks.metrics.agreement import label_agreement, right
from trl_weaks.metrics.calibration import brier_score, expected_calibration_error
from trl_weaks.metrics.significance import mcnemar_exact
from trl_weaks.pooling import pairwise_disagreement, temper
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.class_scores import auroc, dawid_skene, vote_probabilities
from trl_weaks.study.tasks.checks import label_index

VOTES = ("mean_vote", "majority_vote")
DAWID_SKENE = "dawid_skene"
CALIBRATED = (
    "Temperatures were fitted on the validation split; votes on half B and the supervisors' answers to the test "
    "examples are read with them."
)


@dataclass(frozen=True)
class Predictions:
    """Per system: (seeds, rows, K) probabilities and, where there is evidence, (seeds, rows) vacuity."""

    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    vacuity: dict[str, np.ndarray]

    def stated(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each predicted class and whether it is right (in part where classes tie), over all seeds."""
        table = self.probabilities[name]
        return table.max(-1).ravel(), right(table, self.labels).ravel()


def collect(runs: Sequence[SeedRun]) -> Predictions:
    """Predictions of every system, those of the votes themselves included; of supervisors whose labels are calibrated,
    calibrated as these are.

    Raises:
        ValueError: predictions that are not those of the test rows.
    """
    config, task = runs[0].config, runs[0].task
    gold = np.array([label_index(task, example) for example in runs[0].splits.test])
    ids = [example.id for example in runs[0].splits.test]
    probabilities, vacuity = {}, {}
    for name in runs[0].systems:
        rows = [read_predictions(run.systems[name].folder, ids) for run in runs]
        probabilities[name] = np.array([[row["probabilities"] for row in found] for found in rows])
        if config.calibrate and name in config.supervisor_names:
            probabilities[name] = np.stack(
                [_calibrated(run, name, seed) for run, seed in zip(runs, probabilities[name], strict=True)]
            )
        if rows[0][0]["vacuity"] is not None:
            vacuity[name] = np.array([[row["vacuity"] for row in found] for found in rows])
    votes = np.stack([probabilities[name] for name in config.supervisor_names], axis=2)  # (seeds, rows, N, K)
    for kind in VOTES:
        probabilities[kind] = np.stack([vote_probabilities(seed, config.weak_weights, kind) for seed in votes])
    probabilities[DAWID_SKENE] = np.stack([dawid_skene(seed) for seed in votes])
    return Predictions(gold, probabilities, vacuity)


def _calibrated(run: SeedRun, name: str, table: np.ndarray) -> np.ndarray:
    """(rows, K) answers of a supervisor at the temperature with which it labelled half B."""
    fitted = json.loads((run.labels_folder / TEMPERATURES).read_text(encoding="utf-8"))
    return temper(torch.as_tensor(table), fitted[name]).numpy()


def extra_scores(found: Predictions, name: str) -> dict[str, float | None]:
    """Scores beside accuracy, as columns of the report."""
    table = found.probabilities[name]
    areas = [auroc(seed, found.labels) for seed in table]
    extra = {
        "AUROC": None if None in areas else float(np.mean(areas)),
        "ECE": expected_calibration_error(*found.stated(name)),
        "Brier_score": float(
            np.mean([brier_score(seed / seed.sum(-1, keepdims=True), found.labels) for seed in table])
        ),
    }
    if name in found.vacuity:
        extra["mean_vacuity"] = float(found.vacuity[name].mean())
    return extra


def agreement(found: Predictions, supervisors: Sequence[str]) -> dict[str, Any]:
    """How often the supervisors choose the same class on the test texts, over all seeds."""
    if len(supervisors) < 2:
        return {}
    return label_agreement({name: found.probabilities[name].argmax(-1).ravel().tolist() for name in supervisors})


def compare(found: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    """McNemar's exact test of every pair of systems, seed by seed: the seeds share their test texts.

    A text on which the right class ties in one of the two is out: it is neither right nor wrong there.
    """
    hits = {name: right(found.probabilities[name], found.labels) for name in names}
    pairs = []
    for first, second in combinations(names, 2):
        tests = []
        for pair in zip(hits[first], hits[second], strict=True):
            clear = np.isin(pair, (0, 1)).all(axis=0)
            tests.append(mcnemar_exact(*(one[clear] for one in pair)))
        pairs.append({"first": first, "second": second, "seeds": tests})
    return pairs


def disagreement(found: Predictions, supervisors: Sequence[str]) -> np.ndarray:
    """(seeds, rows) mean pairwise total variation distance of the supervisors' votes."""
    votes = np.stack([found.probabilities[name] for name in supervisors], axis=2)
    return pairwise_disagreement(torch.as_tensor(votes)).numpy()


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one side is constant."""
    ranks = [rankdata(values) for values in (first, second)]
    if any(np.ptp(r) == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def vacuity_and_disagreement(found: Predictions, supervisors: Sequence[str]) -> Mapping[str, float]:
    """Rank correlation, over all seeds, of each evidential student's vacuity with its supervisors' disagreement."""
    gaps = disagreement(found, supervisors).ravel()
    return {name: rank_correlation(gaps, values.ravel()) for name, values in found.vacuity.items()}
