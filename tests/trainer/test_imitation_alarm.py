"""The alarm for students that copy: planted trajectories, its numbers by loops, and real runs of both trainers."""

import doctest
import logging
import math

import pytest
import torch
from classification_runs import classifier, settings, weak_dataset
from classification_runs import tokenizer as words
from datasets import Dataset
from transformers import TrainerControl, TrainerState

from trl_weaks import ImitationAlarm, WeakPreferenceTrainer, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.common import imitation_alarm
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

COPIES = [(2, 0.60, 0.70), (4, 0.50, 0.71), (6, 0.45, 0.712), (8, 0.40, 0.713), (10, 0.35, 0.712)]
LEARNS = [(2, 0.60, 0.70), (4, 0.50, 0.75), (6, 0.45, 0.80), (8, 0.40, 0.83), (10, 0.35, 0.86)]
STAYS = [(step, 0.60, 0.70) for step, _, _ in COPIES]


def heard(points, caplog, alarm=None, prefix="eval", state=None):
    """The warnings of an alarm that meets these evaluations, one after another."""
    alarm, state = alarm or ImitationAlarm(), state or TrainerState()
    state.is_world_process_zero = True
    alarm.on_train_begin(None, state, TrainerControl())
    with caplog.at_level(logging.WARNING):
        for step, misfit, sure in points:
            log = {f"{prefix}_weak/misfit": misfit, f"{prefix}_weak/self_consistency": sure}
            state.log_history += [{"loss": 1.0, "step": step}, log | {"step": step}]
            alarm.on_evaluate(None, state, TrainerControl(), metrics=log | {f"{prefix}_loss": misfit})
    return [r.getMessage() for r in caplog.records if r.name == imitation_alarm.__name__], alarm, state


def test_it_warns_once_with_both_numbers_where_misfit_falls_and_consistency_stalls(caplog):
    (warning,), alarm, _ = heard([*COPIES, (12, 0.30, 0.713)], caplog)
    assert alarm.alarmed_at == 10
    assert "since update 4 its misfit" in warning and "fell from 0.5000 to 0.3500" in warning
    assert "self-consistency went from 0.7100 to 0.7120" in warning


@pytest.mark.parametrize("points", [LEARNS, STAYS, COPIES[:4], COPIES[::-1]], ids=["learns", "stays", "few", "worse"])
def test_it_is_silent_otherwise(caplog, points):
    warnings, alarm, _ = heard(points, caplog)
    assert not warnings and alarm.alarmed_at is None


def test_a_resumed_run_goes_on_and_does_not_warn_again(caplog, tmp_path):
    _, _, state = heard(COPIES[:3], caplog)
    state.save_to_json(str(tmp_path / "state.json"))
    resumed = TrainerState.load_from_json(str(tmp_path / "state.json"))
    warnings, alarm, state = heard(COPIES[3:], caplog, state=resumed)
    assert len(warnings) == 1 and alarm.alarmed_at == 10
    caplog.clear()
    warnings, alarm, _ = heard([(12, 0.30, 0.713)], caplog, state=state)
    assert not warnings and alarm.alarmed_at == 10


def test_evaluations_by_hand_after_training_are_not_watched(caplog):
    """A test set has gold alone, which was an error after its evaluation; one with weak labels gave a false alarm."""
    _, alarm, state = heard(COPIES[:3], caplog)
    alarm.on_train_end(None, state, TrainerControl())
    alarm.on_evaluate(None, state, TrainerControl(), metrics={"eval_loss": 1.0, "eval_accuracy": 0.5})
    log = {"eval_weak/misfit": 0.01, "eval_weak/self_consistency": 0.70}
    state.log_history.append(log | {"step": 8})
    alarm.on_evaluate(None, state, TrainerControl(), metrics=log | {"eval_loss": 1.0})
    assert alarm.alarmed_at is None and not caplog.records


def test_a_second_look_at_one_update_counts_once_and_other_sets_do_not(caplog):
    warnings, alarm, _ = heard([COPIES[0]] * 5, caplog, ImitationAlarm(min_drop=0.0))
    assert not warnings
    warnings, alarm, _ = heard(COPIES, caplog, ImitationAlarm(dataset="b"), "eval_a")
    assert not warnings and alarm.alarmed_at is None
    warnings, alarm, _ = heard(COPIES, caplog, ImitationAlarm(dataset="b"), "eval_b")
    assert len(warnings) == 1 and alarm.alarmed_at == 10


def test_numbers_of_classes_by_loops():
    probs, labels = (
        torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]),
        torch.tensor([[1.0, 0.0], [0.4, 0.6], [0, 1.0]]),
    )
    found = imitation_alarm.class_numbers(probs, labels, torch.tensor([True, True, False]))
    misfit = [
        sum(q * math.log(q / p) for p, q in zip(*row, strict=True) if q)
        for row in zip(probs.tolist(), labels.tolist(), strict=True)
    ]
    sure = [math.exp(sum(p * math.log(p) for p in row)) for row in probs.tolist()]
    assert found["weak/misfit"][0].tolist() == pytest.approx([*misfit[:2], 0.0])
    assert found["weak/self_consistency"][0].tolist() == pytest.approx([*sure[:2], 0.0])


