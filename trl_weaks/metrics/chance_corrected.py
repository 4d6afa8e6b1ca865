"""Agreement beyond chance, similarity of mistakes, and how many independent supervisors a committee is worth.

Votes are rows of class ids, one column per supervisor: an integer array (examples, supervisors), -1 where a supervisor
gave none. Where a vote may tie it is what counts for each class, (examples, supervisors, K), NaN for none, as
[`~metrics.agreement.top_shares`] gives it: numbers are then those expected of votes drawn from these shares.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

NONE = -1


def cohen_kappa(first: Any, second: Any) -> float:
    """Agreement of two supervisors beyond chance (Cohen, 1960), over the examples that both labelled.

    NaN where chance alone would make them agree (both always give one and the same class), or nothing is shared.

    Example:

    >>> cohen_kappa([0, 0, 1, 1], [0, 1, 1, 1])
    0.5
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim == 2 and a.shape == b.shape:
        both = ~(np.isnan(a) | np.isnan(b)).any(-1)
        a, b = a[both], b[both]
        return _beyond((a * b).sum(-1).mean(), a.mean(0) @ b.mean(0)) if len(a) else float("nan")
    a, b = a.astype(int), b.astype(int)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"votes of shapes {a.shape} and {b.shape}: give one class id per example for both.")
    both = (a != NONE) & (b != NONE)
    a, b = a[both], b[both]
    if not len(a):
        return float("nan")
    classes = np.union1d(a, b)
    expected = sum((a == k).mean() * (b == k).mean() for k in classes)
    return _beyond((a == b).mean(), expected)


def fleiss_kappa(votes: np.ndarray) -> float:
    """Agreement of any number of supervisors beyond chance (Fleiss, 1971).

    Args:
        votes: (examples, supervisors), or with shares. Every example that is used must have the same number of votes:
            examples with a gap are left out; Krippendorff's alpha uses them.
    """
    table, given, own = _counts(votes)
    raters = np.asarray(votes).shape[1]
    table, own = table[given == raters], own[given == raters]
    if not len(table) or raters < 2:
        return float("nan")
    observed = ((table**2).sum(1) - own) / (raters * (raters - 1))
    shares = table.sum(0) / table.sum()
    return _beyond(observed.mean(), (shares**2).sum())


def krippendorff_alpha(votes: np.ndarray) -> float:
    """Agreement beyond chance for nominal classes with gaps (Krippendorff, 2011).

    alpha = 1 - D_o / D_e; examples with fewer than two votes carry no information and are left out.

    Example:

    >>> krippendorff_alpha(np.array([[0, 0], [1, 1], [0, 1], [0, -1]]))
    0.4444444444444444
    """
    table, given, own = _counts(votes)
    paired = given >= 2
    if not paired.any():
        return float("nan")
    table, given, own = table[paired], given[paired], own[paired]
    total = given.sum()
    # pairs of two votes: all of them, less those that are alike; a vote makes no pair with itself
    pairs, alike = given * (given - 1), (table**2).sum(1) - own
    disagree = ((pairs - alike) / (given - 1)).sum() / total
    shares = table.sum(0)
    expected = (total * (total - 1) - ((shares**2).sum() - own.sum())) / (total * (total - 1))
    return float("nan") if expected == 0 else float(1 - disagree / expected)


def capa(first: np.ndarray, second: np.ndarray, gold: Sequence[int]) -> float:
    r"""Chance-adjusted probabilistic agreement of two classifiers (Goel et al., arXiv 2502.04313).

    $$\kappa_p = \frac{c_{obs} - c_{exp}}{1 - c_{exp}}, \quad c_{obs} = \overline{\textstyle\sum_k p_a p_b}, \quad
    c_{exp} = \bar p_a \bar p_b + \tfrac{1}{K - 1}(1 - \bar p_a)(1 - \bar p_b)$$

    with $\bar p$ the mean probability of the gold class. Supervisors that are wrong in the same places have a high
    value whatever their accuracy; a student gains most from supervisors unlike itself.

    Args:
        first, second: probabilities (n, K); one-hot for hard votes.
        gold: class ids, (n,).

    Raises:
        ValueError: unequal shapes, gold that is none of the classes, or values that are not finite (row named).
    """
    a, b, right = np.asarray(first, float), np.asarray(second, float), np.asarray(gold, int)
    if a.shape != b.shape or a.ndim != 2 or right.shape != a.shape[:1] or not len(a):
        raise ValueError(f"probabilities {a.shape} and {b.shape} with gold {right.shape}: give (n, K) twice and (n,).")
    rows, classes = np.arange(len(right)), a.shape[1]
    for bad, what in (
        ((right < 0) | (right >= classes), f"its gold is none of the {classes} classes; leave the row out"),
        (~(np.isfinite(a) & np.isfinite(b)).all(1), "its probabilities are not finite"),
    ):
        if bad.any():
            raise ValueError(f"row {int(bad.argmax())}: {what}.")
    right_a, right_b = a[rows, right].mean(), b[rows, right].mean()
    expected = right_a * right_b + (1 - right_a) * (1 - right_b) / (classes - 1)
    return _beyond((a * b).sum(1).mean(), expected)


def effective_supervisors(errors: np.ndarray) -> float:
    r"""How many supervisors with independent errors the committee is worth: $N^2 / \sum_{ij} r_{ij}$. *ours*

    r is the correlation of being wrong, over the examples that both labelled; N supervisors with independent errors
    count N, N copies of one count 1. Negative correlations count as 0, so the number never passes N. A supervisor that
    is always or never wrong has no correlation, and counts as independent.

    Args:
        errors: (examples, supervisors), 1 wrong, 0 right, NaN where there is no label.
    """
    errors = np.asarray(errors, dtype=float)
    count = errors.shape[1]
    correlation = np.eye(count)
    for i in range(count):
        for j in range(i):
            both = np.isfinite(errors[:, i]) & np.isfinite(errors[:, j])
            a, b = errors[both, i], errors[both, j]
            if len(a) > 1 and a.std() > 0 and b.std() > 0:
                correlation[i, j] = correlation[j, i] = max(0.0, float(np.corrcoef(a, b)[0, 1]))
    return float(count**2 / correlation.sum())


def _counts(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many supervisors gave each class (examples, classes) and any (examples,), and the votes' sums of squares."""
    votes = np.asarray(votes)
    if votes.ndim == 3:
        given = (~np.isnan(votes).any(-1)).sum(1)
        votes = np.nan_to_num(votes)
        return votes.sum(1), given, (votes**2).sum((1, 2))
    if votes.ndim != 2 or not np.issubdtype(votes.dtype, np.integer) or (votes < NONE).any():
        raise ValueError(f"votes {votes.shape} of {votes.dtype}: give class ids (examples, supervisors), -1 for none.")
    classes = np.unique(votes[votes != NONE])
    given = (votes != NONE).sum(1)
    return (votes[:, :, None] == classes).sum(1), given, given


def _beyond(observed: float, expected: float) -> float:
    left = 1.0 - expected  # one rare class in a million examples leaves a few 1e-6
    return float("nan") if left < 1e-12 else float((observed - expected) / left)
