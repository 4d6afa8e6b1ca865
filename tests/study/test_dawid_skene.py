"""Dawid and Skene's estimate as a row of the report, against plain loops."""

from types import SimpleNamespace

import numpy as np

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


def test_the_row_of_the_report_agrees_with_plain_loops():
    gold, hard = annotators()
    votes = np.eye(4)[hard] * 0.7 + 0.075  # soft votes; a fourth class that nobody chooses
    found = dawid_skene(votes)
    np.testing.assert_allclose(found[:, 3], 0, atol=1e-9)
    np.testing.assert_allclose(found[:, :3], by_plain_loops(hard, 3), atol=1e-3)
    majority = np.eye(3)[hard].sum(1).argmax(-1)
    assert (found.argmax(-1) == gold).mean() > (majority == gold).mean()


def test_votes_are_read_from_the_predictions_of_the_supervisors(monkeypatch):
    test = [Example("0", "no", 0), Example("1", "yes", 1)]
    task = SimpleNamespace(name="toy", classes=["no", "yes"], label=lambda example: example.target)
    lines = [{"probabilities": [0.6, 0.4], "vacuity": None}, {"probabilities": [0.3, 0.7], "vacuity": None}]
    monkeypatch.setattr(results, "read_predictions", lambda folder, rows: lines)
    config = SimpleNamespace(supervisor_names=["a", "b"], weak_weights=None, calibrate=False)
    systems = {name: SimpleNamespace(folder=None) for name in ("a", "b", "ceiling")}
    found = results.collect(
        [SimpleNamespace(config=config, task=task, systems=systems, splits=SimpleNamespace(test=test))]
    )
    assert found.probabilities["dawid_skene"][0].argmax(-1).tolist() == [0, 1] == found.labels.tolist()
    np.testing.assert_allclose(found.probabilities["mean_vote"][0], [[0.6, 0.4], [0.3, 0.7]])