def test_numbers_of_tokens_by_loops():
    label, p = [0.9, 1.0, 0.3], [0.6, 0.5, 0.3]
    entropy, weights = [0.2, 0.0, 1.1], [0.5, 1.0, 0.0]
    found = imitation_alarm.token_numbers(
        torch.tensor(label), torch.tensor(p).log(), torch.tensor(entropy), torch.tensor(weights)
    )
    for n in range(3):
        both = [(label[n], p[n]), (1 - label[n], 1 - p[n])]
        misfit = sum(q * math.log(q / s) for q, s in both if q > 0)
        assert float(found["weak/misfit"][n]) == pytest.approx(weights[n] * misfit, abs=1e-6)
        assert float(found["weak/self_consistency"][n]) == pytest.approx(weights[n] * math.exp(-entropy[n]))
    sure = imitation_alarm.token_numbers(torch.ones(1), torch.zeros(1), torch.zeros(1), torch.ones(1))
    assert float(sure["weak/misfit"]) == 0.0


def trained(folder, alarm, evaluation, rows, **changes):
    changes = {"eval_strategy": "epoch", "num_train_epochs": 6, "weak_loss": "naive", "gamma_max": 0.0} | changes
    trainer = WeakClassificationTrainer(
        classifier(), settings(folder, **changes), rows, evaluation, processing_class=words(), callbacks=[alarm]
    )
    trainer.train()
    return trainer


def unsure(data, share=0.55):
    """Every vote says the same little: all that there is to learn of it is the doubt."""
    return data.map(lambda row: {"weak_probs": [[share, 1 - share]]})


def test_a_classifier_that_learns_only_doubt_is_heard_and_its_numbers_are_those_of_its_predictions(tmp_path, caplog):
    alarm, held = ImitationAlarm(patience=2), unsure(weak_dataset(10, seed=1, gold=False))
    with caplog.at_level(logging.WARNING, imitation_alarm.__name__):
        trainer = trained(tmp_path, alarm, held, unsure(weak_dataset(40, gold=False)))
    logs = [log for log in trainer.state.log_history if "eval_weak/misfit" in log]
    assert len(logs) == 6 and logs[-1]["eval_weak/misfit"] < logs[0]["eval_weak/misfit"]
    assert alarm.alarmed_at is not None
    assert sum(record.name == imitation_alarm.__name__ for record in caplog.records) == 1
    probs = trainer.predict_classes(held).probabilities.double()
    labels = torch.tensor([[0.55, 0.45]], dtype=torch.float64)
    assert logs[-1]["eval_weak/misfit"] == pytest.approx(
        float((labels * (labels / probs).log()).sum(-1).mean()), abs=1e-5
    )
    assert logs[-1]["eval_weak/self_consistency"] == pytest.approx(
        float((probs * probs.log()).sum(-1).exp().mean()), abs=1e-5
    )
    assert "eval_weak/misfit" not in WeakClassificationTrainer(
        classifier(), settings(tmp_path / "plain"), weak_dataset(), processing_class=words()
    ).evaluate(held), "nobody watches"


def test_completions_log_both_numbers_and_padding_or_trees_do_not_change_them(
    student, weak_rows, tokenizer, arguments
):
    found = []
    for trees, batch in ((None, 4), (False, 3)):
        alarm = ImitationAlarm(dataset="held")
        args = arguments | {"eval_strategy": "epoch", "token_trees": trees, "per_device_eval_batch_size": batch}
        trainer = WeakSupervisionTrainer(
            model=student(), args=WeakSupervisionConfig(**args), train_dataset=Dataset.from_list(weak_rows[:6]),
            eval_dataset={"held": Dataset.from_list(weak_rows[6:]), "other": Dataset.from_list(weak_rows[:6])},
            processing_class=tokenizer, callbacks=[alarm],
        )  # fmt: skip
        metrics = trainer.evaluate()
        found.append([metrics["eval_held_weak/misfit"], metrics["eval_held_weak/self_consistency"]])
    trainer.train()
    points = alarm._points(trainer.state.log_history)
    assert len(points) == 2 and points[1][1] < points[0][1]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert 0 < found[0][1] < 1 < found[0][0]


GOLD = weak_dataset(4).remove_columns("weak_probs")


@pytest.mark.parametrize(
    ("alarm", "evaluation", "changes", "message"),
    [
        (ImitationAlarm(), None, {"eval_strategy": "no"}, "give held-out rows with weak labels as `eval_dataset`"),
        (ImitationAlarm(), weak_dataset(4), {"eval_strategy": "no"}, "set `eval_strategy` to 'steps' or 'epoch'"),
        (ImitationAlarm(), {"a": GOLD, "b": weak_dataset(4)}, {}, r"the evaluation sets are \['a', 'b'\]; name one"),
        (ImitationAlarm(dataset="c"), {"a": GOLD}, {}, r"dataset='c'\)`: the evaluation sets are \['a'\]"),
        (ImitationAlarm(), GOLD, {}, "the evaluation set has no weak labels. Hold out rows"),
        (ImitationAlarm(dataset="a"), {"a": GOLD, "b": weak_dataset(4)}, {}, "set 'a' has no weak labels"),
    ],
)
def test_an_alarm_that_would_see_nothing_is_refused(tmp_path, alarm, evaluation, changes, message):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, alarm, evaluation, weak_dataset(4), **changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patience": 0}, "patience=0 is a number of evaluations"),
        ({"patience": 1.5}, "patience=1.5"),
        ({"min_drop": 1.0}, "min_drop=1.0 is a share"),
        ({"min_rise": 0.0}, "min_rise=0.0 must be above 0"),
    ],
)
def test_arguments_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        ImitationAlarm(**given)


def test_pairs_have_no_weak_labels_to_copy():
    assert not WeakPreferenceTrainer.watches_imitation
    assert WeakSupervisionTrainer.watches_imitation and WeakClassificationTrainer.watches_imitation
    assert not doctest.testmod(imitation_alarm).failed
