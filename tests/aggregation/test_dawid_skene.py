"""Planted confusion matrices are found again; plain loops are the oracle."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import chi2

from trl_weaks.aggregation.dawid_skene import DawidSkene


def planted(classes, voters, rows=3000, gaps=0.3, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, classes, rows)
    accuracy = np.linspace(0.95, 0.45, voters)
    confusion = np.stack([np.full((classes, classes), (1 - a) / (classes - 1)) for a in accuracy])
    confusion[:, range(classes), range(classes)] = accuracy[:, None]
    votes = np.stack([[rng.choice(classes, p=confusion[v, y]) for v in range(voters)] for y in gold])
    votes = np.eye(classes)[votes]
    missing = rng.random((rows, voters)) < gaps
    missing[missing.all(1), 0] = False
    votes[missing] = np.nan
    return gold, confusion, votes


@pytest.mark.parametrize(("classes", "voters"), list(itertools.product((2, 5), (3, 10))))
def test_planted_confusions_are_recovered_within_sampling_error_and_beat_the_mean(classes, voters):
    gold, confusion, votes = planted(classes, voters)
    found = DawidSkene().fit(votes)
    # Wilks: twice the gain in log-likelihood over the truth is chi-squared, one degree for each free parameter
    gain = 2 * (found.log_likelihood[-1] - log_likelihood(votes, np.full(classes, 1 / classes), confusion))
    assert 0 < gain < chi2.ppf(0.999, voters * classes * (classes - 1) + classes - 1)
    if voters == 10:  # three leave the class of many rows open, and so their own errors
        counts = np.einsum("ry,rv->vy", np.eye(classes)[gold], ~np.isnan(votes[..., 0]))
        error = np.sqrt(confusion * (1 - confusion) / counts[..., None])
        assert (np.abs(found.confusion - confusion) < 5 * error).all()
    mean = np.nanmean(votes, 1).argmax(-1)
    assert (found(votes).argmax(-1) == gold).mean() > (mean == gold).mean()
    assert (np.diff(found.log_likelihood) > -1e-6).all()


def log_likelihood(votes, prior, confusion):
    likely = np.where(np.isnan(votes[..., :1]), 1, np.einsum("rvk,vyk->rvy", np.nan_to_num(votes), confusion))
    return np.log((likely.prod(1) * prior).sum(-1)).sum()


def test_one_step_equals_plain_loops():
    _, _, votes = planted(3, 3, rows=30)
    mean, found = np.nanmean(votes, 1), DawidSkene(steps=1).fit(votes)
    expected = []
    for row in votes:
        belief = [mean[:, y].mean() for y in range(3)]
        for v, vote in enumerate(row):
            if not np.isnan(vote[0]):
                k = int(vote.argmax())
                for y in range(3):
                    gave = [
                        math.fsum(m[y] for m, r in zip(mean, votes, strict=True) if r[v, j] == 1) for j in range(3)
                    ]
                    belief[y] *= max(gave[k], 1e-10) / math.fsum(max(g, 1e-10) for g in gave)
        expected.append(np.array(belief) / sum(belief))
    np.testing.assert_allclose(found.predict_proba(votes), expected, rtol=1e-9)


def test_equal_voters_one_voter_and_permutations():
    _, _, votes = planted(3, 4, rows=200)
    soft = np.random.default_rng(1).dirichlet([1, 1, 1], 50)
    for equal in (soft[:, None], np.repeat(soft[:, None], 3, 1)):
        np.testing.assert_allclose(DawidSkene().fit(equal).predict_proba(equal), soft, atol=1e-12)
    rows, voters = np.random.default_rng(2).permutation(200), [2, 0, 3, 1]
    moved = votes[rows][:, voters]
    plain = DawidSkene(steps=20).fit(votes).predict_proba(votes)
    np.testing.assert_allclose(DawidSkene(steps=20).fit(moved).predict_proba(moved), plain[rows], atol=1e-8)


def test_bad_votes_are_refused():
    with pytest.raises(ValueError, match="row 1 has no vote"):
        DawidSkene().fit(np.array([[[1.0, 0.0]], [[np.nan, np.nan]]]))
    with pytest.raises(ValueError, match="must be"):
        DawidSkene().fit(np.ones((2, 3)))


@pytest.mark.filterwarnings("ignore")
def test_crowd_kit_agrees_where_it_is_installed():
    crowdkit = pytest.importorskip("crowdkit.aggregation")
    import pandas

    _, _, votes = planted(3, 5, rows=300)
    rows, voters = np.nonzero(~np.isnan(votes[..., 0]))
    table = pandas.DataFrame({"task": rows, "worker": voters, "label": votes[rows, voters].argmax(-1)})
    theirs = crowdkit.DawidSkene(n_iter=300, tol=-math.inf).fit_predict_proba(table).sort_index()[[0, 1, 2]]
    ours = DawidSkene(steps=300, tolerance=-math.inf).fit(votes).predict_proba(votes)
    np.testing.assert_allclose(ours, theirs.to_numpy(), atol=1e-6)


def test_a_class_without_votes_gets_nothing():
    """Its confusion is unknown, hence flat; a flat class once explained rows whose voters contradict each other."""
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 300)
    hard = np.stack([np.where(rng.random(300) < p, gold, (gold + 1) % 3) for p in (0.95, 0.7, 0.65, 0.8, 0.75)], 1)
    with_it, without = (DawidSkene().fit(np.eye(k)[hard])(np.eye(k)[hard]) for k in (4, 3))
    np.testing.assert_array_equal(with_it[:, 3], 0)
    np.testing.assert_allclose(with_it[:, :3], without, atol=1e-12)
