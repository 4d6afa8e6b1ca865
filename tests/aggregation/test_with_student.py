"""Aggregators that learn with the student, against loops, autograd, planted supervisors and RAVEN's own numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

from trl_weaks.aggregation import Agreement, Raven, StudentDawidSkene, aggregate
from trl_weaks.aggregation.agreement import one_sided
from trl_weaks.aggregation.base import NotComputable


def planted(rows=400, accuracies=(0.9, 0.6, 0.6), classes=2, seed=0):
    """Gold, and one-hot votes of independent supervisors that are right so often."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(classes, size=rows)
    wrong = (gold[:, None] + generator.integers(1, classes, (rows, len(accuracies)))) % classes
    right = generator.random((rows, len(accuracies))) < accuracies
    return gold, np.eye(classes)[np.where(right, gold[:, None], wrong)]


def soft(shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).softmax(-1)


# Three updates of the weights by mlbio-epfl/raven (f959c17: train/tc/ensemble.py and loss.py), run once on these
# inputs at a learning rate of 0.05: `forward` combines logits, `combine_logits` probabilities.
AUTHORS = {
    "log_linear": [[0.335135, 0.333913, 0.330952], [0.335991, 0.333233, 0.330777], [0.333289, 0.333434, 0.333278]],
    "linear": [[0.334478, 0.335244, 0.330278], [0.335942, 0.333864, 0.330194], [0.333205, 0.334481, 0.332314]],
}


@pytest.mark.parametrize("combine", AUTHORS)
def test_the_authors_weights(combine):
    raven = None
    for step, expected in enumerate(AUTHORS[combine]):
        student = torch.sin(torch.arange(12, dtype=torch.float64) * 1.7 + step).view(4, 3).log_softmax(-1)
        votes = (2 * torch.cos(torch.arange(36, dtype=torch.float64) * 2.3 + step)).view(4, 3, 3).softmax(-1)
        if raven is None:
            raven = Raven(0.05, easy_start=0, combine=combine, guard=0).fit(votes.numpy())
        raven.update(raven.observe(student, votes, torch.ones(4, 3) / 3, 0.5).numpy())
        np.testing.assert_allclose(raven.weights, expected, atol=2e-6)


@pytest.mark.parametrize("combine", ["linear", "log_linear"])
def test_the_step_is_the_gradient_of_the_students_loss(combine):
    votes, student, given = soft((6, 3, 4)), soft((6, 4), 1).log(), torch.full((6, 3), 1 / 3, dtype=torch.float64)
    raven = Raven(0.1, easy_start=0, combine=combine, guard=0).fit(votes.numpy())
    raven.load({"weights": np.array([0.5, 0.3, 0.2])})
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64, requires_grad=True)
    if combine == "linear":
        target = (weights[:, None] * votes).sum(1)
    else:
        target = (weights[:, None] * votes.log()).sum(1).softmax(-1)
    np.testing.assert_allclose(raven(votes.numpy()), target.detach(), atol=1e-12)
    (-(target * student).sum(-1).mean()).backward()
    sums = raven.observe(student, votes, given, 0.5).numpy()
    np.testing.assert_allclose(sums[0] / sums[1], weights.grad, atol=1e-12)
    raven.update(sums)
    moved = np.clip(np.array([0.5, 0.3, 0.2]) - 0.1 * weights.grad.numpy(), 1e-6, None)
    np.testing.assert_allclose(raven.weights, moved / moved.sum(), atol=1e-12)


def test_given_weights_and_gaps_by_loops():
    votes, student = soft((5, 3, 2)), soft((5, 2), 1).log()
    given = torch.tensor([[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.8, 0], [0.5, 0.5, 0], [0, 1, 0]], dtype=torch.float64)
    table = np.where(given[..., None] > 0, votes, np.nan)
    raven = Raven(0.1, easy_start=0, guard=0).fit(table, given.numpy())
    sums = raven.observe(student, votes, given, 0.0)
    gradient = []
    for voter in (0, 1):
        parts = [
            (float(w), -float((v * s).sum()))
            for w, v, s in zip(given[:, voter], votes[:, voter], student, strict=True)
        ]
        gradient.append(sum(w * part for w, part in parts) / sum(w for w, _ in parts))
    gradient.append(sum(gradient) / 2)  # a supervisor that no row has moves as the others on average
    raven.update(sums.numpy())
    moved = 1 / 3 - 0.1 * np.array(gradient)
    np.testing.assert_allclose(raven.weights, moved / moved.sum(), atol=1e-12)
    np.testing.assert_allclose(raven.scaled(given).sum(-1), 1)
    assert (raven.scaled(given)[given == 0] == 0).all()


