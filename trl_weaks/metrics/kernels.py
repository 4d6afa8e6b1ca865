"""What a student's representation sees that a supervisor's does not, measured on unlabelled examples.

After arXiv 2502.00620; its formulas are from memory here, the constants *ours*.
"""

import numpy as np
from numpy.typing import ArrayLike


def principal_kernel(states: ArrayLike, ridge: float = 0.01) -> np.ndarray:
    r"""The smoother of ridge regression on representations, (n, n): $P = K (K + \beta I)^{-1}$.

    $K$ is the Gram matrix of the centred states over n. `P @ y` are the predictions, on these same examples, of a
    linear head fitted to centred labels y.

    Args:
        states: (n, d), n at least 2; O(n^3), so some thousands at most.
        ridge: beta over the mean eigenvalue of K (0.01: *ours*).

    Raises:
        ValueError: fewer than two rows, states that are not finite or all alike, or a ridge that is not positive.

    Example:

    >>> principal_kernel([[1.0], [-1.0]], ridge=1.0).round(3).tolist()
    [[0.333, -0.333], [-0.333, 0.333]]
    """
    x = np.asarray(states, float)
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise ValueError(f"states of shape {x.shape}: give (n, d) with at least two rows.")
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise ValueError(f"states: row {bad[0]} is not finite.")
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge must be positive, not {ridge}.")
    if (x == x[0]).all():
        raise ValueError("states: all rows are the same; this model does not tell the examples apart.")
    x = x - x.mean(0)
    x = x / np.abs(x).max()  # the smoother does not depend on the scale, and squares may overflow
    values, vectors = np.linalg.eigh(x @ x.T / len(x))
    values = values.clip(min=0.0)
    return (vectors * (values / (values + ridge * values.mean()))) @ vectors.T


def kernel_score(student: ArrayLike, weak: ArrayLike, ridge: float = 0.01) -> float:
    r"""Largest part of what the student sees that its supervisor does not: $\lVert P_s (I - P_w) \rVert$, in [0, 1].

    The spectral norm of two `principal_kernel`s; lower predicts a student nearer to its ceiling.

    Args:
        student, weak: states of the same n examples, (n, d) and (n, e).
        ridge: as for `principal_kernel`, of both.

    Raises:
        ValueError: as `principal_kernel`, or unequal numbers of examples.

    Example:

    >>> x, y = [[1.0], [-1.0], [1.0], [-1.0]], [[1.0], [1.0], [-1.0], [-1.0]]
    >>> round(kernel_score(x, x), 4), round(kernel_score(x, y), 4)
    (0.0025, 0.9975)
    """
    if len(np.asarray(student)) != len(np.asarray(weak)):
        raise ValueError(
            f"{len(np.asarray(student))} states of the student, {len(np.asarray(weak))} of its supervisor."
        )
    return unseen(principal_kernel(student, ridge), principal_kernel(weak, ridge))


def unseen(student_kernel: np.ndarray, weak_kernel: np.ndarray) -> float:
    """`kernel_score` from two `principal_kernel`s of the same examples, where each is needed more than once."""
    return float(np.linalg.norm(student_kernel @ (np.eye(len(weak_kernel)) - weak_kernel), 2))
