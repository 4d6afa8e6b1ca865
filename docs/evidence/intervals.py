"""Do the intervals hold what they promise? Simulated studies with planted effects, and how often each is covered.

    python docs/evidence/intervals.py --studies 200         # the first table of docs/evidence/intervals.md, minutes
    python docs/evidence/intervals.py --studies 200 --f1    # the second: a corpus F1 over slots instead of accuracy

A simulated study has a test set of n examples and S seeds. Example i has a difficulty a_i ~ N(0, 2), the same for all
systems; a system at seed s answers i rightly with chance sigmoid(b - a_i + u_s), b its ability, u_s ~ N(0, spread)
drawn anew for every system and seed. What is to be covered is the score, or the PGR, of the abilities themselves: the
mean over all examples and seeds there could be, found by quadrature.

For F1 an example states 0, 1 or 2 slots; each is answered rightly with the chance above, or else in half of the cases
by a wrong slot, and a sentence without a slot gets a wrong one in a third of the cases that would be wrong. F1 is that
of the counts over all sentences, as for SLU-F1, and the PGR to be covered that of the expected F1 of a seed.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import expit

from trl_weaks.metrics import pgr_interval
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY, Measure

DIFFICULTY = 2.0
ABILITIES = {"weak": -0.2, "student": 0.9, "ceiling": 2.2}  # accuracies of 0.47, 0.63 and 0.80


def accuracy(ability: float, spread: float) -> float:
    """Expected accuracy over examples and seeds: a normal mixture of logistic curves, by Gauss and Hermite."""
    nodes, weights = hermegauss(80)
    return float((weights * expit(ability + np.hypot(DIFFICULTY, spread) * nodes)).sum() / weights.sum())


SLOTS = (0.35, 0.4, 0.25)  # shares of sentences with 0, 1 and 2 slots


def f1(counts: np.ndarray) -> np.ndarray:
    """Of true positives, false positives and false negatives in the last axis."""
    right, stated, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return 2 * right / (2 * right + stated + missed)


def expected_f1(ability: float, spread: float) -> float:
    """Mean over seeds of the F1 of expected counts, by Gauss and Hermite over seeds and difficulties."""
    nodes, weights = hermegauss(80)
    weights = weights / weights.sum()
    slots = SLOTS[1] + 2 * SLOTS[2]
    right = (weights * expit(ability + spread * nodes[:, None] + DIFFICULTY * nodes)).sum(1)  # of every seed
    wrong = 1 - right
    counts = np.stack([slots * right, slots * wrong / 2 + SLOTS[0] * wrong / 3, slots * wrong], -1)
    return float((weights * f1(counts)).sum())


def f1_study(rng: np.random.Generator, abilities: dict[str, float], examples: int, seeds: int, spread: float):
    """System -> counts, `(seeds, examples, 3)`, of one simulated study."""
    difficulty, stated = rng.normal(0, DIFFICULTY, examples), rng.choice(3, examples, p=SLOTS)
    found = {}
    for name, ability in abilities.items():
        chance = expit(ability - difficulty + rng.normal(0, spread, (seeds, 1)))
        right = rng.binomial(stated, chance)
        invented = (rng.random(chance.shape) < (1 - chance) / 3) & (stated == 0)
        wrong = rng.binomial(stated - right, 0.5) + invented
        found[name] = np.stack([right, wrong, stated - right], -1).astype(float)
    return found


def study(rng: np.random.Generator, abilities: dict[str, float], examples: int, seeds: int, spread: float):
    """System -> rightness, `(seeds, examples)`, of one simulated study."""
    difficulty = rng.normal(0, DIFFICULTY, examples)
    found = {}
    for name, ability in abilities.items():
        shifts = rng.normal(0, spread, (seeds, 1))
        found[name] = (rng.random((seeds, examples)) < expit(ability - difficulty + shifts)).astype(float)
    return found


@dataclass(frozen=True)
class Kind:
    """What is simulated: a score's expectation, its studies, how it is measured."""

    expected: Callable[[float, float], float]
    study: Callable[..., dict[str, np.ndarray]]
    measure: Measure


OF_ACCURACY, OF_F1 = Kind(accuracy, study, ACCURACY), Kind(expected_f1, f1_study, Measure("F1", {"f1": f1}))


def coverage(
    studies: int,
    examples: int,
    seeds: int,
    spread: float,
    resamples: int = 1000,
    seed: int = 0,
    kind: Kind = OF_ACCURACY,
) -> float:
    """Share of simulated studies whose 95 % interval of the PGR holds the planted one."""
    rng, inside = np.random.default_rng(seed), 0
    weak, student, ceiling = (kind.expected(b, spread) for b in ABILITIES.values())
    planted, score = (student - weak) / (ceiling - weak), kind.measure.scores[kind.measure.key]
    for number in range(studies):
        tables = kind.study(rng, ABILITIES, examples, seeds, spread)
        low, high = pgr_interval(*tables.values(), seed=number, resamples=resamples, score=score)
        inside += low <= planted <= high
    return inside / studies


def false_positives(
    studies: int,
    examples: int,
    seeds: int,
    spread: float,
    resamples: int = 1000,
    seed: int = 0,
    kind: Kind = OF_ACCURACY,
) -> float:
    """Share of simulated studies in which two students of one ability differ with p < 0.05."""
    rng, found = np.random.default_rng(seed), 0
    for number in range(studies):
        tables = kind.study(rng, {"a": 0.9, "b": 0.9}, examples, seeds, spread)
        (row,) = compare_systems(tables, kind.measure, ["a", "b"], resamples=resamples, seed=number)
        found += row["p_value"] < 0.05
    return found / studies


OF_SLOTS = [(600, 1, 0.0), *((n, 3, spread) for n in (600, 2374) for spread in (0.0, 0.05, 0.2))]
OF_CLASSES = [
    *((n, 1, 0.0) for n in (300, 1000, 2974)),
    *((1000, s, spread) for spread in (0.0, 0.05, 0.2) for s in (2, 3, 5, 10)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies for each row; default: 1000")
    parser.add_argument("--f1", action="store_true", help="a corpus F1 over slots, instead of accuracy")
    asked = parser.parse_args()
    if asked.studies < 1:
        parser.error(f"--studies {asked.studies}: simulate at least one")
    print(
        "| test examples | seeds | SD of a seed's ability | coverage of PGR, 95 % asked | false positives, p < 0.05 |"
    )
    print("|---|---|---|---|---|")
    kind = OF_F1 if asked.f1 else OF_ACCURACY
    for examples, seeds, spread in OF_SLOTS if asked.f1 else OF_CLASSES:
        shares = [f(asked.studies, examples, seeds, spread, kind=kind) for f in (coverage, false_positives)]
        print(f"| {examples:,} | {seeds} | {spread} |", " | ".join(f"{x:.3f}" for x in shares), "|", flush=True)
        print(f"{examples} {seeds} {spread}", file=sys.stderr)


if __name__ == "__main__":
    main()
