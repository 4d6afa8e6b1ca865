"""The spread of few seeds: cases in which it is a textbook's, invariances, pseudo-values of corpus scores."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from trl_weaks.metrics.bootstrap import as_table
from trl_weaks.metrics.few_seeds import Spread, cell_values, spread
from trl_weaks.metrics.pgr import pgr_interval
from trl_weaks.metrics.slu_f1 import slu_f1_counts, slu_f1_from_counts
from trl_weaks.study.report.compare import compare_systems, comparison_section
from trl_weaks.study.report.results import ACCURACY, Measure, score_systems
from trl_weaks.study.report.write import write_report

RNG = np.random.default_rng(3)


def test_where_only_seeds_differ_it_is_students_t_of_their_means():
    means = np.array([0.3, 0.5, 0.55, 0.8])
    found = spread(np.repeat(means[:, None], 50, axis=1))
    assert (found.error, found.freedom) == pytest.approx((stats.sem(means), 3))
    test = stats.ttest_1samp(means, 0.2)
    assert found.p_value(means.mean() - 0.2) == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.9)
    half = found.stretch(0.9) * stats.norm.ppf(0.95) * found.resampled
    assert (means.mean() - half, means.mean() + half) == pytest.approx((low, high))


def test_where_seeds_agree_in_everything_it_is_that_of_the_examples():
    values = RNG.normal(size=40)
    found = spread(np.stack([values] * 3))
    assert (found.error, found.freedom) == pytest.approx((stats.sem(values), 39))
    assert found.stretch(0.95) == pytest.approx(stats.t.ppf(0.975, 39) / stats.norm.ppf(0.975) * np.sqrt(40 / 39))


def test_it_is_the_analysis_of_variance():
    """Mean squares in float64 loops, where both seeds and examples differ."""
    cells = RNG.normal(size=(4, 30)) + 0.8 * RNG.normal(size=(4, 1)) + RNG.normal(size=30)
    grand = cells.mean()
    seeds = 30 * sum((row.mean() - grand) ** 2 for row in cells) / 3
    examples = 4 * sum((column.mean() - grand) ** 2 for column in cells.T) / 29
    left = sum((cells[s, e] - cells[s].mean() - cells[:, e].mean() + grand) ** 2 for s in range(4) for e in range(30))
    left /= 3 * 29
    assert seeds > left
    found = spread(cells)
    assert found.error**2 == pytest.approx((seeds + examples - left) / 120)
    below = seeds**2 / 3 + examples**2 / 29 + left**2 / 87
    assert found.freedom == pytest.approx((seeds + examples - left) ** 2 / below)
    drawn = [cells[RNG.integers(0, 4, 4)][:, RNG.integers(0, 30, 30)].mean() for _ in range(20_000)]
    assert found.resampled == pytest.approx(np.std(drawn), rel=0.03)


def test_orders_units_and_constants_do_not_matter():
    cells = RNG.normal(size=(3, 20)) + np.array([[0.0], [1.0], [3.0]])
    found = spread(cells)
    other = spread(5 - 2 * cells[[2, 0, 1]][:, RNG.permutation(20)])
    assert (other.error, other.freedom, other.stretch(0.9)) == pytest.approx(
        (2 * found.error, found.freedom, found.stretch(0.9))
    )


def test_mean_squares_that_are_equal_are_so_in_any_order_of_additions():
    """Small tables of -1, 0 and 1 in exact fractions: where seeds differ no more than what is left, the degrees of
    freedom are those of the examples, whichever way rounding went."""
    draw, equal = np.random.default_rng(0), 0
    for _ in range(3000):
        seeds, examples = int(draw.integers(2, 5)), int(draw.choice([5, 9, 13]))
        cells = draw.integers(-1, 2, (seeds, examples))
        rows, columns, whole = cells.sum(1), cells.sum(0), int(cells.sum())
        correction = Fraction(whole**2, seeds * examples)
        of_seeds = Fraction(int((rows**2).sum()), examples) - correction
        of_examples = Fraction(int((columns**2).sum()), seeds) - correction
        left = Fraction(int((cells**2).sum())) - correction - of_seeds - of_examples
        if of_seeds / (seeds - 1) == left / ((seeds - 1) * (examples - 1)) and of_examples:
            equal += 1
            assert spread(cells.astype(float)).freedom == pytest.approx(examples - 1), cells.tolist()
    assert equal > 50


def test_nothing_is_said_of_one_seed_nor_of_what_never_differs():
    assert spread(RNG.random((1, 9))) is None
    same = spread(np.full((3, 5), 0.25))
    assert same.error == 0 and same.stretch(0.95) == 1 and (same.p_value(0.0), same.p_value(0.1)) == (1, 0)
    assert spread(RNG.random((3, 1))).freedom == 2, "one example"
    assert np.isfinite(spread(np.array([[0.0, 1.0], [1.0, 0.0]])).stretch(0.95)), "seeds that undo each other"


def test_seeds_that_agree_by_chance_do_not_narrow_an_interval():
    narrow = [spread(RNG.integers(0, 2, (3, 60)).astype(float)).stretch(0.95) for _ in range(50)]
    assert min(narrow) == 1.0 and max(narrow) < 4


def test_pseudo_values_of_a_corpus_score_are_those_of_leaving_one_out():
    gold = [[("date", "today")], [("time", "five pm"), ("date", "monday")], [], [("person", "ann")]] * 3
    said = [slots[:1] if n % 3 else [("date", "today")] for n, slots in enumerate(gold)]
    counts = slu_f1_counts(said, gold)
    table = as_table("student", np.stack([counts, counts[::-1]]), slu_f1_from_counts)
    found = cell_values(table, slu_f1_from_counts)
    for seed, rows in enumerate(table):
        whole = slu_f1_from_counts(rows.sum(0))
        for example in range(12):
            without = slu_f1_from_counts(np.delete(rows, example, axis=0).sum(0))
            assert found[seed, example] == pytest.approx(12 * whole - 11 * without)
    plain = RNG.random((2, 7))
    assert np.array_equal(cell_values(as_table("s", plain, None), None), plain)


def test_a_comparison_over_seeds_that_differ_is_that_of_students_t():
    """Three seeds with differences of 0.02, 0.2 and 0.35: what a bootstrap of them calls p < 0.05 is none."""
    base = RNG.random((3, 2000))
    right = {"a": (base < np.array([[0.52], [0.7], [0.85]])).astype(float), "b": (base < 0.5).astype(float)}
    (found,) = compare_systems(right, ACCURACY, ["a", "b"])
    gaps = right["a"].mean(1) - right["b"].mean(1)
    assert found["p_value"] == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue, rel=0.05) and found["p_value"] > 0.1
    assert found["interval"][0] < 0 < found["interval"][1]


@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_detectable_difference_is_found_in_four_studies_of_five(seeds, alpha):
    """Against studies drawn one by one: `seeds` differences around it, each tested by scipy's t test."""
    difference = Spread(1 / np.sqrt(seeds), seeds - 1, 0.0).detectable(alpha)
    drawn = np.random.default_rng(seeds).normal(difference, 1, (40_000, seeds))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < alpha) == pytest.approx(0.8, abs=0.01)


