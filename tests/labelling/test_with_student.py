"""Labels that a trained student helps to make: planted students and crowds, and what is refused."""

import logging
import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from trl_weaks.aggregation.base import NotComputable
from trl_weaks.aggregation.transforms import KeepBest, Relabel
from trl_weaks.labelling.with_student.co_supervised import CoSupervised
from trl_weaks.labelling.with_student.instance_votes import PooledByInstance
from trl_weaks.labelling.with_student.selective import Selective
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.labelling.with_student.two_stage import TwoStage
from trl_weaks.supervisors.class_predictions import ClassPredictions
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

RNG = np.random.default_rng(0)
TRANSFORMS = [Selective(), TwoStage(), CoSupervised(), PooledByInstance()]


class Scripted(WeakClassifier):
    """A student whose answers and states are written down, by text."""

    def __init__(self, probabilities, states):
        self.name, self.num_classes, self.table, self.states = (
            "scripted",
            probabilities.shape[1],
            probabilities,
            states,
        )

    def predict(self, texts, names=None, advance=None):
        return ClassPredictions(torch.tensor(self.table[[int(text) for text in texts]]).float())

    def hidden_states(self, texts, names=None):
        return torch.tensor(self.states[[int(text) for text in texts]]).float()


class Writer(WeakSupervisor):
    """A student that draws what is written down."""

    def __init__(self, drawn):
        self.name, self.drawn = "writer", drawn

    def answer(self, prompts, num_candidates, max_new_tokens, names, sampling, keys):
        assert sampling.temperature == 1 and names == [f"example {key!r}" for key in keys]
        return [[(text, text != "cut") for text in self.drawn[prompt][:num_candidates]] for prompt in prompts]


def soft(ids, classes, sure=0.8):
    off = (1 - sure) / (classes - 1)
    return off + (sure - off) * np.eye(classes)[np.asarray(ids)]


def rows(votes, start=0, **more):
    """Labels of texts that are their own number."""
    numbers = range(start, start + len(votes))
    plain = {"example_id": [str(n) for n in numbers], "text": [str(n) for n in numbers]}
    names = [[f"w{i}" for i in range(len(vote))] for vote in votes]
    weights = [[1 / len(vote)] * len(vote) for vote in votes]
    table = {"weak_probs": [np.asarray(v).tolist() for v in votes], "weak_weights": weights, "weak_supervisors": names}
    return Dataset.from_dict(plain | table | more)


def known(gold, start):
    numbers = [str(n) for n in range(start, start + len(gold))]
    return Dataset.from_dict({"example_id": numbers, "text": numbers, "label": list(map(int, gold))})


def right(labels, gold):
    weights = [
        np.average(v, axis=0, weights=w) for v, w in zip(labels["weak_probs"], labels["weak_weights"], strict=True)
    ]
    return (np.stack(weights).argmax(-1) == gold[[int(n) for n in labels["example_id"]]]).mean()


def crowd(n=600, classes=4):
    """A student that knows classes 0 and 1 and takes 2 for 3 and 3 for 2; supervisors with isolated errors."""
    gold = RNG.integers(0, classes, n)
    states = 4 * np.eye(classes)[gold] + 0.5 * RNG.normal(size=(n, classes))
    own = np.where(gold < 2, gold, 5 - gold)
    said = np.where(RNG.random((n, 1)) < 0.25, RNG.integers(0, classes, (n, 1)), gold[:, None])
    return gold, Scripted(soft(own, classes), states), soft(said, classes, 0.7)


