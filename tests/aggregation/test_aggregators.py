"""Every registered aggregator keeps the contract; crowd-kit's formulas are crowd-kit's."""

import doctest
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from trl_weaks.aggregation import AGGREGATORS, aggregate, agreement, base, dawid_skene, make_aggregator, votes
from trl_weaks.aggregation.base import NotComputable, probabilities
from trl_weaks.pooling import linear_pool, log_linear_pool, majority_vote

CROWD = ("wawa", "mace", "glad")
ALONE = [name for name in AGGREGATORS if not getattr(AGGREGATORS[name], "with_student", False)]
OURS = [name for name in ALONE if name not in CROWD]
RNG = np.random.default_rng(0)


@pytest.fixture(params=ALONE)
def name(request):
    if request.param in CROWD:  # run by `make test-crowd`, which installs them
        pytest.importorskip("crowdkit.aggregation")
    return request.param


def planted(rows=60, voters=4, classes=3, gaps=0.3, sharp=30.0):
    gold = RNG.integers(0, classes, rows)
    said = np.where(RNG.random((rows, voters)) < 0.75, gold[:, None], RNG.integers(0, classes, (rows, voters)))
    found = RNG.dirichlet(np.ones(classes), (rows, voters)) + sharp * np.eye(classes)[said]
    found /= found.sum(-1, keepdims=True)
    missing = RNG.random((rows, voters)) < gaps
    missing[missing.all(1), 0] = False
    found[missing] = np.nan
    return found


@pytest.mark.parametrize("kind", [*AGGREGATORS])
def test_who_learns_of_supervisors_says_that_one_is_too_few(kind, caplog):
    """Whatever is fitted compares supervisors, or says that it needs one alone; with two nothing is said."""
    if kind in CROWD:
        pytest.importorskip("crowdkit.aggregation")
    one = planted(voters=1, gaps=0.0)
    made = make_aggregator(kind, student=True)
    assert made.min_supervisors == (2 if made.is_fitted_to_supervisors else 1)
    aggregate(made, np.concatenate([one, one], 1))
    assert not caplog.text
    pooled = aggregate(make_aggregator(kind, student=True), one)
    assert ("learns of supervisors by comparing them, and there is 1" in caplog.text) == (made.min_supervisors == 2)
    if kind in ("dawid_skene", "agreement", "raven", "student_dawid_skene"):
        assert pooled == pytest.approx(one[:, 0]), "as it says: the mean of one vote"


def test_every_aggregator_gives_probabilities_of_new_rows_too_and_changes_nothing(name):
    table, more = planted(), planted(rows=7)
    before, aggregator = table.copy(), make_aggregator(name)
    for rows in (table, more):
        found = aggregator.fit(table)(rows)
        assert found.shape == (len(rows), 3) and np.isfinite(found).all() and (found >= 0).all()
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-9)
    np.testing.assert_array_equal(table, before)
    np.testing.assert_allclose(aggregate(name, table), aggregator.fit(table)(table), atol=1e-12)


def test_order_of_rows_supervisors_and_classes_changes_nothing(name):
    table = planted()
    rows, voters, classes = RNG.permutation(60), [2, 0, 3, 1], [1, 2, 0]
    moved = table[rows][:, voters][..., classes]
    # crowd-kit's MACE starts each supervisor elsewhere and stops after 50 steps, GLAD's M-step is not solved to the
    # end, and Wawa's first majority takes the first of classes that tie
    close = 0.05 if name in CROWD else 1e-6
    np.testing.assert_allclose(aggregate(name, moved), aggregate(name, table)[rows][:, classes], atol=close)


def test_unanimous_rows_have_their_class_and_no_weight_is_absence(name):
    table = planted(gaps=0.0)
    table[:3] = np.eye(3)[:, None]
    assert (aggregate(name, table)[:3].argmax(-1) == np.arange(3)).all()
    gone = table.copy()
    gone[:, 3] = np.nan
    np.testing.assert_allclose(aggregate(name, table, np.array([1.0, 1, 1, 0])), aggregate(name, gone), atol=1e-12)
    weights = np.array([3.0, 1.0, 1.0, 1.0])
    if make_aggregator(name).takes_weights:
        assert np.abs(aggregate(name, table, weights) - aggregate(name, table)).max() > 1e-6 or name == "majority"
        np.testing.assert_allclose(aggregate(name, table, 7 * weights), aggregate(name, table, weights), atol=1e-9)
        by_row = np.broadcast_to(weights, (60, 4)) * RNG.random((60, 1))
        np.testing.assert_allclose(aggregate(name, table, by_row), aggregate(name, table, weights), atol=1e-9)
    else:
        with pytest.raises(ValueError, match="weighs the supervisors itself"):
            aggregate(name, table, weights)


