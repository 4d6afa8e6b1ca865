"""Paired bootstrap over test examples and training seeds (ours; the paper prints points only)."""

from collections.abc import Callable, Mapping

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]

_WEIGHTS_AT_ONCE = 4_000_000  # resamples are drawn in blocks, so that memory does not grow with the test set


def bootstrap_scores(
    samples: Mapping[str, np.ndarray], score: Score | None = None, *, resamples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Corpus scores of several systems under the *same* draws of examples and seeds.

    Examples are drawn with replacement, once for all systems and seeds; seeds likewise, once for all systems. A system
    run once (one seed) is kept as it is. The score of a system is the mean of its seeds' scores.

    Args:
        samples: per system its per-example values, `(examples,)` or `(seeds, examples)`; with `score`, its
            per-example statistics, `(examples, C)` or `(seeds, examples, C)`.
        score: function `(..., C) -> (...)` of the *mean* statistics over examples; e.g. `slu_f1_from_counts` on the
            rows of `slu_f1_counts`, exact because F1 does not change when all counts are divided by one number. Left
            out: the plain mean.

    Returns:
        system -> `(resamples,)`.

    Raises:
        ValueError: systems with different numbers of examples, or of seeds (other than one); values not finite.
    """
    tables = {name: as_table(name, values, score) for name, values in samples.items()}
    seeds, examples = _common_shape(tables)
    rng = np.random.default_rng(seed)
    draws = {name: np.empty(resamples) for name in tables}
    block = max(1, _WEIGHTS_AT_ONCE // examples)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        example_weights, seed_weights = _weights(rng, count, examples), _weights(rng, count, seeds)
        for name, table in tables.items():
            per_seed = np.stack([seed_scores(example_weights @ run, score) for run in table], axis=1)  # (count, seeds)
            weights = seed_weights if len(table) > 1 else np.ones((count, 1))
            draws[name][start : start + count] = (weights * per_seed).sum(1)
    return draws


def seed_scores(means: np.ndarray, score: Score | None) -> np.ndarray:
    """Mean statistics `(..., C)` -> scores `(...)`."""
    return means[..., 0] if score is None else np.asarray(score(means), dtype=float)


def as_table(name: str, values: np.ndarray, score: Score | None) -> np.ndarray:
    """One system's samples as `(seeds, examples, C)`, checked; C = 1 for plain values."""
    table = np.asarray(values, dtype=float)
    if score is None:
        table = table[..., None]
    if table.ndim == 2:
        table = table[None]
    if table.ndim != 3 or 0 in table.shape:
        wanted = "(examples,) or (seeds, examples)" if score is None else "(examples, C) or (seeds, examples, C)"
        raise ValueError(f"{name}: samples of shape {np.shape(values)}; give {wanted}, none of them zero")
    if not np.isfinite(table).all():
        run, example, _ = np.argwhere(~np.isfinite(table))[0]
        raise ValueError(f"{name}: the value of seed {run}, example {example} is not finite")
    return table


def limits(draws: np.ndarray, confidence: float, point: float = 0.0, stretch: float = 1.0) -> tuple[float, float]:
    """Percentile interval. A draw that is NaN (undefined) counts as -inf for the lower limit, +inf for the upper.

    Args:
        draws: `(resamples,)`.
        point, stretch: each limit's distance from `point` is multiplied by `stretch`, which leaves no bounds where it
            is infinite; see [`Spread.stretch`].
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: give a probability between 0 and 1, such as 0.95")
    if np.ndim(draws) != 1 or len(draws) < 2:
        raise ValueError(f"draws of shape {np.shape(draws)}: an interval needs at least two resamples")
    if np.isinf(stretch):
        return -np.inf, np.inf
    tail, last, undefined = (1 - confidence) / 2, len(draws) - 1, np.isnan(draws)
    low = np.sort(np.where(undefined, -np.inf, draws))[int(np.floor(tail * last))]
    high = np.sort(np.where(undefined, np.inf, draws))[int(np.ceil((1 - tail) * last))]
    if stretch != 1.0:
        low, high = point + stretch * (low - point), point + stretch * (high - point)
    return float(low), float(high)


def _common_shape(tables: dict[str, np.ndarray]) -> tuple[int, int]:
    examples = {name: table.shape[1] for name, table in tables.items()}
    if len(set(examples.values())) != 1:
        raise ValueError(f"systems scored on different numbers of examples cannot be paired: {examples}")
    seeds = {name: len(table) for name, table in tables.items() if len(table) > 1}
    if len(set(seeds.values())) > 1:
        raise ValueError(f"systems run with different numbers of seeds cannot be paired: {seeds}")
    return max(seeds.values(), default=1), next(iter(examples.values()))


def _weights(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """`(count, size)`: how often each item is drawn, over `size`. Rows sum to 1."""
    drawn = [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(count)]
    return np.array(drawn) / size
