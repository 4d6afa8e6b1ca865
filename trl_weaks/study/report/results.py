"""The numbers of a weak-to-strong study: scores, PGR and intervals of every system, from per-example statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trl_weaks.metrics.bootstrap import Score, as_table, bootstrap_scores, limits, seed_scores
from trl_weaks.metrics.calibration import brier_score, expected_calibration_error, reliability_bins
from trl_weaks.metrics.few_seeds import cells_of, spread
from trl_weaks.metrics.pgr import performance_gap_recovered, pgr_cells, pgr_draws, undefined_share
from trl_weaks.metrics.slu_f1 import slu_f1_from_counts

# entries of a row of `results.json`: no score may take their place
ROW = frozenset("label role extra unparsable supervisors weak".split())
ROW |= {"pgr", "pgr_interval", "pgr_undefined_share", "pgr_per_weak", "pgr_interval_per_weak"}
ROLES = ("weak", "method", "baseline", "ceiling")


@dataclass(frozen=True)
class Measure:
    """What the systems are scored with. `scores`: key in the results -> reducing function; the first is the headline.

    A score of `None` is the mean of per-example values; the others reduce mean statistics, as in [`bootstrap_scores`].
    """

    title: str
    scores: Mapping[str, Score | None]

    @property
    def key(self) -> str:
        return next(iter(self.scores))


SLU_F1 = Measure(
    "SLU-F1", {name: partial(slu_f1_from_counts, score=name) for name in ("slu_f1", "word_f1", "char_f1", "span_f1")}
)
ACCURACY = Measure("Accuracy", {"accuracy": None})


def score_systems(
    systems: Sequence[Mapping[str, Any]],
    *,
    measure: Measure = SLU_F1,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores and PGR of every system, with intervals from one paired bootstrap over examples and seeds.

    With several seeds the intervals allow for how few they are, see `trl_weaks.metrics.few_seeds`.

    Args:
        systems: in the order of the table; each has
            `name`; `label`, for readers; `role`: `"weak"`, `"method"`, `"baseline"` or `"ceiling"` (one);
            `samples`: per seed the per-example statistics, `(seeds, examples, 9)` from `slu_f1_counts` for SLU-F1,
            `(seeds, examples)` of 0 and 1 for accuracy; a system run once has one seed;
            `supervisors` (optional): names of the weak supervisors it learnt from; PGR is averaged over these, over
            all without it (paper §5.2: one for single weak-to-strong, all for several); None where it learnt from
            none of them, and has no PGR;
            `unparsable` (optional): per seed and example, whether the output did not parse;
            `extra` (optional): further numbers by name, such as AUROC; printed as columns.

    Returns:
        `methods` (all but the weak), `weak`, `ceiling`, `pgr_refused`, `spread_unknown` (systems whose score is no
        finite number without one example, nor with one counted twice: with several seeds their intervals have no
        bounds), `measure`, `examples`, `confidence`, `resamples`. PGR and its limits are None where
        refused; an unbounded limit is plus or minus infinity.

    Raises:
        ValueError: no weak supervisor, not exactly one ceiling, names not unique, samples that cannot be paired.
    """
    _check(systems)
    head = measure.scores[measure.key]
    tables = {system["name"]: as_table(system["name"], system["samples"], head) for system in systems}
    draws = bootstrap_scores(_unwrapped(tables, head), head, resamples=resamples, seed=seed)
    cells = cells_of(tables, head)
    rows = {s["name"]: _scores(s, tables, cells, draws, measure, confidence) for s in systems}
    weak = {name: rows[name] for name in _named(systems, "weak")}
    (ceiling,) = _named(systems, "ceiling")
    for system in systems:
        if system["role"] != "weak":
            rows[system["name"]] |= _recovered(
                system, ceiling, rows, draws, cells, list(weak), measure.key, confidence
            )
    return {
        "measure": measure.key,
        "methods": {name: row for name, row in rows.items() if name not in weak},
        "weak": weak,
        "weak_mean": float(np.mean([row[measure.key] for row in weak.values()])),
        "ceiling": rows[ceiling][measure.key],
        "pgr_refused": _refusal({name: row[measure.key] for name, row in weak.items()}, rows[ceiling][measure.key]),
        "spread_unknown": [name for name, found in (cells or {}).items() if not np.isfinite(found).all()],
        "examples": tables[ceiling].shape[1],
        "confidence": confidence,
        "resamples": resamples,
    }


NOTHING = 0.01  # a score below is as good as none: fewer than one example in a hundred. *ours*


def at_floor(results: Mapping[str, Any], floor: float = 0.0) -> list[str]:
    """Supervisors, students and ceiling that no score tells from knowing nothing; PGR measures nothing between them.

    Args:
        results: from [`score_systems`].
        floor: what is scored without knowing anything, such as the share of the largest class; 0 where only an answer
            that is right scores.
    """
    key, found = results["measure"], []
    examples = results["examples"]
    chance = floor + max(2 * (floor * (1 - floor) / examples) ** 0.5, 4 / examples)
    for name, row in {**results["weak"], **results["methods"]}.items():
        score, per_seed = row[key], row[f"{key}_per_seed"]  # the interval of few seeds alone is too wide to say it
        low = row[f"{key}_interval"][0]  # None, of results that were read, is no bound
        unsure = (low is None or low <= floor) and (len(per_seed) == 1 or min(per_seed) <= chance)
        nothing = unsure if floor else score >= 0 and (unsure or score < NOTHING)
        found += [name] if nothing and row["role"] != "baseline" else []
    return found


