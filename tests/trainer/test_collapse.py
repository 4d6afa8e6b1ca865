"""The watch for students of classes that answer a few of them: planted answers, and real runs."""

import logging
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


def planted(answers, labels, gamma_max=0.0, processes=1):
    """One batch in the last quarter, after one before it that does not count."""
    accelerator = SimpleNamespace(device="cpu", reduce=lambda table, how: table * processes)
    watch, state = collapse.CollapseWatch(accelerator, gamma_max), TrainerState()
    state.is_world_process_zero = True
    watch.on_train_begin(None, state, TrainerControl())
    labels = torch.as_tensor(labels)
    watch.see(torch.full((50,), 2), labels[:1].expand(50, -1), progress=0.74)
    for start in range(0, len(answers), 3):
        watch.see(torch.as_tensor(answers[start : start + 3]), labels[start : start + 3], progress=0.75)
    names = {0: "alarm", 1: "music", 2: "light", 3: "news"}
    model = SimpleNamespace(config=SimpleNamespace(num_labels=4, id2label=names))
    watch.on_train_end(None, state, TrainerControl(), model=model)


@pytest.mark.parametrize("processes", [1, 3])
def test_it_warns_where_most_answers_are_of_other_classes_than_the_labels(caplog, processes):
    labels = np.repeat(np.eye(4), 5, axis=0) * 0.6 + 0.1
    planted([1] * 18 + [0] * 2, labels, processes=processes)
    (warning,) = heard(caplog)
    assert "answers 'music' for 90 % of" in warning and "of that class for 25 %" in warning
    assert "gamma_max" not in warning
    caplog.clear()
    planted([1] * 18 + [0] * 2, labels, gamma_max=0.5)
    assert "(gamma_max=0.5)" in heard(caplog)[0] and "set gamma_max=0" in heard(caplog)[0]


@pytest.mark.parametrize("answers", [[0, 1, 2, 3] * 5, [0] * 10 + [1] * 10], ids=["all", "half of the classes"])
def test_it_is_silent_where_half_of_the_rows_may_be_right(caplog, answers):
    """Which rows have which class is not looked at: two of four classes answer for half of the labels."""
    planted(answers, np.repeat(np.eye(4), 5, axis=0))
    assert not heard(caplog)


def test_labels_that_tie_count_for_each_of_their_classes(caplog):
    """By loops: labels of 0 and 1 in equal parts, answers of 0 alone, are half apart and no more."""
    planted([0] * 20, [[0.5, 0.5, 0.0, 0.0]] * 20)
    assert not heard(caplog)
    planted([2] * 20, [[0.5, 0.5, 0.0, 0.0]] * 20)
    assert "of that class for 0 %" in heard(caplog)[0]


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