def test_a_bootstrap_that_is_wider_decides_what_can_be_detected():
    """Both tests have to find it. The bootstrap asks for 1.96 of its own standard deviations; the estimate varies with
    the error, which may be less."""
    assert Spread(1.0, 1e6, 1.0).detectable() == pytest.approx(1.9600 + 0.8416, abs=1e-3)
    spread = Spread(0.7, 1e6, 1.0)
    drawn = np.random.default_rng(0).normal(spread.detectable(), spread.error, 400_000)
    assert np.mean(np.abs(drawn) > 1.95996 * spread.resampled) == pytest.approx(0.8, abs=2e-3)
    assert Spread(np.inf, 1.0, np.nan).detectable() == np.inf


def test_a_comparison_says_how_sure_it_is():
    base = RNG.random((3, 2000))
    right = {"a": (base < np.array([[0.52], [0.7], [0.85]])).astype(float), "b": (base < 0.5).astype(float)}
    (found,) = compare_systems(right, ACCURACY, ["a", "b"])
    gaps = right["a"].mean(1) - right["b"].mean(1)
    assert found["standard_error"] == pytest.approx(stats.sem(gaps), rel=0.02)
    assert found["freedom"] == pytest.approx(2, rel=0.05) and 0 < found["bootstrap_sd"] < found["standard_error"]
    (one,) = compare_systems({name: rows[:1] for name, rows in right.items()}, ACCURACY, ["a", "b"])
    assert one["standard_error"] is one["freedom"] is None
    assert one["bootstrap_sd"] == pytest.approx(stats.sem(right["a"][0] - right["b"][0]), rel=0.05)


