"""The watch for students of classes that answer a few of them: planted answers, and real runs."""

import logging
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classification_runs import classifier, hard_dataset, settings, tokenizer
from transformers import TrainerControl, TrainerState

from trl_weaks.trainer.classification import collapse
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer


def heard(caplog):
    return [r.getMessage() for r in caplog.records if r.name == collapse.__name__]


def planted(answers, labels, gamma_max=0.0, processes=1, teaching=None):
    """One batch in the last quarter, after one before it that does not count."""
    accelerator = SimpleNamespace(device="cpu", reduce=lambda table, how: table * processes)
    watch, state = collapse.CollapseWatch(accelerator, gamma_max), TrainerState()
    state.is_world_process_zero = True
    watch.on_train_begin(None, state, TrainerControl())
    labels = torch.as_tensor(np.asarray(labels))
    teaching = torch.ones(len(labels)) if teaching is None else torch.as_tensor(teaching)
    watch.see(torch.ones(50, dtype=torch.long), labels[:1].expand(50, -1), torch.ones(50), progress=0.74)
    for start in range(0, len(answers), 7):
        rows = slice(start, start + 7)
        watch.see(torch.as_tensor(answers[rows]), labels[rows], teaching[rows], progress=0.75)
    names = {k: f"class {k}" for k in range(labels.shape[1])}
    model = SimpleNamespace(config=SimpleNamespace(num_labels=labels.shape[1], id2label=names))
    watch.on_train_end(None, state, TrainerControl(), model=model)


def one_hot(*counts):
    """Labels with so many rows of each class."""
    return np.repeat(np.eye(len(counts)), counts, axis=0)


@pytest.mark.parametrize("counts", [(15, 15), (18, 12), (17, 7, 6), (60, 10, 10, 10, 10), [2] * 20])
@pytest.mark.parametrize("processes", [1, 3])
def test_it_warns_where_one_class_is_answered_for_all(caplog, counts, processes):
    planted([0] * sum(counts), one_hot(*counts), processes=processes)
    (warning,) = heard(caplog)
    share = 100 * counts[0] / sum(counts)
    assert "answers 'class 0' for 100 % of" in warning and f"of that class for {share:.0f} %" in warning
    assert "gamma_max" not in warning
    caplog.clear()
    planted([0] * sum(counts), one_hot(*counts), gamma_max=0.5)
    assert "(gamma_max=0.5)" in heard(caplog)[0] and heard(caplog)[0].endswith("set gamma_max=0.")


def test_what_is_counted_by_loops(caplog):
    """Seven of forty classes, and nearly one, against the criterion written out."""
    labels = one_hot(*[3] * 40)
    for kinds, sure in ((7, 0), (1, 0), (7, 113), (14, 0), (40, 0)):
        answers = [0] * sure + [i % kinds for i in range(120 - sure)]
        entropy = [-sum(n / 120 * math.log(n / 120) for n in c) for c in (Counter(answers).values(), [3] * 40)]
        far_fewer = math.exp(entropy[0]) - 1 < 0.25 * (math.exp(entropy[1]) - 1)
        caplog.clear()
        planted(answers, labels)
        assert len(heard(caplog)) == far_fewer, (kinds, sure)


def test_it_is_silent_of_students_that_are_often_wrong_of_few_rows_and_of_one_class(caplog):
    draw = np.random.default_rng(0)
    for classes, rows in ((60, 25), (20, 20), (77, 50), (60, 50)):
        for _ in range(50):
            labels = draw.integers(classes, size=rows)
            wrong = draw.integers(classes, size=rows)
            planted(np.where(draw.random(rows) < 0.4, labels, wrong), np.eye(classes)[labels])
    planted([0] * 19, one_hot(10, 9))
    planted([0] * 100, one_hot(92, 8))
    planted([0] * 100, one_hot(100, 0))
    assert not heard(caplog)


def test_rows_that_do_not_teach_and_ties(caplog):
    planted([0] * 30 + [1] * 15 + [0] * 15, one_hot(0, 30, 30)[:, 1:], teaching=[0.0] * 30 + [1.0] * 30)
    assert len(heard(caplog)) == 0, "of two classes where no label of the first teaches"
    planted([0] * 30, [[0.5, 0.5, 0.0]] * 30)
    assert "of that class for 50 %" in heard(caplog)[0]


@pytest.mark.parametrize("stuck", [True, False])
def test_a_student_that_says_one_class_of_four_is_named_after_training(tmp_path, caplog, stuck):
    student, rows = classifier(num_labels=4), hard_dataset(24, classes=4)
    if stuck:
        student.score.weight.data.zero_()  # all classes tie, and the first is answered
    given = settings(
        tmp_path, num_train_epochs=4 if stuck else 12, learning_rate=0.0 if stuck else 1e-2, weak_loss="naive"
    )
    trainer = WeakClassificationTrainer(model=student, args=given, train_dataset=rows, processing_class=tokenizer())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert len(heard(caplog)) == stuck
