"""Dawid and Skene's estimate: against plain loops where crowd-kit is installed, its plumbing everywhere."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas
import pytest

from trl_weaks.study.report import class_results as results
from trl_weaks.study.report.class_scores import dawid_skene
from trl_weaks.study.tasks.base import Example


def annotators(rows: int = 300, classes: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gold labels, and the hard votes (n, N) of a good annotator and four worse ones that err in two ways."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, classes, rows)
    ways = ((0.95, 1), (0.7, 1), (0.65, 2), (0.8, 1), (0.75, 2))
    hard = [np.where(rng.random(rows) < accuracy, gold, (gold + shift) % classes) for accuracy, shift in ways]
    return gold, np.stack(hard, 1)


def by_plain_loops(hard: np.ndarray, classes: int, steps: int = 100) -> np.ndarray:
    """EM of Dawid and Skene (1979), equations 2.3 to 2.5, from the shares of the votes."""
    rows, workers = hard.shape
    belief = np.array([[np.mean(hard[i] == k) for k in range(classes)] for i in range(rows)])
    for _ in range(steps):
        prior = belief.mean(0)
        errors = np.zeros((workers, classes, classes))
        for i in range(rows):
            for w in range(workers):
                errors[w, hard[i, w]] += belief[i]
        errors = np.maximum(errors, 1e-10)
        errors /= errors.sum(1, keepdims=True)
        for i in range(rows):
            for k in range(classes):
                belief[i, k] = prior[k] * np.prod([errors[w, hard[i, w], k] for w in range(workers)])
            belief[i] /= belief[i].sum()
    return belief


@pytest.mark.filterwarnings("ignore")
def test_crowd_kit_agrees_with_plain_loops():
    pytest.importorskip("crowdkit.aggregation")
    gold, hard = annotators()
    found = dawid_skene(np.eye(4)[hard])  # a fourth class that nobody votes for
    np.testing.assert_allclose(found[:, 3], 0)
    np.testing.assert_allclose(found[:, :3], by_plain_loops(hard, 3), atol=1e-3)  # it stops a little early
    majority = np.eye(3)[hard].sum(1).argmax(-1)
    assert (found.argmax(-1) == gold).mean() > (majority == gold).mean()


class Stand:
    """crowd-kit's interface as we call it: a table of votes in, a table of probabilities by task out, unordered."""

    def __init__(self, n_iter):
        assert n_iter > 1

    def fit_predict_proba(self, table):
        assert list(table.columns) == ["task", "worker", "label"]
        hard = table.pivot(index="task", columns="worker", values="label").to_numpy()
        seen = sorted(set(table["label"]))
        belief = by_plain_loops(np.searchsorted(seen, hard), len(seen))
        return pandas.DataFrame(belief, columns=seen).sort_index(ascending=False)[seen[::-1]]


def test_votes_go_in_and_come_out_by_row_and_class(monkeypatch):
    module = ModuleType("crowdkit.aggregation")
    module.DawidSkene = Stand
    monkeypatch.setitem(sys.modules, "crowdkit", ModuleType("crowdkit"))
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation", module)
    gold, hard = annotators(rows=60)
    votes = np.eye(4)[hard + (hard > 0)] * 0.7 + 0.075  # classes 0, 2 and 3; none for class 1
    expected = np.insert(by_plain_loops(hard, 3), 1, 0.0, axis=1)
    np.testing.assert_allclose(dawid_skene(votes), expected)


def test_without_crowd_kit_the_remedy_is_named_and_the_report_goes_on(monkeypatch):
    for name in ("crowdkit", "crowdkit.aggregation"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"crowd-kit.*pip install 'trl-weaks\[crowd\]'"):
        dawid_skene(np.full((2, 3, 2), 0.5))
    test = [Example("0", "no", 0), Example("1", "yes", 1)]
    task = SimpleNamespace(name="toy", classes=["no", "yes"], label=lambda example: example.target)
    lines = [{"probabilities": [0.6, 0.4], "vacuity": None}, {"probabilities": [0.3, 0.7], "vacuity": None}]
    monkeypatch.setattr(results, "read_predictions", lambda folder, rows: lines)
    config = SimpleNamespace(supervisor_names=["a", "b"], weak_weights=None)
    systems = {name: SimpleNamespace(folder=None) for name in ("a", "b", "ceiling")}
    run = SimpleNamespace(config=config, task=task, systems=systems, splits=SimpleNamespace(test=test))
    found = results.collect([run])
    assert "dawid_skene" not in found.probabilities and "mean_vote" in found.probabilities
    (reason,) = found.left_out
    assert reason.startswith("Dawid-Skene was left out") and "trl-weaks[crowd]" in reason
