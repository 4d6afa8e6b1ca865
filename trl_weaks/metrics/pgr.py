"""Performance gap recovered: how much of the way from the weak supervisor to the strong ceiling the student went.

Source: Burns et al., 2023 (arXiv 2312.09390); Cui et al. (arXiv 2406.03199), Eq. 13 and §5.2. Intervals: ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from trl_weaks.metrics.bootstrap import Score, as_table, bootstrap_scores, limits, seed_scores
from trl_weaks.metrics.few_seeds import cells_of, spread

_RELATIVE_ROUNDING = 1e-9  # equal scores summed in another order differ by less; their gap is closed

Samples: TypeAlias = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def performance_gap_recovered(
    weak: float | Sequence[float] | Mapping[str, float], student: float, ceiling: float
) -> float:
    """(student - weak) / (ceiling - weak): 0 at the weak supervisor, 1 at the ceiling; may leave [0, 1] (Eq. 13).

    Args:
        weak: score of the weak supervisor; or a score per supervisor, named or in a list, for one PGR each,
            averaged (§5.2).

    Raises:
        ValueError: a score is not one finite number, or the ceiling does not exceed a weak score: there is no gap to
            recover.
    """
    scores = _named_scores(weak)
    if not scores:
        raise ValueError("no weak supervisor given")
    for name, value in {**scores, "the student": student, "the ceiling": ceiling}.items():
        if np.ndim(value):
            raise ValueError(f"the score of {name} is {value}: give one number; several seeds go to `pgr_interval`")
        if not np.isfinite(value):
            raise ValueError(f"the score of {name} is {value}")
    for name, value in scores.items():
        if not _gap_is_open(value, ceiling):
            raise ValueError(
                f"PGR is undefined: the ceiling ({ceiling:.4g}) does not exceed {name} ({value:.4g}), so there is no "
                "gap to recover; train a stronger ceiling or a weaker supervisor"
            )
    return float(np.mean([(student - value) / (ceiling - value) for value in scores.values()]))


def _named_scores(weak: Any) -> Mapping[str, float]:
    if isinstance(weak, Mapping):
        return weak
    if np.ndim(weak):
        return {f"weak supervisor {number}": value for number, value in enumerate(weak, start=1)}
    return {"the weak supervisor": weak}


def pgr_interval(
    weak: Samples,
    student: np.ndarray,
    ceiling: np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    score: Score | None = None,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Interval of PGR under a paired bootstrap over examples and seeds: percentiles, stretched for few seeds.

    The three systems see the same resampled examples and seeds. Resamples whose ceiling does not exceed a weak score
    have no PGR; they count as minus infinity for the lower limit and as plus infinity for the upper one. So the
    interval is unbounded as soon as `(1 - confidence) / 2` of them are such, which says that this test set cannot tell
    the ceiling from the weak supervisor. `undefined_share` reports them.

    With several seeds the limits' distances from the estimate are multiplied by [`Spread.stretch`] of
    [`pgr_cells`]: resamples of three seeds reach too little beyond them.

    Args:
        weak: per-example values of one supervisor, an array `(examples,)` or `(seeds, examples)`; or of several, a
            mapping of supervisor to such or a list of such, for one PGR each, averaged: a list means supervisors here
            as in [`performance_gap_recovered`], an array means seeds.
        score: for a corpus score that is not a mean of examples; the samples then end in an axis of C statistics, as
            in [`bootstrap_scores`]. SLU-F1: `pgr_interval(*counts, score=slu_f1_from_counts)`.

    Returns:
        (low, high)

    Raises:
        ValueError: as [`performance_gap_recovered`] and [`bootstrap_scores`].
    """
    systems = _systems(weak, student, ceiling)
    tables = {name: as_table(name, values, score) for name, values in systems.items()}
    points = {name: float(seed_scores(table.mean(1), score).mean()) for name, table in tables.items()}
    cells = cells_of(tables, score)
    point = performance_gap_recovered(*_parted(points))  # refuses, if need be
    draws = pgr_draws(*_parted(bootstrap_scores(systems, score, resamples=resamples, seed=seed)))
    seeds = spread(pgr_cells(*_parted(cells)) if cells else None)
    return limits(draws, confidence, point, seeds.stretch(confidence) if seeds else 1.0)


def _parted(found: Mapping[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Of all systems: the supervisors', the student's, the ceiling's."""
    weak = {name: value for name, value in found.items() if name not in ("student", "ceiling")}
    return weak, found["student"], found["ceiling"]


def pgr_cells(weak: Mapping[str, np.ndarray], student: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """What each example of each seed brings to the averaged PGR, to first order: `(seeds, examples)`.

    Args:
        weak, student, ceiling: `(seeds, examples)` from [`cells_of`]; of a system run once `(1, examples)`.
    """
    reached, top = student.mean(), ceiling.mean()
    found = []
    for values in weak.values():
        start = values.mean()
        recovered = (reached - start) / (top - start)
        change = (student - reached) - recovered * (ceiling - top) + (recovered - 1) * (values - start)
        found.append(change / (top - start))
    return np.mean(np.broadcast_arrays(*found), axis=0)


def pgr_draws(weak: Mapping[str, np.ndarray], student: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """Averaged PGR of each resample: `(resamples,)`, NaN where the ceiling does not exceed every weak score."""
    weak_scores = np.stack(list(weak.values()))  # (supervisors, resamples)
    gap = ceiling - weak_scores
    recovered = np.divide(
        student - weak_scores, gap, out=np.full_like(gap, np.nan), where=_gap_is_open(weak_scores, ceiling)
    )
    return recovered.mean(0)


def _gap_is_open(weak: np.ndarray | float, ceiling: np.ndarray | float) -> np.ndarray | bool:
    return ceiling - weak > _RELATIVE_ROUNDING * np.maximum(np.abs(ceiling), np.abs(weak))


def undefined_share(draws: np.ndarray) -> float:
    """Share of the resamples that have no PGR."""
    return float(np.isnan(draws).mean())


def _systems(weak: Samples, student: np.ndarray, ceiling: np.ndarray) -> dict[str, np.ndarray]:
    named: dict[str, Any]
    if isinstance(weak, Mapping):
        named = {f"weak supervisor {name}": samples for name, samples in weak.items()}
    elif isinstance(weak, list | tuple) and len(weak) and all(np.ndim(samples) for samples in weak):
        named = {f"weak supervisor {number}": samples for number, samples in enumerate(weak, start=1)}
    else:
        named = {"the weak supervisor": weak}
    return {**named, "student": student, "ceiling": ceiling}