def test_the_weight_of_the_good_supervisor_grows_and_the_weights_stay_on_the_simplex():
    gold, votes = planted()
    raven = Raven(0.05).fit(votes)
    student = torch.from_numpy(np.where(np.eye(2)[gold] > 0, 0.8, 0.2)).log()
    table, given = torch.from_numpy(votes), torch.full((400, 3), 1 / 3, dtype=torch.float64)
    assert raven.observe(student, table, given, 0.05).abs().sum() == 0  # the weights rest in the first tenth
    seen = []
    for _ in range(20):
        raven.update(raven.observe(student, table, given, 0.5).numpy())
        seen.append(raven.weights[0])
        assert math.isclose(raven.weights.sum(), 1) and (raven.weights > 0).all()
    assert seen == sorted(seen) and seen[-1] > 0.6
    raven.reset()
    np.testing.assert_allclose(raven.weights, 1 / 3)


def test_only_unanimous_rows_teach_at_the_start():
    _, votes = planted(rows=50)
    raven = Raven().fit(votes)
    found = raven.teaching(torch.from_numpy(votes), torch.full((50, 3), 1 / 3), 0.0)
    assert found.tolist() == [bool((row.argmax(-1) == row[0].argmax()).all()) for row in votes]
    assert raven.teaching(torch.from_numpy(votes), torch.full((50, 3), 1 / 3), 0.1) is None
    alone = torch.zeros(50, 3)
    alone[:, 2] = 1.0
    assert raven.teaching(torch.from_numpy(votes), alone, 0.0).all()  # nobody else voted


def test_a_one_sided_supervisor_takes_over_without_the_guard_and_has_no_weight_with_it():
    _, votes = planted(accuracies=(0.6, 0.6, 0.6))
    votes[:, 2] = [1.0, 0.0]
    student = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log().expand(400, 2)  # a student that learned it
    table, given = torch.from_numpy(votes), torch.full((400, 3), 1 / 3, dtype=torch.float64)
    taken = {}
    for guard in (0.0, 0.1):
        raven = Raven(0.05, easy_start=0, guard=guard).fit(votes)
        for _ in range(20):
            raven.update(raven.observe(student, table, given, 0.5).numpy())
        taken[guard] = raven.weights[2]
    assert taken[0.0] > 0.6 and taken[0.1] == 0.0
    assert Agreement().fit(votes).weights[2] == 0.0
    rare = np.eye(2)[(np.arange(400)[:, None] % 50 == np.arange(3)).astype(int)]  # one class is rare for everybody
    assert not one_sided(rare, None).any()


def test_labels_of_hard_votes_where_a_one_sided_supervisor_is_left_out():
    """Who is left out may rule classes out without a say: that was 0 log 0, no number."""
    one = [1.0, 0.0]
    votes = np.array([[one, [0.2, 0.8], [0.3, 0.7]]] * 4 + [[one, [0.9, 0.1], [0.6, 0.4]]] * 4)
    raven = Raven(combine="log_linear").fit(votes)
    assert raven.silent.tolist() == [True, False, False]
    np.testing.assert_allclose(raven(votes), aggregate("log_linear", votes[:, 1:]), atol=1e-12)
    alone = votes.copy()
    alone[2, 1:] = np.nan
    for combine in ("linear", "log_linear"):
        with pytest.raises(NotComputable, match="row 2 has only votes of supervisors that the guard left out"):
            Raven(combine=combine).fit(votes)(alone)
    with pytest.raises(NotComputable, match="row 0 has a vote of probability 0"):
        raven(np.array([[one, one, [0.5, 0.5]]]))


def test_static_weights_by_loops_and_higher_for_the_better():
    gold, votes = planted(rows=60, accuracies=(0.95, 0.9, 0.5), classes=3)
    votes[::4, 1] = np.nan
    share = np.where(np.isnan(votes[..., 0]), 0, 1) / (~np.isnan(votes[..., 0])).sum(1, keepdims=True)
    found = []
    for voter in range(3):
        total, weight = 0.0, 0.0
        for row in range(60):
            others = [v for v in range(3) if v != voter and share[row, v] > 0]
            if share[row, voter] > 0 and others:
                mean = sum(votes[row, v] for v in others) / len(others)
                total, weight = total + share[row, voter] * votes[row, voter] @ mean, weight + share[row, voter]
        found.append(total / weight)
    static = Agreement().fit(votes)
    np.testing.assert_allclose(static.weights, np.array(found) / sum(found), atol=1e-12)
    assert static.weights.argmin() == 2
    np.testing.assert_allclose(Raven(init="agreement").fit(votes).weights, static.weights)
    assert (static(votes).argmax(-1) == gold).mean() >= (aggregate("mean", votes).argmax(-1) == gold).mean()


def by_loops(student, votes, confusion, tau):
    """Posterior of each row, one class at a time."""
    found = []
    for p, row in zip(student, votes, strict=True):
        scores = [
            p[y] ** tau * math.prod(confusion[v][y][row[v].argmax()] for v in range(len(row))) for y in range(len(p))
        ]
        found.append([s / sum(scores) for s in scores])
    return np.array(found)


