"""Losses that know supervisors by their places in the votes: `realm` with an expertise of each, and a user's own."""

import math

import pytest
import torch
from classification_runs import classifier, settings, tokenizer
from datasets import Dataset

from trl_weaks.losses import LOSSES, register_loss
from trl_weaks.losses.base import as_weak_loss
from trl_weaks.losses.realm import Realm
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

EXPERTISE = [0.99, 0.6, 0.2]
WHOLE = {"text": "wake me up", "weak_supervisors": ["a", "b", "c"], "weak_probs": [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]}
LACKING = {"text": "play some jazz", "weak_supervisors": ["b", "c"], "weak_probs": [[1.0, 0.0], [0.0, 1.0]]}
SWAPPED = WHOLE | {"weak_supervisors": ["c", "b", "a"], "weak_probs": [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]}


def build(folder, rows, evaluation=None, loss=None, **changes) -> WeakClassificationTrainer:
    given = {"gamma_max": 0.0, "max_steps": 1} | changes
    return WeakClassificationTrainer(
        classifier(), settings(folder, **given), Dataset.from_list(rows), evaluation, tokenizer(), loss
    )


@pytest.mark.parametrize("row, by", [(LACKING, r"\['b', 'c'\]"), (SWAPPED, r"\['c', 'b', 'a'\]")])
@pytest.mark.parametrize("loss", ["by name", "given", "a function"])
def test_rows_in_other_places_are_refused(tmp_path, row, by, loss):
    def mine(logits, votes, progress, weights):
        return Realm(EXPERTISE)(logits, votes, progress, weights)

    mine.sees_votes = mine.tells_supervisors_apart = True
    changes = {"weak_loss": "realm", "loss_kwargs": {"expertise": EXPERTISE}} if loss == "by name" else {}
    loss = {"by name": None, "given": Realm(EXPERTISE), "a function": mine}[loss]
    message = f"dataset, row 1: its votes are by {by}, and those of the training rows by .'a', 'b', 'c'.*one order"
    with pytest.raises(ValueError, match=f"train {message}"):
        build(tmp_path, [WHOLE, row], loss=loss, **changes)
    with pytest.raises(ValueError, match=f"eval {message}"):
        build(tmp_path, [WHOLE], Dataset.from_list([WHOLE, row]), loss=loss, **changes)
    build(tmp_path, [WHOLE, WHOLE], loss=loss, **changes).train()


def test_one_expertise_for_all_takes_any_rows(tmp_path):
    trainer = build(tmp_path, [WHOLE, LACKING, SWAPPED], weak_loss="realm", loss_kwargs={"expertise": 0.7})
    assert not trainer.weak_loss.tells_supervisors_apart and Realm.tells_supervisors_apart is False


def test_gold_is_evaluated_as_one_vote_of_the_mean_expertise(tmp_path):
    trainer = build(tmp_path, [WHOLE], weak_loss="realm", loss_kwargs={"expertise": EXPERTISE})
    found = trainer.evaluate(Dataset.from_dict({"text": ["play some jazz"], "label": [1]}))["eval_loss"]
    logits = trainer.model.eval()(torch.tensor([tokenizer()("play some jazz")["input_ids"]])).logits[0].double()
    e = sum(EXPERTISE) / 3
    assert found == pytest.approx(-math.log(e * logits.softmax(-1)[1].item() + (1 - e) / 2), rel=1e-5)


def test_training_rows_of_fewer_votes_than_the_list_are_refused(tmp_path):
    one = {"text": "play some jazz", "weak_probs": [[1.0, 0.0]]}
    with pytest.raises(ValueError, match="train dataset has 1 vote a row, and `Realm` was given one number for each"):
        build(tmp_path, [one], weak_loss="realm", loss_kwargs={"expertise": EXPERTISE})


def test_training_rows_of_more_votes_than_the_list_are_refused(tmp_path):
    """Before the first batch, which would refuse them too."""
    with pytest.raises(ValueError, match="train dataset has 3 votes a row, and `Realm` was given numbers for 2: give"):
        build(tmp_path, [WHOLE], weak_loss="realm", loss_kwargs={"expertise": EXPERTISE[:2]})
    build(tmp_path, [WHOLE], weak_loss="realm", loss_kwargs={"expertise": EXPERTISE[:1] * 3})


def test_a_registered_function_declares_it():
    @register_loss("apart")
    def apart(logits, votes, progress, weights):
        return logits.sum(-1)

    assert not LOSSES["apart"].tells_supervisors_apart
    apart.needs_votes = apart.tells_supervisors_apart = True
    register_loss("apart_too")(apart)
    assert LOSSES["apart_too"].tells_supervisors_apart and LOSSES["apart_too"]().tells_supervisors_apart
    assert as_weak_loss(apart).tells_supervisors_apart and not as_weak_loss(lambda *given: 0).tells_supervisors_apart
