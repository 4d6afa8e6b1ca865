"""Scores of the classification study by brute force, and what its report says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from trl_weaks.study.methods import choose_methods
from trl_weaks.study.paper_methods import class_headline, class_methods
from trl_weaks.study.report import class_scores as scores
from trl_weaks.study.report.class_results import (
    Predictions,
    compare,
    extra_scores,
    rank_correlation,
    vacuity_and_disagreement,
)
from trl_weaks.study.report.study import Gathered, report_rows
from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig

RNG = np.random.default_rng(0)


def probabilities(rows: int, classes: int, digits: int = 6) -> np.ndarray:
    found = RNG.dirichlet(np.ones(classes), rows).round(digits)
    return found / found.sum(-1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("digits", [1, 6])
def test_auroc_counts_pairs(classes, digits):
    table, labels = probabilities(40, classes, digits), RNG.integers(0, classes, 40)
    areas = []
    for k in [1] if classes == 2 else range(classes):
        pairs = [(a, b) for a in table[labels == k, k] for b in table[labels != k, k]]
        areas.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))
    assert scores.auroc(table, labels) == pytest.approx(np.mean(areas))


def test_auroc_without_two_kinds_is_not_there():
    assert scores.auroc(probabilities(5, 2), [1] * 5) is None


def test_votes_as_classifiers():
    votes = np.array([[[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]])
    np.testing.assert_allclose(scores.vote_probabilities(votes, None, "mean_vote"), [[1.7 / 3, 1.3 / 3]])
    np.testing.assert_allclose(scores.vote_probabilities(votes, None, "majority_vote"), [[0, 1]])
    np.testing.assert_allclose(scores.vote_probabilities(votes, [3.0, 1.0, 1.0], "majority_vote"), [[1, 0]])


def test_rank_correlation_by_scipy():
    a, b = RNG.normal(size=50).round(1), RNG.normal(size=50).round(1)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, np.ones(50)) == 0.0


class Run:
    """What `report_rows` asks of a run."""

    def __init__(self, supervisors):
        self.config = SimpleNamespace(supervisor_names=supervisors)
        self.methods = choose_methods(["naive", "single_a"], class_methods(supervisors), [], supervisors)
        self.splits = SimpleNamespace(half_b_has_gold=True)


def predictions(seeds: int = 2, rows: int = 30) -> Predictions:
    names = ["a", "b", "naive", "single_a", "ceiling", "mean_vote"]
    tables = {name: np.stack([probabilities(rows, 3) for _ in range(seeds)]) for name in names}
    return Predictions(RNG.integers(0, 3, rows), tables, {"naive": RNG.random((seeds, rows))})


def test_systems_have_roles_samples_and_scores():
    found = predictions()
    samples = {name: table.argmax(-1) == found.labels for name, table in found.probabilities.items()}
    gathered = Gathered(samples, None, extra={name: extra_scores(found, name) for name in samples})
    rows = {row["name"]: row for row in report_rows(Run(["a", "b"]), gathered)}
    assert [rows[n]["role"] for n in ("a", "naive", "ceiling", "mean_vote")] == [
        "weak",
        "method",
        "ceiling",
        "baseline",
    ]
    assert rows["single_a"]["supervisors"] == ["a"] and "supervisors" not in rows["naive"]
    hits = found.probabilities["naive"].argmax(-1) == found.labels
    np.testing.assert_array_equal(rows["naive"]["samples"], hits)
    assert "mean_vacuity" in rows["naive"]["extra"] and "mean_vacuity" not in rows["ceiling"]["extra"]


def test_pairs_are_compared_seed_by_seed():
    found = predictions()
    (pair,) = compare(found, ["naive", "ceiling"])
    hits = [found.probabilities[name].argmax(-1) == found.labels for name in ("naive", "ceiling")]
    for seed, test in enumerate(pair["seeds"]):
        assert test["first_only"] == (hits[0][seed] & ~hits[1][seed]).sum()
        assert test["second_only"] == (hits[1][seed] & ~hits[0][seed]).sum()


def test_texts_on_which_the_right_class_ties_are_compared_in_no_order_of_the_classes():
    tied, clear = [[0.5, 0.5]] * 3 + [[0.9, 0.1]], [[0.4, 0.6]] * 4
    labels = np.array([0, 0, 1, 0])
    found = Predictions(labels, {"tied": np.array([tied]), "clear": np.array([clear])}, {})
    turned = Predictions(1 - labels, {name: table[..., ::-1] for name, table in found.probabilities.items()}, {})
    for one in (found, turned):
        (pair,) = compare(one, ["tied", "clear"])
        (test,) = pair["seeds"]
        assert (test["first_only"], test["second_only"]) == (1, 0)


def test_vacuity_that_follows_disagreement_correlates():
    found = predictions(rows=50)
    gaps = np.abs(found.probabilities["a"] - found.probabilities["b"]).sum(-1) / 2
    following = Predictions(found.labels, found.probabilities, {"student": gaps**2, "other": -gaps})
    correlations = vacuity_and_disagreement(following, ["a", "b"])
    assert correlations["student"] == pytest.approx(1) and correlations["other"] == pytest.approx(-1)


def test_every_method_is_a_valid_configuration(tmp_path):
    methods = class_methods(["a", "b", "c"])
    assert len(methods) == 6 + 4 + 3 and set(class_headline(["a", "b", "c"])) < set(methods)
    losses = set()
    for method in methods.values():
        config = WeakClassificationConfig(str(tmp_path), use_cpu=True, bf16=False, **method.over({}))
        losses.add(json.dumps(repr(config.build_loss())))
        assert (config.gamma_max > 0) == ("aux" in method.name or "balanced" in method.name)
    assert len(losses) == 6
    with pytest.raises(ValueError, match="Unknown method 'nave'"):
        choose_methods(["nave"], methods, [], ["a"])
