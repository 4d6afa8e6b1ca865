"""How far a student stays from its weak supervisor, which bounds from below what it gains over it.

Probabilities are arrays (n, K): rows of a student and of the supervisor that taught it. No gold label is needed; the
bounds hold for a convex class of students that holds the truth, trained to the smallest misfit.
"""

import numpy as np
from numpy.typing import ArrayLike


def misfit(student: ArrayLike, weak: ArrayLike) -> float:
    r"""Mean squared distance of a student's probabilities from its supervisor's (arXiv 2405.15116).

    $$d(s, w) = \frac{1}{n} \sum_x \sum_k (s_k(x) - w_k(x))^2$$

    Raises:
        ValueError: no rows, unequal shapes, or values that are not finite.

    Example:

    >>> misfit([[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]])
    0.25
    """
    s, w = _rows(student, weak)
    return float(((s - w) ** 2).sum(1).mean())


def misfit_bound(weak_error: float, misfit: float) -> float:
    r"""Largest squared error that a student should have: $err(s) \le err(w) - d(s, w)$ (arXiv 2405.15116).

    `weak_error` is `misfit(weak, gold)` with one-hot gold. A negative bound says that the theorem's conditions (convex
    class, truth within it, smallest misfit) do not hold; it is given as it is.

    Raises:
        ValueError: a number that is negative or not finite.

    Example:

    >>> misfit_bound(0.5, 0.125)
    0.375
    """
    for name, value in (("weak_error", weak_error), ("misfit", misfit)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}: a mean squared distance is finite and not negative.")
    return float(weak_error - misfit)


def reverse_kl_misfit(student: ArrayLike, weak: ArrayLike, floor: float = 1e-3) -> float:
    r"""Mean Kullback-Leibler divergence of a student from its supervisor, in nats (after arXiv 2502.11107).

    $$\frac{1}{n} \sum_x \sum_k s_k(x) \log \frac{s_k(x)}{w_k(x)}$$

    Under the conditions above, with divergences from gold to a model as errors, the gain is at least this.

    Args:
        floor: least probability of the supervisor, normalised again (1e-3: *paper*, the bound of its labels).

    Raises:
        ValueError: as `misfit`; rows that are no probabilities, or a floor outside (0, 1).

    Example:

    >>> reverse_kl_misfit([[1.0, 0.0]], [[0.5, 0.5]])
    0.6931471805599453
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie in (0, 1), not {floor}.")
    s, w = _rows(student, weak)
    for name, rows in (("student", s), ("weak", w)):
        bad = np.flatnonzero((rows < 0).any(1) | (np.abs(rows.sum(1) - 1) > 1e-4))
        if len(bad):
            raise ValueError(f"{name}: row {bad[0]} is {rows[bad[0]].tolist()}, no probabilities that sum to 1.")
    w = np.maximum(w, floor)
    w = w / w.sum(1, keepdims=True)
    logs = np.log(np.where(s > 0, s, 1.0))  # 0 log 0 = 0
    return float((s * (logs - np.log(w))).sum(1).mean())


def _rows(student: ArrayLike, weak: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    s, w = np.asarray(student, float), np.asarray(weak, float)
    if s.ndim != 2 or s.shape != w.shape or not s.size:
        raise ValueError(f"probabilities of shapes {s.shape} and {w.shape}: give (n, K) twice, with rows.")
    for name, rows in (("student", s), ("weak", w)):
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise ValueError(f"{name}: row {bad[0]} is not finite.")
    return s, w
