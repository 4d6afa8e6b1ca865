"""Labels smoothed over the graph of nearest neighbours."""

import numpy as np
from scipy.sparse import coo_matrix, diags

_ROWS = 1024  # whose similarities to all others are held at once
_CLOSE = 1e-10  # change of a label at which the iteration ends


def smoothed(labels: np.ndarray, states: np.ndarray, neighbours: int = 10, strength: float = 0.8) -> np.ndarray:
    r"""
    Each row's label drawn to those of rows with similar states: $(1 - a)(I - aS)^{-1} Y$, rows scaled to sum to 1.

    S is the symmetric normalisation $D^{-1/2} W D^{-1/2}$ of the graph in which two rows are joined, with the cosine
    of their states (negative ones are 0), where either is among the nearest of the other (Zhou et al., 2004).

    Args:
        labels: `(n, K)`, at least 0 and finite, not all 0 in a row.
        states: `(n, d)`.
        neighbours: of each row, itself left out; of equally near ones the first.
        strength: a, in [0, 1); 0 changes nothing.

    Raises:
        ValueError: other shapes, labels or states that cannot be used (names the row), numbers out of range.

    Example:

    >>> alike = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2)  # three rows alike, and two others
    >>> smoothed(np.eye(2)[[0, 0, 1, 1, 1]], alike, neighbours=2, strength=0.9)[:, 0].round(2)
    array([0.69, 0.69, 0.62, 0.  , 0.  ])
    """
    labels, states = np.asarray(labels, float), np.asarray(states, float)
    if labels.ndim != 2 or states.ndim != 2 or len(labels) != len(states) or not len(labels):
        raise ValueError(f"labels {labels.shape} and states {states.shape}: give (n, K) and (n, d) of the same rows.")
    if not (isinstance(neighbours, int) and neighbours >= 1):
        raise ValueError(f"neighbours={neighbours!r} must be a whole number of at least 1.")
    if not 0 <= strength < 1:
        raise ValueError(f"strength={strength} must lie in [0, 1).")
    bad = ~np.isfinite(states).all(-1)
    if bad.any():
        raise ValueError(f"row {int(bad.argmax())}: the state is not finite.")
    bad = ~(np.isfinite(labels).all(-1) & (labels >= 0).all(-1) & (labels.sum(-1) > 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"row {row}: the label {labels[row].tolist()} holds no probabilities; drop the row.")
    graph = _graph(states, min(neighbours, len(states) - 1))
    found = labels
    while strength:
        new = strength * (graph @ found) + (1 - strength) * labels
        change, found = np.abs(new - found).max(), new
        if change < _CLOSE:
            break
    return found / found.sum(-1, keepdims=True)


def _graph(states: np.ndarray, neighbours: int):
    """S, sparse."""
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    unit = states / np.where(lengths > 0, lengths, 1.0)
    n = len(unit)
    place: np.ndarray = np.zeros((n, neighbours), int)
    value: np.ndarray = np.zeros((n, neighbours))
    for start in range(0, n, _ROWS):
        rows = np.arange(start, min(start + _ROWS, n))
        near = unit[rows] @ unit.T
        near[np.arange(len(rows)), rows] = -np.inf
        # rounded: a row's place in a block must not decide among equally near ones
        place[rows] = np.argsort(-near.round(12), axis=-1, kind="stable")[:, :neighbours]
        value[rows] = np.take_along_axis(near, place[rows], -1)
    joined = coo_matrix(
        (value.clip(min=0).ravel(), (np.repeat(np.arange(n), neighbours), place.ravel())), shape=(n, n)
    ).tocsr()
    joined = joined.maximum(joined.T)
    degree = np.asarray(joined.sum(-1)).ravel()
    scale = diags(1 / np.sqrt(np.where(degree > 0, degree, 1.0)))
    return (scale @ joined @ scale).tocsr()