def test_relabelling_is_a_fixed_point_of_em_and_its_likelihood_never_falls():
    _, votes = planted(rows=80, accuracies=(0.8, 0.7, 0.6), classes=3)
    student = soft((80, 3)).numpy()
    fitted = StudentDawidSkene(tau=0.7, tolerance=1e-14).fit(votes)
    found = fitted.relabel(student)
    np.testing.assert_allclose(found, by_loops(student, votes, fitted.learned, 0.7), atol=1e-6)
    for voter, y, k in itertools.product(range(3), range(3), range(3)):
        expected = (found[:, y] * votes[:, voter, k]).sum() / found[:, y].sum()
        assert fitted.learned[voter, y, k] == pytest.approx(expected, abs=1e-5)
    assert len(fitted.gains) > 2 and (np.diff(fitted.gains) >= -1e-9).all()
    np.testing.assert_array_equal(fitted.relabel(student), found)  # nothing of the last time is left


def test_a_student_better_than_each_supervisor_is_heard_and_the_planted_matrices_are_found():
    gold, votes = planted(rows=2000, accuracies=(0.75, 0.7, 0.65), classes=3)
    generator = np.random.default_rng(1)
    said = np.where(generator.random(2000) < 0.85, gold, (gold + generator.integers(1, 3, 2000)) % 3)
    student = np.where(np.eye(3)[said] > 0, 0.85, 0.075)
    fitted = StudentDawidSkene().fit(votes)
    before = (fitted.first.argmax(-1) == gold).mean()
    after = (fitted.relabel(student).argmax(-1) == gold).mean()
    assert after > 0.89 and after > max(before, 0.85) + 0.02
    right = [np.diag(matrix).mean() for matrix in fitted.learned]
    np.testing.assert_allclose(right, [0.75, 0.7, 0.65], atol=0.03)
    logged = fitted.logged(["a", "b", "c"])
    assert list(logged) == ["accuracy_a", "accuracy_b", "accuracy_c"]
    np.testing.assert_allclose(list(logged.values()), right, atol=0.02)
    fitted.reset()
    assert fitted.learned is fitted.confusion
    even = StudentDawidSkene(tau=0.0).fit(votes)  # the student is not heard
    np.testing.assert_allclose(even.relabel(student), even.relabel(student[::-1]))


def test_raven_starts_with_all_rows_where_supervisors_agree_on_none(caplog):
    """A run over many methods goes on; who set the fraction is told instead that it cannot be kept."""
    apart, agreed = np.eye(2)[[[0, 1], [1, 0]]], np.eye(2)[[[0, 0], [1, 0]]]
    raven = Raven(guard=0).fit(agreed)
    given = torch.tensor(agreed), torch.ones(2, 2)
    assert raven.easy_start == 0.1 and raven.teaching(*given, 0.0).tolist() == [True, False]
    assert raven.fit(apart).easy_start == 0 and raven.teaching(torch.tensor(apart), given[1], 0.0) is None
    assert "agree on no row" in caplog.text
    assert raven.fit(agreed).easy_start == 0.1, "each set anew"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Raven(learning_rate=-1), "learning_rate=-1 must be at least 0"),
        (lambda: Raven(learning_rate=math.nan), "learning_rate=nan must be"),
        (lambda: Raven(easy_start=1.0), "easy_start=1.0 is a fraction"),
        (lambda: Raven(combine="product"), "combine='product' must be one of linear, log_linear"),
        (lambda: Raven(init="best"), "init='best' must be one of uniform, agreement"),
        (lambda: Raven(floor=0), "floor=0 must be in"),
        (lambda: Raven(guard=1), "guard=1 must be in"),
        (lambda: Agreement(guard=-0.1).fit(planted(5)[1]), "guard=-0.1 must be in"),
        (lambda: Raven(combine="log_linear").fit(planted(5)[1]), "row 0 has a vote of probability 0"),
        (lambda: Raven().fit(np.eye(2)[[[0, 1], [0, 1]]]), "every supervisor votes for one class alone"),
        (lambda: Raven(easy_start=0.1, guard=0).fit(np.eye(2)[[[0, 1], [1, 0]]]), "agree on no row"),
        (lambda: Raven().fit(planted()[1]).load({}), "weights are not those of 3 supervisors"),
        (lambda: Raven().fit(planted()[1]).load({"weights": np.ones(2)}), "not those of 3 supervisors"),
        (lambda: StudentDawidSkene(tau=-1), "tau=-1 must be at least 0"),
        (lambda: StudentDawidSkene(every=0), "every=0 is a number of updates"),
        (lambda: StudentDawidSkene(every=True), "every=True is a number of updates"),
        (lambda: StudentDawidSkene(steps=0), "steps=0 of EM"),
        (lambda: StudentDawidSkene().fit(planted(9)[1]).relabel(np.ones((8, 2))), r"are \(8, 2\), the labels \(9"),
        (lambda: StudentDawidSkene().fit(planted(3)[1]).relabel(np.full((3, 2), np.nan)), "row 0: the student gives"),
        (lambda: StudentDawidSkene().fit(planted()[1]).load({}), "confusion matrices are not"),
        (lambda: aggregate("raven", planted(5)[1]), "'raven' learns from a student while it trains.*pooling='raven'"),
        (lambda: aggregate("student_dawid_skene", planted(5)[1]), "learns from a student while it trains"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
