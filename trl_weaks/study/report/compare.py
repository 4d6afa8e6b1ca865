"""Two rows of a report against each other: paired difference, interval and p value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trl_weaks.markdown import table
from trl_weaks.metrics.bootstrap import as_table, bootstrap_scores, limits, seed_scores
from trl_weaks.metrics.few_seeds import cells_of, spread
from trl_weaks.study.report.results import Measure

EQUAL = 1e-12  # scores closer than this are one score in another order of additions. *ours*


def compare_systems(
    samples: Mapping[str, Any],
    measure: Measure,
    names: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Differences of the headline score, rows taken two by two, under the paired bootstrap over examples and seeds.

    The p value is twice the share of resamples on the wrong side of 0, or without a score; with several seeds it is at
    least that of the t test of `trl_weaks.metrics.few_seeds`, which also stretches the interval: few seeds that differ
    are little evidence. A p value is at least 2 / resamples; with several pairs they are adjusted by Holm's step-down
    method. A bootstrap of fewer than ten examples is too sure: of one, every p is the smallest there is.

    Args:
        samples: row -> per-seed, per-example statistics, as in [`score_systems`].
        names: first, second, first, second, ...

    Returns:
        `first`, `second`, `difference` (first minus second), `interval`, `p_value`, `p_holm` of each pair;
        `bootstrap_sd` of the difference; its `standard_error` and the degrees of freedom of that (`freedom`), None
        with one seed. None too where they are no finite number.

    Example:

    >>> import numpy as np
    >>> from trl_weaks.study.report.results import ACCURACY
    >>> right = {"a": np.ones((1, 50)), "b": np.zeros((1, 50))}
    >>> (found,) = compare_systems(right, ACCURACY, ["a", "b"])
    >>> found["difference"], found["p_value"]
    (1.0, 0.0002)
    """
    if not names:
        return []
    head = measure.scores[measure.key]
    tables = {name: as_table(name, samples[name], head) for name in dict.fromkeys(names)}
    plain = {name: values[..., 0] if head is None else values for name, values in tables.items()}
    draws = bootstrap_scores(plain, head, resamples=resamples, seed=seed)
    points = {name: float(seed_scores(values.mean(1), head).mean()) for name, values in tables.items()}
    cells = cells_of(tables, head)
    found = []
    for first, second in zip(names[::2], names[1::2], strict=True):
        drawn, difference = draws[first] - draws[second], points[first] - points[second]
        drawn = np.where(np.abs(drawn) < EQUAL, 0.0, drawn)  # on both sides, whichever way rounding went
        seeds = spread(cells[first] - cells[second] if cells else None)
        sides = (~(drawn > 0)).mean(), (~(drawn < 0)).mean()  # an undefined one is on both
        p_value = max(2 * min(sides), seeds.p_value(difference) if seeds else 0)
        stretch = seeds.stretch(confidence) if seeds else 1.0
        found.append(
            {
                "first": first,
                "second": second,
                "difference": difference,
                "interval": list(limits(drawn, confidence, difference, stretch)),
                "p_value": float(min(1.0, max(p_value, 2 / resamples))),
                "bootstrap_sd": _finite(drawn.std()),
                "standard_error": _finite(seeds.error) if seeds else None,
                "freedom": seeds.freedom if seeds else None,
            }
        )
    for row, adjusted in zip(found, holm([row["p_value"] for row in found]), strict=True):
        row["p_holm"] = adjusted
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) for a family of tests.

    Example:

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order, adjusted, most = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = most
    return adjusted


def comparison_section(rows: Sequence[Mapping[str, Any]], measure: Measure, labels: Mapping[str, str]) -> str:
    """The comparisons in Markdown; nothing where there are none."""
    if not rows:
        return ""
    lines = [
        [
            labels[row["first"]],
            labels[row["second"]],
            f"{row['difference']:+.4f} [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]",
            f"{row['p_value']:.2g}",
            f"{row['p_holm']:.2g}",
        ]
        for row in rows
    ]
    told = (
        "Paired bootstrap over test examples and seeds, two-sided; with several seeds interval and p allow for how "
        "few they are (Student's t). With several pairs p is adjusted by Holm's method."
    )
    if any(math.isinf(limit) for row in rows for limit in row["interval"]):
        told += (
            f" An interval without bounds: {measure.title} is no finite number in too many resamples, or without one "
            "example and with one counted twice."
        )
    head = ["first", "second", f"difference in {measure.title} [95% interval]", "p", "p (Holm)"]
    return f"## Comparisons\n\n{told}\n\n{table(head, lines)}"
