"""PGR and its interval: by hand, against scipy, by coverage, and where it has to be refused."""

import math

import numpy as np
import pytest
from scipy import stats

from trl_weaks.metrics.bootstrap import bootstrap_scores, limits
from trl_weaks.metrics.pgr import performance_gap_recovered, pgr_draws, pgr_interval, undefined_share
from trl_weaks.metrics.slu_f1 import slu_f1, slu_f1_counts, slu_f1_from_counts


def systems(seed=0, examples=400, seeds=None, rates=(0.5, 0.65, 0.8)):
    """Correctness of weak, student, ceiling; positively correlated through a shared difficulty."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(size=examples)
    shape = (examples,) if seeds is None else (seeds, examples)
    return [(0.5 * difficulty + 0.5 * rng.uniform(size=shape) < cut(rate)).astype(float) for rate in rates]


def cut(rate):
    """Threshold below which the mean of two uniforms falls with probability `rate` (inverse triangular)."""
    return math.sqrt(rate / 2) if rate <= 0.5 else 1 - math.sqrt((1 - rate) / 2)


def test_by_hand():
    assert performance_gap_recovered(0.5, 0.65, 0.8) == pytest.approx(0.5)
    assert performance_gap_recovered(0.5, 0.4, 0.8) == pytest.approx(-1 / 3)
    assert performance_gap_recovered(0.5, 0.9, 0.8) == pytest.approx(4 / 3)
    # the mean of ratios, not the ratio of means (which would be 0.45 / 0.7)
    assert performance_gap_recovered({"a": 0.4, "b": 0.7}, 0.75, 0.8) == pytest.approx((0.35 / 0.4 + 0.05 / 0.1) / 2)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_scores_of_several_supervisors_may_come_without_names(kind):
    named = performance_gap_recovered({"a": 0.4, "b": 0.7}, 0.75, 0.8)
    assert performance_gap_recovered(kind([0.4, 0.7]), 0.75, 0.8) == named


@pytest.mark.parametrize(
    "weak, student, ceiling, message",
    [
        (0.8, 0.7, 0.8, "ceiling"),
        (0.9, 0.7, 0.8, "no gap"),
        ({"a": 0.5, "b": 0.85}, 0.7, 0.8, "exceed b"),
        ({}, 0.7, 0.8, "no weak supervisor"),
        (float("nan"), 0.7, 0.8, "nan"),
        (0.5, float("inf"), 0.8, "student is inf"),
        ([], 0.7, 0.8, "no weak supervisor"),
        ([0.5, 0.85], 0.7, 0.8, "exceed weak supervisor 2"),
        ([[0.5, 0.6], [0.5, 0.6]], 0.7, 0.8, "weak supervisor 1 is .*one number"),
        (0.5, [0.7, 0.75], 0.8, "the student is .*one number; several seeds go to `pgr_interval`"),
        (0.5, 0.7, np.array([0.8, 0.9]), "the ceiling is .*one number"),
    ],
)
def test_refused(weak, student, ceiling, message):
    with pytest.raises(ValueError, match=message):
        performance_gap_recovered(weak, student, ceiling)


def test_interval_agrees_with_scipy():
    weak, student, ceiling = systems()

    def ratio(w, s, c, axis):
        return (s.mean(axis) - w.mean(axis)) / (c.mean(axis) - w.mean(axis))

    draws = {"n_resamples": 20_000, "random_state": np.random.default_rng(1)}
    expected = stats.bootstrap(
        (weak, student, ceiling), ratio, paired=True, vectorized=True, method="percentile", **draws
    ).confidence_interval
    low, high = pgr_interval(weak, student, ceiling, resamples=20_000)
    assert low == pytest.approx(expected.low, abs=0.01) and high == pytest.approx(expected.high, abs=0.01)
    assert low < performance_gap_recovered(weak.mean(), student.mean(), ceiling.mean()) < high


def test_interval_is_its_definition_spelled_out():
    """Plain loops over index draws with the same generator: (seeds, examples), drawn jointly and paired."""
    weak, student, ceiling = systems(seeds=3, examples=50)
    rng, draws = np.random.default_rng(7), []
    rows = [rng.integers(0, 50, 50) for _ in range(200)]
    runs = [rng.integers(0, 3, 3) for _ in range(200)]
    for row, run in zip(rows, runs, strict=True):
        w, s, c = (np.mean([table[r][row].mean() for r in run]) for table in (weak, student, ceiling))
        draws.append((s - w) / (c - w))
    ordered = sorted(draws)
    expected = ordered[math.floor(0.05 * 199)], ordered[math.ceil(0.95 * 199)]
    found = pgr_interval(weak, student, ceiling, confidence=0.9, seed=7, resamples=200)
    assert found == pytest.approx(expected, abs=1e-12)  # these seeds differ no more than chance lets them
    student = student + np.array([[-0.2], [0.0], [0.2]])
    point = performance_gap_recovered(weak.mean(), student.mean(), ceiling.mean())
    draws = []
    for row, run in zip(rows, runs, strict=True):
        w, s, c = (np.mean([table[r][row].mean() for r in run]) for table in (weak, student, ceiling))
        draws.append((s - w) / (c - w))
    by = stretched_by_hand(weak, student, ceiling, 0.9)
    low, high = sorted(draws)[math.floor(0.05 * 199)], sorted(draws)[math.ceil(0.95 * 199)]
    found = pgr_interval(weak, student, ceiling, confidence=0.9, seed=7, resamples=200)
    assert by > 1.5 and found == pytest.approx((point - by * (point - low), point + by * (high - point)), rel=1e-6)


def stretched_by_hand(weak, student, ceiling, confidence):
    """Numerical derivative of the PGR by each cell, then the analysis of variance in loops."""

    def pgr(w, s, c):
        return (s.mean() - w.mean()) / (c.mean() - w.mean())

    seeds, examples = student.shape
    cells, tables = np.zeros((seeds, examples)), [weak, student, ceiling]
    for s in range(seeds):
        for e in range(examples):
            for k, table in enumerate(tables):
                moved = table.copy()
                moved[s, e] += 1e-4
                changed = [*tables[:k], moved, *tables[k + 1 :]]
                cells[s, e] += (pgr(*changed) - pgr(*tables)) / 1e-4 * (table[s, e] - table.mean()) * seeds * examples
    m, n = cells.mean(), seeds * examples
    rows, columns = [cells[s].mean() for s in range(seeds)], [cells[:, e].mean() for e in range(examples)]
    left = [[cells[s, e] - rows[s] - columns[e] + m for e in range(examples)] for s in range(seeds)]
    of_seeds = examples * sum((r - m) ** 2 for r in rows) / (seeds - 1)
    of_examples = seeds * sum((c - m) ** 2 for c in columns) / (examples - 1)
    rest = sum(x**2 for r in left for x in r) / ((seeds - 1) * (examples - 1))
    assert of_seeds > rest
    variance = (of_seeds + of_examples - rest) / n
    below = of_seeds**2 / (seeds - 1) + of_examples**2 / (examples - 1) + rest**2 / ((seeds - 1) * (examples - 1))
    quantile = stats.t.ppf((1 + confidence) / 2, (variance * n) ** 2 / below)
    resampled = np.mean([(r - m) ** 2 for r in rows]) / seeds + np.mean([(c - m) ** 2 for c in columns]) / examples
    resampled += sum(x**2 for r in left for x in r) / n**2
    return quantile * math.sqrt(variance) / (stats.norm.ppf((1 + confidence) / 2) * math.sqrt(resampled))


@pytest.mark.parametrize("seeds", [None, 4])
def test_coverage(seeds):
    """The 90 % interval holds the true PGR about nine times in ten. Deterministic: the simulation is seeded."""
    truth, trials = performance_gap_recovered(0.5, 0.65, 0.8), 200
    hits = 0
    for trial in range(trials):
        low, high = pgr_interval(*systems(trial, 300, seeds), confidence=0.9, resamples=300)
        hits += low <= truth <= high
    # 0.9 ± 3 standard errors for one seed; counting the noise of each seed anew makes joint resampling err to the wide
    assert 0.9 - 0.064 <= hits / trials <= (0.964 if seeds is None else 1.0)


def test_pairing_narrows_the_interval():
    weak, student, ceiling = systems()
    shuffled = np.random.default_rng(0).permutation(student)
    paired, unpaired = pgr_interval(weak, student, ceiling), pgr_interval(weak, shuffled, ceiling)
    assert paired[1] - paired[0] < unpaired[1] - unpaired[0]


def test_same_seed_same_interval_and_order_of_examples_matters_not_much():
    samples = systems()
    assert pgr_interval(*samples, seed=3) == pgr_interval(*samples, seed=3) != pgr_interval(*samples, seed=4)
    order = np.random.default_rng(0).permutation(400)
    assert pgr_interval(*(s[order] for s in samples)) == pytest.approx(pgr_interval(*samples), abs=0.05)


def test_ceiling_has_pgr_one_and_weak_zero_in_every_resample():
    weak, _, ceiling = systems()
    assert pgr_interval(weak, ceiling, ceiling) == (1.0, 1.0)
    assert pgr_interval(weak, weak, ceiling) == (0.0, 0.0)


def test_affine_change_of_the_score_changes_nothing():
    weak, student, ceiling = systems()
    scaled = pgr_interval(*(3 * x - 1 for x in (weak, student, ceiling)))
    assert scaled == pytest.approx(pgr_interval(weak, student, ceiling), abs=1e-9)


def test_several_weak_supervisors_are_averaged_per_resample():
    weak, student, ceiling = systems()
    other = systems(seed=1, rates=(0.3, 0.5, 0.5))[0]
    draws = bootstrap_scores({"a": weak, "b": other, "s": student, "c": ceiling})
    by_hand = np.mean([(draws["s"] - draws[n]) / (draws["c"] - draws[n]) for n in "ab"], axis=0)
    assert pgr_interval({"a": weak, "b": other}, student, ceiling) == limits(by_hand, 0.95)
    assert pgr_interval({"a": weak, "b": weak}, student, ceiling) == pgr_interval(weak, student, ceiling)


def test_unresolved_gap_is_unbounded_not_wild():
    weak, ceiling = np.zeros(60), np.zeros(60)
    weak[:28], ceiling[18:48] = 1, 1  # 28 and 30 right: a gap in this sample that many others would not show
    student = np.maximum(weak, ceiling)
    assert pgr_interval(weak, student, ceiling) == (-math.inf, math.inf)
    draws = bootstrap_scores({"w": weak, "s": student, "c": ceiling})
    recovered = pgr_draws({"w": draws["w"]}, draws["s"], draws["c"])
    closed = np.round(60 * draws["c"]) <= np.round(60 * draws["w"])  # whole numbers of right answers
    assert undefined_share(recovered) == closed.mean() > 0.025


def test_one_closed_gap_leaves_the_average_of_that_resample_undefined():
    weak = {"a": np.array([0.2, 0.2]), "b": np.array([0.4, 0.6])}
    found = pgr_draws(weak, student=np.array([0.5, 0.5]), ceiling=np.array([0.6, 0.6]))
    assert found[0] == pytest.approx((0.3 / 0.4 + 0.1 / 0.2) / 2) and np.isnan(found[1])


def test_rounding_does_not_open_a_gap():
    third = sum([0.1] * 3)  # 0.30000000000000004
    assert third > 0.3
    with pytest.raises(ValueError, match="no gap"):
        performance_gap_recovered(0.3, 0.5, third)


def test_slu_f1_is_resampled_exactly():
    """A corpus score is no mean of sentence scores: counts and a reducing function give the spelled-out result."""
    gold = [[("date", "today")], [("time", "five pm"), ("date", "monday")], [], [("person", "ann")]] * 5
    weak = [slots[:1] if i % 3 == 0 else [] for i, slots in enumerate(gold)]
    student = [slots[:1] for slots in gold]
    tables = [slu_f1_counts(p, gold) for p in (weak, student, gold)]
    rng, draws = np.random.default_rng(0), []
    for row in [rng.integers(0, 20, 20) for _ in range(50)]:
        chosen = [gold[i] for i in row]
        w, s, c = (slu_f1([p[i] for i in row], chosen)["slu_f1"] for p in (weak, student, gold))
        draws.append((s - w) / (c - w))
    found = pgr_interval(*tables, score=slu_f1_from_counts, resamples=50)
    assert found == pytest.approx(limits(np.array(draws), 0.95), abs=1e-12)


def test_a_single_run_beside_several_is_kept():
    weak, student, ceiling = systems(seeds=3)
    low, high = pgr_interval(weak, student, ceiling[0])
    assert low < high
    repeated = pgr_interval(weak, student, np.stack([ceiling[0]] * 3))
    assert (low, high) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w, s, c: (w[:-1], s, c), "different numbers of examples"),
        (lambda w, s, c: (np.stack([w] * 2), np.stack([s] * 3), c), "different numbers of seeds"),
        (lambda w, s, c: (w, s * np.nan, c), "student.*seed 0, example 0 is not finite"),
        (lambda w, s, c: (w, s[:0], c), "none of them zero"),
        (lambda w, s, c: (c, s, w), "PGR is undefined"),
    ],
)
def test_bad_samples(change, message):
    with pytest.raises(ValueError, match=message):
        pgr_interval(*change(*systems()))


def test_bad_confidence():
    with pytest.raises(ValueError, match="0.95"):
        pgr_interval(*systems(), confidence=95)
    with pytest.raises(ValueError, match="two resamples"):
        pgr_interval(*systems(), resamples=1)


def test_blocks_of_resamples_are_all_filled(monkeypatch):
    """A test set too large for one block: still as many resamples as asked for, and the same interval in the limit."""
    monkeypatch.setattr("trl_weaks.metrics.bootstrap._WEIGHTS_AT_ONCE", 1000)
    weak = systems()[0]
    draws = bootstrap_scores({"w": weak}, resamples=501)["w"]
    assert draws.shape == (501,) and np.isfinite(draws).all()
    assert draws.mean() == pytest.approx(weak.mean(), abs=0.01)
    assert draws.std() == pytest.approx(weak.std() / 20, rel=0.15)


def test_a_list_means_supervisors_in_both_functions():
    weak, student, ceiling = systems(seeds=2)
    other = weak[:, ::-1] * 0.9
    points = [w.mean() for w in (weak, other)]
    low, high = pgr_interval([weak, other], student, ceiling)
    assert (low, high) == pgr_interval({"a": weak, "b": other}, student, ceiling)
    assert low < performance_gap_recovered(points, student.mean(), ceiling.mean()) < high
    as_lists = [weak.tolist(), other.tolist()]
    assert pgr_interval(as_lists, student, ceiling) == (low, high)
    assert pgr_interval(weak[0].tolist(), student, ceiling) == pgr_interval(weak[0], student, ceiling)
