"""Published examples, plain-loop derivations and limits of the agreement measures."""

from itertools import permutations, product

import numpy as np
import pytest

from trl_weaks.metrics.chance_corrected import (
    capa,
    cohen_kappa,
    effective_supervisors,
    fleiss_kappa,
    krippendorff_alpha,
)

# Fleiss (1971), as tabulated in many textbooks: 10 subjects, 14 raters, 5 categories; kappa = 0.210.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: nominal data with gaps; alpha = 0.743.
NONE = -1
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


def test_fleiss_of_the_original_example():
    votes = np.array([[k for k, count in enumerate(row) for _ in range(count)] for row in FLEISS])
    assert fleiss_kappa(votes) == pytest.approx(0.210, abs=5e-4)


def test_krippendorff_of_the_original_example():
    assert krippendorff_alpha(np.array(OBSERVERS).T) == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_by_plain_loops_over_ordered_pairs():
    rng = np.random.default_rng(0)
    votes = rng.integers(-1, 3, (30, 4))
    values, observed, weight = [], 0.0, 0.0
    for row in votes:
        given = [int(v) for v in row if v >= 0]
        if len(given) < 2:
            continue
        values += given
        observed += sum(a != b for a, b in permutations(given, 2)) / (len(given) - 1)
        weight += len(given)
    expected = sum(a != b for a, b in permutations(values, 2)) / (len(values) - 1)
    assert krippendorff_alpha(votes) == pytest.approx(1 - (observed / weight) / (expected / len(values)))


def test_cohen_by_its_definition_over_shared_examples():
    a, b = [0, 0, 1, 2, -1, 1, 2], [0, 1, 1, 2, 2, 1, -1]
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x >= 0 and y >= 0]
    seen = sum(x == y for x, y in pairs) / len(pairs)
    chance = sum(
        (sum(x == k for x, _ in pairs) / len(pairs)) * (sum(y == k for _, y in pairs) / len(pairs)) for k in range(3)
    )
    assert cohen_kappa(a, b) == pytest.approx((seen - chance) / (1 - chance))


@pytest.mark.parametrize("rows, rare", [(1_000_000, 3), (200_000, 1)])
def test_a_rare_class_is_no_lack_of_classes(rows, rare):
    votes = np.zeros(rows, int)
    votes[:rare] = 1
    assert cohen_kappa(votes, votes) == pytest.approx(1)
    assert fleiss_kappa(np.stack([votes, votes], 1)) == pytest.approx(1)
    assert np.isnan(cohen_kappa(votes * 0, votes * 0))


@pytest.mark.parametrize("measure", [fleiss_kappa, krippendorff_alpha])
def test_limits_and_invariances(measure):
    rng = np.random.default_rng(1)
    one = rng.integers(0, 3, (200, 1))
    assert measure(np.repeat(one, 3, axis=1)) == 1
    votes = rng.integers(0, 3, (4000, 3))
    assert abs(measure(votes)) < 0.03
    assert measure(votes[::-1, [2, 0, 1]]) == pytest.approx(measure(votes))
    assert measure((votes + 1) % 3) == pytest.approx(measure(votes))
    assert np.isnan(measure(np.zeros((5, 3), int)))  # nothing could have differed


def test_capa_by_plain_loops_and_its_limits():
    rng = np.random.default_rng(2)
    a, b = rng.dirichlet(np.ones(4), 50), rng.dirichlet(np.ones(4), 50)
    gold = rng.integers(0, 4, 50)
    seen = sum(sum(a[x, k] * b[x, k] for k in range(4)) for x in range(50)) / 50
    right_a, right_b = (sum(p[x, gold[x]] for x in range(50)) / 50 for p in (a, b))
    chance = right_a * right_b + (1 - right_a) * (1 - right_b) / 3
    assert capa(a, b, gold) == pytest.approx((seen - chance) / (1 - chance))
    hard = np.eye(4)[rng.integers(0, 4, 50)]
    assert capa(hard, hard, gold) == pytest.approx(1)


