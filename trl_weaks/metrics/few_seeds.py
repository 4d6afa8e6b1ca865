"""What a few seeds can say: the standard error of a mean over seeds and examples, and its t distribution.

A resample of three seeds cannot reach beyond the three: where seeds differ by much, a bootstrap over seeds and
examples is too narrow. The analysis of variance of the table of both tells by how much.

Source: two-way random effects; degrees of freedom after Satterthwaite (1946). Its use on a bootstrap: *ours*.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from trl_weaks.metrics.bootstrap import Score, seed_scores

ROUNDING = 1 + 1e-9  # mean squares closer than this are one number in another order of additions. *ours*


@dataclass(frozen=True)
class Spread:
    """How sure a mean over seeds and examples is.

    Args:
        error: its standard error, seeds and examples drawn anew; infinite where it cannot be told.
        freedom: degrees of freedom of that error.
        resampled: the standard deviation that a bootstrap over seeds and examples gives instead.
    """

    error: float
    freedom: float
    resampled: float

    def stretch(self, confidence: float) -> float:
        """By how much the limits of a percentile interval move away from the estimate; at least 1.

        Where seeds hardly differ the bootstrap is too wide rather than too narrow (it counts the noise within seeds
        with the examples and again with the seeds), and stays as it is: seeds may agree by chance. An error that
        cannot be told leaves no bounds.
        """
        if np.isinf(self.error):
            return np.inf
        if self.resampled == 0:
            return 1.0
        tail = (1 + confidence) / 2
        wide = stats.t.ppf(tail, self.freedom) * self.error / (stats.norm.ppf(tail) * self.resampled)
        return max(1.0, float(wide))

    def p_value(self, difference: float) -> float:
        """Two-sided, of a difference from 0."""
        if self.error == 0:
            return float(difference == 0)
        return float(2 * stats.t.sf(abs(difference) / self.error, self.freedom))

    def detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The true difference that a study as sure as this one finds with that power: p at most `alpha`, two-sided, in
        the t test and in the bootstrap; infinite where the error cannot be told.

        The t test's is exact where another study has these degrees of freedom and this error in the mean; three seeds
        know both badly, so that the true power may be well below. The bootstrap's is that of a normal distribution.
        The larger of the two.

        Example:

        >>> round(Spread(0.01, 2.0, 0.01).detectable(), 3), round(Spread(0.01, 1000.0, 0.01).detectable(), 3)
        (0.057, 0.028)
        """
        if not np.isfinite(self.error):
            return np.inf
        beyond = stats.t.isf(alpha / 2, self.freedom)
        # the noncentral t by its definition, at quantiles of the estimated error; scipy's gives NaN for large shifts
        errors = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, self.freedom) / self.freedom)

        def missed(shift: float) -> float:
            found = stats.norm.cdf(shift - beyond * errors) + stats.norm.cdf(-shift - beyond * errors)
            return float(found.mean()) - power

        by_t = self.error * float(optimize.brentq(missed, 0, 10 * beyond + 10))
        by_bootstrap = float(stats.norm.isf(alpha / 2) * self.resampled + stats.norm.ppf(power) * self.error)
        return max(by_t, by_bootstrap)


def spread(cells: np.ndarray | None) -> Spread | None:
    """Of the mean of `(seeds, examples)`; None for one seed, of whose spread nothing is known, and for no cells.

    With seeds s, examples e and the mean squares M of seeds, examples and what is left,

        error² = (max(M_s - M_left, 0) + M_e) / (S E)

    Cells that are not finite leave the error infinite.

    Example:

    >>> import numpy as np
    >>> found = spread(np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]))
    >>> round(found.error, 3), round(found.freedom, 1)
    (0.236, 2.1)
    """
    if cells is None or len(cells) == 1:
        return None
    if not np.isfinite(cells).all():
        return Spread(np.inf, 1.0, np.nan)
    seeds, examples = cells.shape
    mean = cells.mean()
    of_seeds, of_examples = cells.mean(1) - mean, cells.mean(0) - mean
    left = cells - mean - of_seeds[:, None] - of_examples
    total, free = seeds * examples, (seeds - 1, examples - 1, (seeds - 1) * (examples - 1))
    sums = (examples * (of_seeds**2).sum(), seeds * (of_examples**2).sum(), (left**2).sum())
    by_seeds, by_examples, rest = (one / max(f, 1) / total for one, f in zip(sums, free, strict=True))
    parts = np.array([by_seeds, by_examples, -rest] if by_seeds > rest * ROUNDING else [0.0, by_examples, 0.0])
    below = sum(part**2 / max(f, 1) for part, f in zip(parts, free, strict=True))
    variance = parts.sum()
    resampled = (of_seeds**2).sum() / seeds**2 + (of_examples**2).sum() / examples**2 + (left**2).sum() / total**2
    freedom = max(variance**2 / below, 1.0) if below > 0 else seeds - 1
    return Spread(float(np.sqrt(variance)), float(freedom), float(np.sqrt(resampled)))


def cells_of(tables: Mapping[str, np.ndarray], score: Score | None) -> dict[str, np.ndarray] | None:
    """[`cell_values`] of every system; None, and no work, where none has several seeds."""
    if all(len(table) == 1 for table in tables.values()):
        return None
    return {name: cell_values(table, score) for name, table in tables.items()}


def cell_values(table: np.ndarray, score: Score | None) -> np.ndarray:
    """What each example of each seed brings to the mean over seeds of a corpus score.

    For a plain mean the values themselves; else the jackknife's pseudo-values, E f(all) - (E - 1) f(all but one). A
    score that is not finite without some example, as a precision without the only answer, is taken with each example
    counted twice instead, (E + 1) f(one twice) - E f(all): to first order the same (*ours*).

    Args:
        table: `(seeds, examples, C)`, from [`as_table`].
        score: as in [`bootstrap_scores`].

    Returns:
        `(seeds, examples)`; not finite where the score is so either way.
    """
    examples = table.shape[1]
    if score is None or examples == 1:
        return seed_scores(table, score)
    whole = seed_scores(table.mean(1), score)[:, None]
    total = table.sum(1, keepdims=True)
    without = seed_scores((total - table) / (examples - 1), score)
    if np.isfinite(without).all():
        return examples * whole - (examples - 1) * without
    return (examples + 1) * seed_scores((total + table) / (examples + 1), score) - examples * whole