@pytest.mark.parametrize("name", ["mean", "log_linear", "dawid_skene"])
def test_one_voter_and_equal_voters_give_their_votes(name):
    alone = RNG.dirichlet(np.ones(3), (20, 1))
    for table in (alone, np.repeat(alone, 4, 1)):
        np.testing.assert_allclose(aggregate(name, table), alone[:, 0], atol=1e-12)


def test_without_gaps_the_pools_are_those_of_tensors():
    table, weights = planted(gaps=0.0), np.array([0.1, 0.2, 0.3, 0.4])
    pools = {"mean": linear_pool, "log_linear": log_linear_pool, "majority": majority_vote}
    for name, pool in pools.items():
        expected = pool(torch.from_numpy(table), torch.from_numpy(weights)).numpy()
        np.testing.assert_allclose(aggregate(name, table, weights), expected, atol=1e-12)


def test_gaps_by_loops():
    table = planted()
    for row, mean, geometric in zip(table, aggregate("mean", table), aggregate("log_linear", table), strict=True):
        there = [vote for vote in row if not np.isnan(vote).any()]
        np.testing.assert_allclose(mean, sum(there) / len(there), rtol=1e-12)
        product = np.prod(there, axis=0) ** (1 / len(there))
        np.testing.assert_allclose(geometric, product / product.sum(), rtol=1e-9)


def test_weighted_dawid_skene_counts_a_vote_so_many_times():
    """Two voters of weight 2 and 1 are the first with each vote counted 4/3 times, the second 2/3 times."""
    table = planted(voters=2, gaps=0.0)
    fitted = make_aggregator("dawid_skene").fit(table, np.array([2.0, 1.0]))
    logs = np.log(fitted.prior) + sum(
        share * np.einsum("rk,yk->ry", table[:, v], np.log(fitted.confusion[v]))
        for v, share in enumerate((4 / 3, 2 / 3))
    )
    expected = np.exp(logs) / np.exp(logs).sum(-1, keepdims=True)
    np.testing.assert_allclose(fitted(table, np.array([2.0, 1.0])), expected, atol=1e-9)


