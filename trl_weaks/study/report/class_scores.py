"""Scores of class probabilities beside accuracy, and the votes as classifiers of their own."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from trl_weaks.aggregation import aggregate
from trl_weaks.metrics.agreement import top_shares
from trl_weaks.pooling import linear_pool, majority_vote


def auroc(probabilities: np.ndarray, labels: Sequence[int]) -> float | None:
    """Area under the ROC curve, (n, K) and (n,): the chance that a positive outranks a negative, ties counting half.

    Two classes: of class 1. More: the mean over the classes, one against the rest, of those with both kinds of rows.
    None where no class has both.
    """
    probabilities, gold = np.asarray(probabilities, dtype=float), np.asarray(labels)
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [_area(probabilities[:, k], gold == k) for k in classes if 0 < (gold == k).sum() < len(gold)]
    return float(np.mean(areas)) if areas else None


def _area(scores: np.ndarray, positive: np.ndarray) -> float:
    # the p-value is not asked for: "asymptotic" spares the exact null distribution
    found = mannwhitneyu(scores[positive], scores[~positive], method="asymptotic")
    return float(found.statistic / (positive.sum() * (~positive).sum()))


def vote_probabilities(votes: np.ndarray, weights: Sequence[float] | None, kind: str) -> np.ndarray:
    """Pool the supervisors' probabilities, (n, N, K) -> (n, K): `mean_vote` or `majority_vote`."""
    pool = {"mean_vote": linear_pool, "majority_vote": majority_vote}[kind]
    return pool(torch.as_tensor(votes), None if weights is None else torch.tensor(weights)).numpy()


def dawid_skene(votes: np.ndarray) -> np.ndarray:
    """Dawid and Skene's estimate (1979) from the supervisors' hard votes on these rows, (n, N, K) -> (n, K)."""
    hard = top_shares(votes)
    return hard[:, 0] if hard.shape[1] == 1 else aggregate("dawid_skene", hard)
