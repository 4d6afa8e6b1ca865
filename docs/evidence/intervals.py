"""Do the intervals hold what they promise? Simulated studies with planted effects, and how often each is covered.

    python docs/evidence/intervals.py            # the table of docs/evidence/intervals.md, minutes
    python docs/evidence/intervals.py --studies 200

A simulated study has a test set of n examples and S seeds. Example i has a difficulty a_i ~ N(0, 2), the same for all
systems; a system at seed s answers i rightly with chance sigmoid(b - a_i + u_s), b its ability, u_s ~ N(0, spread)
drawn anew for every system and seed. What is to be covered is the score, or the PGR, of the abilities themselves: the
mean over all examples and seeds there could be, found by quadrature.
"""

import argparse
import sys

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import expit

from trl_weaks.metrics import pgr_interval
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY

DIFFICULTY = 2.0
ABILITIES = {"weak": -0.2, "student": 0.9, "ceiling": 2.2}  # accuracies of 0.47, 0.63 and 0.80


def accuracy(ability: float, spread: float) -> float:
    """Expected accuracy over examples and seeds: a normal mixture of logistic curves, by Gauss and Hermite."""
    nodes, weights = hermegauss(80)
    return float((weights * expit(ability + np.hypot(DIFFICULTY, spread) * nodes)).sum() / weights.sum())


def study(rng: np.random.Generator, abilities: dict[str, float], examples: int, seeds: int, spread: float):
    """System -> rightness, `(seeds, examples)`, of one simulated study."""
    difficulty = rng.normal(0, DIFFICULTY, examples)
    found = {}
    for name, ability in abilities.items():
        shifts = rng.normal(0, spread, (seeds, 1))
        found[name] = (rng.random((seeds, examples)) < expit(ability - difficulty + shifts)).astype(float)
    return found


def coverage(studies: int, examples: int, seeds: int, spread: float, resamples: int = 1000, seed: int = 0) -> float:
    """Share of simulated studies whose 95 % interval of the PGR holds the planted one."""
    rng, inside = np.random.default_rng(seed), 0
    weak, student, ceiling = (accuracy(b, spread) for b in ABILITIES.values())
    planted = (student - weak) / (ceiling - weak)
    for number in range(studies):
        tables = study(rng, ABILITIES, examples, seeds, spread)
        low, high = pgr_interval(*tables.values(), seed=number, resamples=resamples)
        inside += low <= planted <= high
    return inside / studies


def false_positives(studies: int, examples: int, seeds: int, spread: float, resamples: int = 1000, seed: int = 0):
    """Share of simulated studies in which two students of one ability differ with p < 0.05."""
    rng, found = np.random.default_rng(seed), 0
    for number in range(studies):
        tables = study(rng, {"a": 0.9, "b": 0.9}, examples, seeds, spread)
        (row,) = compare_systems(tables, ACCURACY, ["a", "b"], resamples=resamples, seed=number)
        found += row["p_value"] < 0.05
    return found / studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies for each row")
    asked = parser.parse_args()
    print(
        "| test examples | seeds | SD of a seed's ability | coverage of PGR, 95 % asked | false positives, p < 0.05 |"
    )
    print("|---|---|---|---|---|")
    for examples, seeds, spread in [
        *((n, 1, 0.0) for n in (300, 1000, 2974)),
        *((1000, s, spread) for spread in (0.0, 0.05, 0.2) for s in (2, 3, 5, 10)),
    ]:
        shares = [f(asked.studies, examples, seeds, spread) for f in (coverage, false_positives)]
        print(f"| {examples:,} | {seeds} | {spread} |", " | ".join(f"{x:.3f}" for x in shares), "|", flush=True)
        print(f"{examples} {seeds} {spread}", file=sys.stderr)


if __name__ == "__main__":
    main()