def calibrate(word_confidences: Mapping[str, tuple[Sequence[float], Sequence[bool]]], bins: int = 10) -> dict:
    """Supervisor -> (confidence of each word, whether the word is right) to ECE, Brier score and reliability bins."""
    return {
        name: {
            "ece": expected_calibration_error(confidences, correct, bins),
            "brier": brier_score(confidences, correct),
            "mean_confidence": float(np.mean(confidences)),
            "accuracy": float(np.mean(correct)),
            "words": len(confidences),
            "bins": reliability_bins(confidences, correct, bins),
        }
        for name, (confidences, correct) in word_confidences.items()
    }


def _check(systems: Sequence[Mapping[str, Any]]) -> None:
    names = [system["name"] for system in systems]
    if len(set(names)) != len(names):
        raise ValueError(f"system names must differ: {names}")
    for system in systems:
        if system["role"] not in ROLES:
            raise ValueError(f"{system['name']}: role {system['role']!r} is not one of {ROLES}")
        unknown = set(system.get("supervisors") or ()) - set(_named(systems, "weak"))
        if unknown or system.get("supervisors", True) in ((), []):
            raise ValueError(f"{system['name']}: supervisors {system['supervisors']} are not among the weak systems")
    if len(_named(systems, "ceiling")) != 1 or not _named(systems, "weak"):
        raise ValueError("a study needs one ceiling and at least one weak supervisor: PGR is measured between them")


def _named(systems: Sequence[Mapping[str, Any]], role: str) -> list[str]:
    return [system["name"] for system in systems if system["role"] == role]


def _unwrapped(tables: Mapping[str, np.ndarray], head: Score | None) -> dict[str, np.ndarray]:
    return {name: table[..., 0] if head is None else table for name, table in tables.items()}


def _scores(
    system: Mapping, tables: Mapping, cells: Mapping | None, draws: Mapping, measure: Measure, confidence: float
) -> dict:
    name, table = system["name"], tables[system["name"]]
    per_seed = {key: seed_scores(table.mean(1), score) for key, score in measure.scores.items()}
    row = {"label": system["label"], "role": system["role"]}
    row |= {key: float(values.mean()) for key, values in per_seed.items()}
    row[f"{measure.key}_per_seed"] = per_seed[measure.key].tolist()
    own = cells[name] if cells else None
    row[f"{measure.key}_interval"] = _interval(draws[name], own, row[measure.key], confidence)
    if "unparsable" in system:
        failed = np.atleast_2d(np.asarray(system["unparsable"], dtype=float))
        if failed.shape != table.shape[:2]:
            raise ValueError(f"{name}: unparsable {failed.shape}, samples {table.shape[:2]} (seeds, examples)")
        row["unparsable"] = float(failed.mean())
    row["extra"] = dict(system.get("extra", {}))
    return row


def _interval(draws: np.ndarray, cells: np.ndarray | None, point: float, confidence: float) -> list[float]:
    found = spread(cells)
    return list(limits(draws, confidence, point, found.stretch(confidence) if found else 1.0))


def _recovered(
    system: Mapping,
    ceiling: str,
    rows: Mapping,
    draws: Mapping,
    cells: Mapping | None,
    weak: list[str],
    key: str,
    confidence: float,
) -> dict:
    """PGR of one student: averaged over its weak supervisors (paper §5.2), and against each of all."""
    student, top = rows[system["name"]][key], rows[ceiling][key]

    def against(chosen: Sequence[str]) -> tuple[float | None, list[float] | None, float | None]:
        points = {name: rows[name][key] for name in chosen}
        if _refusal(points, top):
            return None, None, None
        recovered = pgr_draws({name: draws[name] for name in chosen}, draws[system["name"]], draws[ceiling])
        each = cells and pgr_cells({name: cells[name] for name in chosen}, cells[system["name"]], cells[ceiling])
        value = performance_gap_recovered(points, student, top)
        return value, _interval(recovered, each, value, confidence), undefined_share(recovered)

    own = system.get("supervisors", weak)
    if own is None:
        none = dict.fromkeys(weak)
        found = dict.fromkeys(("weak", "pgr", "pgr_interval", "pgr_undefined_share"))
        return {"supervisors": [], **found, "pgr_per_weak": none, "pgr_interval_per_weak": none}
    own = list(own)
    each = {name: against([name]) for name in weak}
    value, interval, share = against(own)
    return {
        "supervisors": own,
        "weak": float(np.mean([rows[name][key] for name in own])),
        "pgr": value,
        "pgr_interval": interval,
        "pgr_undefined_share": share,
        "pgr_per_weak": {name: found[0] for name, found in each.items()},
        "pgr_interval_per_weak": {name: found[1] for name, found in each.items()},
    }


def _refusal(weak: Mapping[str, float], ceiling: float) -> str | None:
    try:
        performance_gap_recovered(weak, ceiling, ceiling)
    except ValueError as error:
        return str(error)
    return None