def precision(means):
    with np.errstate(invalid="ignore"):
        return means[..., 0] / means[..., 1]


def test_a_score_that_is_none_without_one_example_counts_each_twice():
    """Precision where a seed answers once: without that answer it is 0 / 0."""
    said = np.array([[1, 1, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]], dtype=float)
    right = said * np.array([1, 0, 0, 1, 1, 0, 0, 0])
    found = cell_values(np.stack([right, said], -1), precision)
    for seed in range(2):
        whole = right[seed].sum() / said[seed].sum()
        for example in range(8):
            twice = [*range(8), example]
            expected = 9 * right[seed][twice].sum() / said[seed][twice].sum() - 8 * whole
            assert found[seed, example] == pytest.approx(expected)


def of_whole_counts(means):
    """The mean of 60 examples, no number where that of all but one, or of one more, is asked."""
    counts = means[..., 1] * 60
    return np.where(np.abs(counts - np.round(counts)) < 1e-6, means[..., 0], np.nan)


def seeds_that_differ(count):
    right = (RNG.random((count, 60)) < np.array([0.3, 0.5, 0.9])[:count, None]).astype(float)
    return np.stack([right, np.broadcast_to(np.arange(60) % 2, right.shape)], -1)


def crew(seeds):
    rows = [("low", "weak", 0.0), ("mine", "method", 0.5), ("top", "ceiling", 1.0)]
    cells = seeds_that_differ(seeds)
    move = np.array([0.1, 0.0])
    return [{"name": n, "label": f"the {n}", "role": r, "samples": cells + by * 10 * move} for n, r, by in rows]


def test_where_the_spread_of_few_seeds_cannot_be_told_an_interval_has_no_bounds_and_the_report_says_so(tmp_path):
    """Never the bootstrap of three seeds, without a word."""
    systems, measure = crew(3), Measure("My score", {"mine": of_whole_counts})
    results = write_report(
        tmp_path, systems, seeds=[0, 1, 2], config={}, environment={}, measure=measure, resamples=50
    )
    assert results["spread_unknown"] == ["low", "mine", "top"]
    row = results["methods"]["mine"]
    assert row["mine_interval"] == row["pgr_interval"] == [-np.inf, np.inf] and np.isfinite(row["pgr"])
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "My score is no finite number without some test example" in report
    assert "the low; the mine; the top. How far few seeds" in report and "± ∞" in report
    samples = {s["name"]: s["samples"] for s in systems}
    assert pgr_interval(*(samples[n] for n in ("low", "mine", "top")), score=of_whole_counts, resamples=50) == (
        -np.inf, np.inf,
    )  # fmt: skip
    (found,) = compare_systems(samples, measure, ["top", "low"], resamples=50)
    assert found["interval"] == [-np.inf, np.inf] and found["p_value"] == 1
    assert "without bounds: My score is no finite number" in comparison_section(
        [found], measure, dict.fromkeys(samples)
    )


def test_one_seed_asks_for_no_score_of_all_examples_but_one():
    asked = []

    def counted(means):
        asked.append(means.shape)
        return means[..., 0]

    systems, measure = crew(1), Measure("My score", {"mine": counted})
    assert score_systems(systems, measure=measure, resamples=50)["spread_unknown"] == []
    samples = {s["name"]: s["samples"] for s in systems}
    compare_systems(samples, measure, ["top", "low"], resamples=50)
    pgr_interval(*(samples[n] for n in ("low", "mine", "top")), score=counted, resamples=50)
    assert asked and (1, 60, 2) not in asked


def test_a_resample_without_a_score_speaks_for_neither_row():
    """`a` is better wherever there is a score, which three resamples in eight have not: no p value of nearly 0."""
    answers = np.zeros((1, 40, 2))
    answers[0, 0] = 1
    better = answers + np.array([0.5, 0.0]) * answers
    (found,) = compare_systems({"a": better, "b": answers}, Measure("P", {"p": precision}), ["a", "b"], resamples=400)
    assert found["difference"] == pytest.approx(0.5) and 0.6 < found["p_value"] < 0.9
    assert found["interval"] == [-np.inf, np.inf]