def test_selective_keeps_what_the_student_knows_and_mends_the_rest():
    gold, student, votes = crowd()
    labels = rows(votes[:400])
    made = Selective()(labels, TrainedStudent(student, known(gold[400:], 400)))
    by_student = np.array([names == ["student"] for names in made["weak_supervisors"]])
    assert (by_student == (gold[:400] < 2)).mean() > 0.97
    assert right(labels, gold) < 0.88 and right(made, gold) > 0.98
    assert all(0 <= trust <= 1 for (trust,) in made["weak_trust"])
    alone = Selective(strength=0.0)(labels, TrainedStudent(student, known(gold[400:], 400)))
    rest = np.flatnonzero(~by_student)
    assert right(alone.select(rest), gold) < 0.9 < right(made.select(rest), gold), "smoothing mends isolated errors"
    nothing = Selective(threshold=1.0)(labels, TrainedStudent(student, known(gold[400:], 400)))
    assert all(names == ["smoothed"] for names in nothing["weak_supervisors"])


def test_disjoint_specialists_are_found_and_noise_is_left_out():
    classes, n = 6, 900
    gold = RNG.integers(0, classes, n)
    believed = np.where(RNG.random(n) < 0.75, gold, RNG.integers(0, classes, n))
    student = Scripted(soft(believed, classes, 0.7), np.zeros((n, 1)))
    own = gold[:, None] // 2 == np.arange(3)  # each knows two classes
    votes = np.where(own, gold[:, None], RNG.integers(0, classes, (n, 3)))
    labels = rows(soft(votes, classes))
    trained = TrainedStudent(student, known([], 0))
    found = CoSupervised(denoise=False)(labels, trained)
    specialist = np.array([int(names[0][1]) for names in found["weak_supervisors"]])
    assert (specialist == believed // 2).all()
    given = CoSupervised({f"w{i}": [2 * i, 2 * i + 1] for i in range(3)}, denoise=False)(labels, trained)
    assert given.to_list() == found.to_list()
    assert right(labels, gold) < right(found, gold)
    made = CoSupervised(top=1)(labels, trained)
    assert right(found, gold) + 0.1 < right(made, gold)
    agree = np.mean([np.argmax(votes[0]) == b for votes, b in zip(found["weak_probs"], believed, strict=True)])
    assert len(made) == math.ceil(agree * n - 1e-9) and made["example_id"] == sorted(made["example_id"], key=int)


def test_instances_are_pooled_by_who_is_good_there():
    n = 1200
    states, gold = RNG.normal(size=(n, 3)), RNG.integers(0, 3, n)
    up = states[:, :1] > 0
    chance = np.hstack([np.where(up, 0.95, 0.4), np.where(up, 0.4, 0.95)] * 2 + [np.full((n, 1), 0.7)])
    said = np.where(RNG.random((n, 5)) < chance, gold[:, None], RNG.integers(0, 3, (n, 5)))
    labels = rows(soft(said, 3, 0.99))
    made = PooledByInstance()(labels, TrainedStudent(Scripted(soft(gold, 3), states), known([], 0)))
    assert right(made, gold) > right(labels, gold) + 0.02 and made["weak_weights"][:] == [[1.0]] * n


def test_two_stages_bring_back_what_the_student_is_sure_of():
    """Noise in the half that supervisors are unsure of; the student is right there, and unsure of a third of it."""
    n = 300
    gold, weak_sure = RNG.integers(0, 3, n), np.arange(n) % 2 == 0
    said = np.where(weak_sure, gold, RNG.integers(0, 3, n))
    votes = np.where(weak_sure[:, None], soft(said, 3, 0.9), soft(said, 3, 0.5))
    own_sure = np.arange(n) % 3 > 0
    own = np.where(own_sure[:, None], soft(gold, 3, 0.8), soft((gold + 1) % 3, 3, 0.5))
    labels = rows(votes[:, None])
    made = TwoStage()(labels, TrainedStudent(Scripted(own, np.zeros((n, 1))), known([], 0)))
    assert made["example_id"][:] == [str(i) for i in range(n) if weak_sure[i] or own_sure[i]]
    assert right(made, gold) == 1.0 > 0.8 > right(labels, gold)
    by = [names[0] for names in made["weak_supervisors"]]
    assert by.count("student") == sum(~weak_sure & own_sure)
    assert KeepBest(0.5)(labels).to_list() == [row for row in made.to_list() if row["weak_supervisors"] == ["w0"]]
    all_in = TwoStage(share=1.0)(labels, TrainedStudent(Scripted(own, np.zeros((n, 1))), known([], 0)))
    assert all_in.to_list() == labels.to_list()
    none = TwoStage(confidence=0.9)(labels, TrainedStudent(Scripted(own, np.zeros((n, 1))), known([], 0)))
    assert none.to_list() == KeepBest(0.5)(labels).to_list()


def test_who_voted_is_said_of_the_new_labels_not_of_the_old():
    """Rows that the student labels have its vote as the one that was cast, and trust in old votes is of no new one."""
    votes = np.array([[[0.9, 0.1]], [[0.6, 0.4]]])
    cast = {"vote_supervisors": [["ann", "bob"]] * 2, "vote_probs": [[[1.0, 0.0], [0.8, 0.2]]] * 2}
    labels = rows(votes, **cast, weak_trust=[[0.7], [0.7]])
    trained = TrainedStudent(Scripted(np.array([[1.0, 0.0], [0.25, 0.75]]), np.eye(2)), known([0, 1], 0))
    made = TwoStage(share=0.5)(labels, trained)
    assert made["vote_supervisors"][:] == [["ann", "bob"], ["student"]]
    assert made["vote_probs"][:] == [[[1.0, 0.0], [0.8, 0.2]], [[0.25, 0.75]]]
    assert "weak_trust" not in made.column_names
    relabelled = Relabel(lambda row: [0.0, 1.0] if row["text"] == "1" else None)(labels)
    assert relabelled["vote_supervisors"][:] == [["ann", "bob"], ["relabelled"]]
    assert relabelled["vote_probs"][1] == [[0.0, 1.0]] and relabelled["weak_trust"][:] == [[0.7], [1.0]]


TEXTS = Dataset.from_dict(
    {
        "example_id": ["1", "2", "2", "3", "4"],
        "prompt": ["p", "q", "q", "r", "s"],
        "completion": ["sure", "x", "y", "z", "t"],
        "weak_supervisors": [["a", "b"], ["a"], ["b"], ["a", "b"], ["a"]],
        "weak_weights": [[0.5, 0.5], [0.5], [0.5], [0.5, 0.5], [1.0]],
        "weak_offsets": [[[[0, 1], [1, 1]]] * k for k in (2, 1, 1, 2, 1)],
        "weak_logps": [[[-0.1, -0.1]] * 2, [[-3.0, -3.0]], [[-2.0, -2.0]], [[-2.5, -2.5]] * 2, [[-4.0, -4.0]]],
        "weak_score": [-0.1, -3.0, -2.0, -2.5, -4.0],
        "weak_finished": [True] * 5,
    }
)


def test_two_stages_of_completions_keep_what_is_drawn_often(caplog):
    drawn = {"q": ["new"] * 7 + ["other"] * 3, "r": ["cut"] * 10, "s": ["b"] * 5 + ["a"] * 5}
    with caplog.at_level(logging.INFO):
        made = TwoStage(share=0.2)(TEXTS, TrainedStudent(Writer(drawn), TEXTS))
    assert [(row["example_id"], row["completion"]) for row in made] == [("1", "sure"), ("2", "new")]
    assert made[1]["weak_supervisors"] == ["relabelled"] and made[1]["weak_weights"] == [1.0]
    assert "1 rows were sure, 1 of 3 examples came back" in caplog.text
    tied = TwoStage(share=0.2, confidence=0.5)(TEXTS, TrainedStudent(Writer(drawn), TEXTS))
    assert tied["completion"][:] == ["sure", "new", "a"] and tied.features == TEXTS.features


VOTES = rows(soft([[0, 1, 1], [1, 1, 0]], 2))
STUDENT = TrainedStudent(Scripted(soft([0, 1], 2), np.eye(2)), known([0, 1], 0))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: type(one).__name__)
def test_what_it_does_not_apply_to_is_refused_with_the_reason(transform):
    three = TrainedStudent(Scripted(soft([0, 1], 3), np.eye(2)), known([0, 1], 0))
    with pytest.raises(ValueError, match="row 0, column 'weak_probs': votes of .2, 2, 2. classes; the student has 3"):
        transform(VOTES, three)
    with pytest.raises(ValueError, match="the labels have no row"):
        transform(VOTES.select([]), STUDENT)
    with pytest.raises(ValueError, match="the student is a Writer; give a `WeakClassifier`"):
        transform(VOTES, TrainedStudent(Writer({}), TEXTS))
    with pytest.raises(ValueError, match="writes no completion|completions have no class to choose"):
        transform(TEXTS, STUDENT)
    with pytest.raises(ValueError, match="neither a column 'text' nor 'prompt'"):
        transform(VOTES.remove_columns("text"), STUDENT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selective(threshold=1.5), "threshold=1.5"),
        (lambda: Selective(neighbours=0), "neighbours=0"),
        (lambda: Selective(strength=1.0), "strength=1.0"),
        (lambda: Selective(l2=-1.0), "l2=-1.0"),
        (lambda: TwoStage(share=0.0), "share=0.0"),
        (lambda: TwoStage(confidence=1.1), "confidence=1.1"),
        (lambda: TwoStage(samples=0), "samples=0"),
        (lambda: CoSupervised(top=0), "top=0"),
        (lambda: PooledByInstance(0.0), "ridge=0.0"),
        (lambda: Selective()(VOTES, TrainedStudent(STUDENT.student, known([0], 0))), "1 known examples have gold"),
        (lambda: TwoStage()(VOTES.remove_columns("example_id"), STUDENT), "no column 'example_id'"),
        (lambda: CoSupervised({"x": [0, 1]})(VOTES, STUDENT), "the specialist 'x' is none of"),
        (lambda: CoSupervised({"w0": [0]})(VOTES, STUDENT), "class 1 has no specialist"),
        (lambda: CoSupervised({"w0": [0, 1, 2]})(VOTES, STUDENT), "class 2 of 'w0' is none of 0 to 1"),
        (lambda: CoSupervised()(VOTES.remove_columns("weak_supervisors"), STUDENT), "tells supervisors apart"),
        (
            lambda: CoSupervised({"w2": [0, 1]})(rows([soft([0, 1, 1], 2), soft([0, 1], 2)]), STUDENT),
            "row 1: 'w2' is its specialist and gave no vote",
        ),
        (lambda: PooledByInstance()(rows(soft([[0, 1], [1, 1]], 2)), STUDENT), "with fewer than three"),
        (
            lambda: PooledByInstance()(VOTES.map(lambda row: {"weak_supervisors": ["a", "a", "b"]}), STUDENT),
            "row 0: 3 votes by .*name each supervisor once",
        ),
    ],
)
def test_bad_numbers_and_labels_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_known_examples_without_gold_are_no_mistakes_of_the_student():
    gold, student, votes = crowd()
    labels, some = rows(votes[:400]), known(gold[400:], 400)
    hidden = some.map(lambda row: {"label": -1 if int(row["text"]) % 2 else row["label"]})
    halved = some.filter(lambda row: int(row["text"]) % 2 == 0)
    assert (
        Selective()(labels, TrainedStudent(student, hidden))[:]
        == (Selective()(labels, TrainedStudent(student, halved))[:])
    )
    with pytest.raises(NotComputable, match="1 known examples have gold"):
        Selective()(labels, TrainedStudent(student, known([0, -1, -1], 400)))


def test_a_row_on_which_nobody_has_weight_is_named():
    gold, student, votes = crowd()
    labels = rows(votes[:50], weak_weights=[[float(row != 7)] for row in range(50)])
    with pytest.raises(ValueError, match="row 7, column 'weak_weights': all weights are 0"):
        Selective()(labels, TrainedStudent(student, known(gold[400:], 400)))
