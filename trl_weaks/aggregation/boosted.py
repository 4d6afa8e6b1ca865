"""Weights of supervisors as boosting gives them: each for what those before it get wrong."""

import numpy as np

from ..metrics.agreement import right
from .base import NotComputable, checked_votes


def boosted_weights(votes: np.ndarray, gold: np.ndarray) -> np.ndarray:
    r"""
    Weights `(supervisors,)` that sum to 1, from votes on rows with gold; after EnsemW2S (arXiv 2505.21959).

    There AdaBoost trains the same small model anew in every round. Here the supervisors are given (*ours*): each round
    takes, of those not yet taken, the one with least weighted error $e$, and

    $$\alpha = \log\frac{1 - e}{e} + \log(K - 1), \qquad d_r \leftarrow d_r\, e^{\alpha [\hat y_r \ne y_r]}$$

    with row weights $d$ normalised anew (SAMME, Zhu et al., 2009, which is AdaBoost where K = 2). It ends where the
    best $\alpha$ is not above 0; who is left gets weight 0. They report up to 3.2 points for students. An error is
    kept within 1 / 2n of 0 and 1, and of equal errors the first supervisor is taken (*ours*).

    Args:
        votes: `(rows, supervisors, K)`; of classes that tie, a supervisor is wrong in part.
        gold: `(rows,)` class ids.

    Raises:
        ValueError: votes that are none or lack one, or gold that is no class of a row (named).
        NotComputable: no supervisor is better than chance.

    Example:

    >>> gold, poor = np.array([0, 1, 0, 1, 1]), np.array([1, 0, 1, 1, 1])
    >>> boosted_weights(np.eye(2)[np.stack([gold, poor], 1)], gold)
    array([1., 0.])
    """
    votes, _ = checked_votes(votes, None)
    gold = np.asarray(gold)
    if gold.shape != votes.shape[:1]:
        raise ValueError(f"gold {gold.shape} for {len(votes)} rows of votes; give one class for each.")
    bad = ~np.isin(gold, np.arange(votes.shape[2]))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"row {row}: gold {gold[row]} is none of the {votes.shape[2]} classes, 0 first.")
    missing = np.isnan(votes).any((1, 2))
    if missing.any():
        raise ValueError(f"row {int(missing.argmax())}: a supervisor gave no vote, and is neither right nor wrong.")
    wrong: np.ndarray = 1 - right(votes, gold[:, None])
    rows, found, left = np.full(len(gold), 1 / len(gold)), np.zeros(votes.shape[1]), list(range(votes.shape[1]))
    while left:
        errors = (rows @ wrong).clip(1 / (2 * len(gold)), 1 - 1 / (2 * len(gold)))
        best = min(left, key=lambda one: round(errors[one], 12))
        alpha = np.log(1 / errors[best] - 1) + np.log(max(votes.shape[2] - 1, 1))
        if alpha <= 1e-9:
            break
        left.remove(best)
        found[best] = alpha
        rows = rows * np.exp(alpha * wrong[:, best])
        rows = rows / rows.sum()
    if not found.any():
        raise NotComputable("no supervisor is better than chance on the rows with gold; there is nothing to boost.")
    return found / found.sum()