@pytest.mark.parametrize("name", CROWD)
def test_crowd_kit_says_the_same(name):
    kit, pandas = pytest.importorskip("crowdkit.aggregation"), pytest.importorskip("pandas")
    table = planted(rows=80, sharp=1e6)
    rows, voters = np.nonzero(~np.isnan(table[..., 0]))
    labels = table[rows, voters].argmax(-1)
    frame = pandas.DataFrame({"task": rows, "worker": voters, "label": labels})
    # its MACE mixes up supervisors and classes unless they appear in their order; its Wawa's own last step does not
    # run with scikit-learn 1.7
    order = {"worker": list(dict.fromkeys(voters)), "label": list(dict.fromkeys(labels))}
    coded = frame.assign(**{c: frame[c].map({x: i for i, x in enumerate(seen)}) for c, seen in order.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "wawa":
            expected = kit.MajorityVote().fit(frame, skills=kit.Wawa().fit(frame).skills_).probas_
        elif name == "mace":
            expected = kit.MACE().fit_predict_proba(coded).rename(columns=dict(enumerate(order["label"])))
        else:
            expected = kit.GLAD().fit_predict_proba(frame)
    fitted = make_aggregator(name).fit(table)
    np.testing.assert_allclose(fitted(table), expected.sort_index()[[0, 1, 2]].to_numpy(), atol=1e-6)
    if name != "glad":  # whose rows have difficulties of their own
        np.testing.assert_allclose(fitted(table[5:9]), fitted(table)[5:9], atol=1e-9)


@pytest.mark.parametrize("name", CROWD)
def test_votes_that_tie_count_as_none(name):
    pytest.importorskip("crowdkit.aggregation")
    table = planted(rows=30, voters=3, gaps=0.0)
    table[0], table[1, 0] = 1 / 3, [0.5, 0.5, 0.0]
    gone = table.copy()
    gone[1, 0] = np.nan
    found = aggregate(name, table)
    np.testing.assert_allclose(found[0], 1 / 3)
    np.testing.assert_allclose(found[1:], aggregate(name, gone)[1:], atol=1e-9)
    never = np.concatenate([table, np.full_like(table[:, :1], 1 / 3)], 1)
    np.testing.assert_allclose(aggregate(name, never)[1:], found[1:], atol=1e-9)


def test_without_crowd_kit_the_extra_is_named_and_the_others_work(monkeypatch):
    for module in ("crowdkit", "crowdkit.aggregation"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"crowd-kit.*pip install 'trl-weaks\[crowd\]'"):
        make_aggregator("glad")
    assert aggregate("mean", planted()).shape == (60, 3)


BAD = np.array([[[0.5, 0.5], [0.9, 0.1]], [[1.0, 0.0], [0.2, 0.8]]])


def changed(row, voter, vote):
    table = BAD.copy()
    table[row, voter] = vote
    return table


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        (BAD[0], None, "must be"),
        (BAD[:0], None, "must be"),
        (changed(1, 0, [0.4, 0.4]), None, "row 1: vote 0 = .* sum to 1"),
        (changed(1, 1, [np.nan, 1.0]), None, "row 1: vote 1"),
        (changed(0, 1, [1.5, -0.5]), None, "row 0: vote 1"),
        (changed(1, slice(None), np.nan), None, "row 1 has no vote"),
        (changed(1, 0, np.nan), [1.0, 0.0], "row 1 has no vote"),
        (BAD, [1.0], "weights"),
        (BAD, [1.0, -1.0], "weights must be finite"),
        (BAD, [1.0, np.inf], "weights must be finite"),
    ],
)
def test_bad_votes_are_named_by_every_aggregator(given, weights, message):
    for name in OURS:
        with pytest.raises(ValueError, match=message):
            aggregate(name, given, weights if weights is None else np.array(weights))


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda v, w: v[:, 0, :1], "must give probabilities"), (lambda v, w: v[:, 0] * 2, "for row 0, no probabilities")],
)
def test_what_an_aggregator_of_ones_own_gives_is_checked(function, message):
    with pytest.raises(ValueError, match=message):
        aggregate(base.RowByRow(function), BAD)
    with pytest.raises(
        ValueError, match="aggregator='median': no aggregator 'median'.* Choose one of .*mean, majority"
    ):
        aggregate("median", BAD)


ONE_HOT = np.eye(2)
DEGENERATE = {
    "each for one class": (np.tile(ONE_HOT, (6, 1, 1)), None),
    "all for one class": (np.tile(ONE_HOT[[0, 0]], (6, 1, 1)), None),
    "one row": (np.array([[[0.7, 0.3], [0.4, 0.6]]]), None),
    "one supervisor": (np.array([[[0.7, 0.3]], [[0.4, 0.6]]]), None),
    "all undecided": (np.full((4, 3, 2), 0.5), None),
    "no row in common": (np.array([[[0.7, 0.3], [np.nan] * 2], [[np.nan] * 2, [0.4, 0.6]]]), None),
    "unequal weights": (np.tile([[0.7, 0.3], [0.4, 0.6]], (4, 1, 1)), np.array([3.0, 1.0])),
    "probabilities of 0": (np.stack([ONE_HOT[[0, 1, 0]], ONE_HOT[[1, 0, 0]]], 1), None),
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_votes_that_give_too_little_are_labelled_or_refused_as_not_computable(name):
    """A study goes on without such a row; any other error would end it."""
    if name in CROWD:
        pytest.importorskip("crowdkit.aggregation")
    for table, weights in DEGENERATE.values():
        try:
            found = probabilities(make_aggregator(name, student=True).fit(table, weights), table, weights)
        except NotComputable as error:
            assert str(error)
        else:
            np.testing.assert_allclose(found.sum(-1), 1)


@pytest.mark.parametrize("module", [base, votes, dawid_skene, agreement], ids=lambda m: m.__name__)
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_the_package_gives_every_name_and_a_full_registry():
    from trl_weaks import aggregation

    assert sorted(aggregation.__all__) == sorted(aggregation._MODULES) == dir(aggregation)
    for name in aggregation.__all__:
        assert getattr(aggregation, name) is not None
    fresh = "from trl_weaks.aggregation import AGGREGATORS; print(*AGGREGATORS)"
    out = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, check=True)
    ours = {"mean", "majority", "log_linear", "dawid_skene", "agreement", "raven", "student_dawid_skene"}
    assert set(out.stdout.split()) == {*ours, *CROWD}