def test_effective_supervisors_of_copies_and_of_independent_errors():
    rng = np.random.default_rng(3)
    one = rng.integers(0, 2, (5000, 1)).astype(float)
    assert effective_supervisors(np.repeat(one, 4, axis=1)) == pytest.approx(1)
    assert effective_supervisors(rng.integers(0, 2, (20000, 4))) == pytest.approx(4, rel=0.05)
    half = np.concatenate([np.repeat(one, 2, axis=1), rng.integers(0, 2, (5000, 1))], axis=1)
    assert effective_supervisors(half) == pytest.approx(9 / 5, rel=0.05)
    assert effective_supervisors(np.zeros((10, 3))) == 3  # never wrong: no correlation to speak of


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: cohen_kappa([0, 1], [0]), "one class id per example"),
        (lambda: fleiss_kappa(np.array([0, 1])), "class ids"),
        (lambda: krippendorff_alpha(np.array([[0.5, 1.0]])), "class ids"),
        (lambda: krippendorff_alpha(np.array([[-2, 0]])), "class ids"),
        (lambda: capa(np.ones((2, 2)) / 2, np.ones((3, 2)) / 2, [0, 1]), r"give \(n, K\) twice"),
        (lambda: capa(np.eye(2), np.eye(2), [0, -1]), "row 1: its gold is none of the 2 classes"),  # -1: no gold
        (lambda: capa(np.eye(2), np.eye(2), [2, 0]), "row 0: its gold is none of the 2 classes"),
        (lambda: capa(np.eye(2), np.array([[1, 0], [np.nan, 1]]), [0, 1]), "row 1: its probabilities are not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_shared_is_not_a_number():
    assert np.isnan(cohen_kappa([0, -1], [-1, 0]))
    assert np.isnan(krippendorff_alpha(np.array([[0, -1], [-1, 1]])))


def tied_votes() -> np.ndarray:
    """(60, 3, 4): hard votes, and ties of two and of three classes."""
    tops = np.random.default_rng(3).integers(0, 2, (60, 3, 4)).astype(float)
    tops[..., 0] += tops.sum(-1) == 0
    return tops / tops.sum(-1, keepdims=True)


def every_draw(votes: np.ndarray) -> np.ndarray:
    """Class ids of every way to draw one class of each vote, each as often as it is likely, of 12 tickets."""
    rows = []
    for row in votes:
        tickets = [np.repeat(range(4), np.rint(12 * vote).astype(int)) for vote in row]
        rows += product(*tickets)
    return np.array(rows)


def test_votes_that_tie_count_as_all_draws_of_them_do():
    votes = tied_votes()[:12]
    drawn = every_draw(votes)
    assert cohen_kappa(votes[:, 0], votes[:, 1]) == pytest.approx(cohen_kappa(drawn[:, 0], drawn[:, 1]))
    assert fleiss_kappa(votes) == pytest.approx(fleiss_kappa(drawn))


def test_krippendorff_of_ties_by_plain_loops_over_ordered_pairs():
    votes = tied_votes()
    votes[np.random.default_rng(4).random((60, 3)) < 0.3] = np.nan
    values, observed, weight = [], 0.0, 0
    for row in votes:
        given = [vote for vote in row if not np.isnan(vote).any()]
        if len(given) >= 2:
            values += given
            observed += sum(1 - a @ b for a, b in permutations(given, 2)) / (len(given) - 1)
            weight += len(given)
    expected = sum(1 - a @ b for a, b in permutations(values, 2)) / (len(values) - 1)
    assert krippendorff_alpha(votes) == pytest.approx(1 - (observed / weight) / (expected / len(values)))


def test_shares_without_ties_are_class_ids_and_the_order_of_classes_is_nothing():
    ids = np.random.default_rng(5).integers(-1, 3, (80, 3))
    shares = np.where((ids >= 0)[..., None], np.eye(3)[ids], np.nan)
    tied = tied_votes()
    for measure in (fleiss_kappa, krippendorff_alpha, lambda votes: cohen_kappa(votes[:, 0], votes[:, 1])):
        assert measure(shares) == pytest.approx(measure(ids))
        assert measure(tied[..., [2, 0, 3, 1]]) == pytest.approx(measure(tied))
