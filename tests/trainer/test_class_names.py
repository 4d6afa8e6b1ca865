"""Class names travel from labels to the student and never meet in two orders; empty pools are refused early."""

import itertools

import pytest
import torch
from classification_runs import classifier, settings, tokenizer, weak_dataset
from datasets import ClassLabel, Dataset
from peft import LoraConfig
from transformers import AutoConfig

from trl_weaks.losses.evidential import EvidentialLoss
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.trainer.classification.sets import gold_votes
from trl_weaks.trainer.weak_classification_config import CHOICES
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

NAMES = ["no", "yes"]


def named(names=NAMES, **more) -> Dataset:
    rows = weak_dataset(**more)
    return rows.add_column("weak_classes", [list(names)] * len(rows))


def train(folder, model, rows, evaluation=None, **changes) -> WeakClassificationTrainer:
    args = settings(folder, max_steps=1, **changes)
    trainer = WeakClassificationTrainer(model, args, rows, evaluation, processing_class=tokenizer())
    trainer.train()
    return trainer


def student(names=None):
    model = classifier()
    if names:
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: k for k, n in enumerate(names)}
    return model


def test_the_students_checkpoint_carries_the_names(tmp_path):
    trainer = train(tmp_path, student(), named())
    trainer.save_model(str(tmp_path / "saved"))
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.id2label == {0: "no", 1: "yes"} and config.label2id == {"no": 0, "yes": 1}


def test_a_student_given_by_path_gets_them_too(tmp_path):
    student().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    trainer = train(tmp_path, str(tmp_path / "model"), named())
    assert trainer.model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("evidence", [None, "softplus"])
def test_an_adapters_folder_carries_the_names_and_the_dirichlet(tmp_path, evidence):
    """Three classes on a base that knows none; loaded, the adapter answers as the trainer predicts."""
    classifier().model.save_pretrained(tmp_path / "base")
    rows = named(["no", "yes", "so"], classes=3)
    chosen = {"weak_loss": "bayesian", "evidence": evidence} if evidence else {"weak_loss": "naive"}
    trainer = WeakClassificationTrainer(
        str(tmp_path / "base"), settings(tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=2, **chosen),
        rows, processing_class=tokenizer(), peft_config=LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]),
        loss=EvidentialLoss(evidence, evidence_offset=2.0) if evidence else None,
    )  # fmt: skip
    trainer.train()
    found = trainer.predict_classes(rows)
    loaded = WeakClassifier.from_pretrained(str(tmp_path / "run" / "checkpoint-2"), device="cpu")
    assert loaded.class_names == ["no", "yes", "so"]
    answered = loaded.predict(rows["text"])
    torch.testing.assert_close(answered.probabilities, found.probabilities, rtol=1e-4, atol=1e-6)
    assert (answered.vacuity is None) == (found.vacuity is None) == (evidence is None)
    if evidence:
        torch.testing.assert_close(answered.vacuity, found.vacuity, rtol=1e-4, atol=1e-6)


def test_names_of_a_class_label_column_count_as_well(tmp_path):
    rows = weak_dataset().cast_column("label", ClassLabel(names=NAMES))
    assert train(tmp_path, student(), rows).model.config.id2label == {0: "no", 1: "yes"}
    unnamed = weak_dataset().cast_column("label", ClassLabel(num_classes=2))
    assert train(tmp_path, student(["a", "b"]), unnamed).model.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    "own, rows, evaluation, message",
    [
        (["yes", "no"], named(), None, "`id2label` lists the classes as .*the same names in another order"),
        (["yes", "maybe"], named(), None, "name their classes differently"),
        (None, named(), named(["yes", "no"]), "The eval dataset lists the classes as"),
        (
            None,
            named(),
            weak_dataset().cast_column("label", ClassLabel(names=["yes", "no"])),
            "The eval dataset lists the classes as",
        ),
        (
            None,
            named().cast_column("label", ClassLabel(names=["yes", "no"])),
            None,
            "column 'label' lists the classes as",
        ),
    ],
)
def test_two_orders_of_the_same_names_are_refused(tmp_path, own, rows, evaluation, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, student(own), rows, evaluation)


def labelled(names) -> Dataset:
    return weak_dataset(rows=5).cast_column("label", ClassLabel(names=list(names))).remove_columns("weak_probs")


@pytest.mark.parametrize(
    "own, sets, message",
    [
        (["yes", "no"], {"a": labelled(NAMES)}, "The a dataset lists .*, the student's `id2label` as .*another order"),
        (None, {"a": labelled(NAMES), "b": labelled(["yes", "no"])}, "The b dataset lists .*, the a dataset as"),
        (None, {"a": labelled(NAMES), "b": named(["yes", "no"], rows=5)}, "The b dataset lists .*, the a dataset as"),
    ],
)
def test_training_rows_without_names_leave_them_to_others(tmp_path, own, sets, message):
    """Ids of a set mean what its names say: no two of the student, training and evaluation may list them otherwise."""
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train(tmp_path, student(own), weak_dataset(), sets)
    trainer = train(tmp_path, student(own), weak_dataset())
    for name, rows in list(sets.items())[:-1]:
        trainer.evaluate(rows, metric_key_prefix=name)
    with pytest.raises(ValueError, match="dataset lists the classes as"):
        trainer.predict(list(sets.values())[-1])


def test_gold_by_name_is_read_in_the_students_order(tmp_path):
    rows = weak_dataset(rows=5)  # an odd number: no accuracy is its own mirror image
    words = rows.map(lambda row: {"gold": ["yes", "no"][row["label"]]}).remove_columns(["label", "weak_probs"])
    trainer = train(tmp_path, student(["yes", "no"]), weak_dataset())
    expected = trainer.evaluate(rows.remove_columns("weak_probs"))["eval_accuracy"]
    assert trainer.evaluate(words.rename_column("gold", "label"))["eval_accuracy"] == expected


def test_rows_of_two_orders_are_refused(tmp_path):
    rows = named().to_list()
    rows[5]["weak_classes"] = ["yes", "no"]
    with pytest.raises(ValueError, match="row 5, column 'weak_classes' lists"):
        train(tmp_path, student(), Dataset.from_list(rows))


def test_a_geometric_pool_without_any_class_left_names_its_row(tmp_path):
    rows = weak_dataset(supervisors=2).to_list()
    rows[3]["weak_probs"] = [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match="row 3, column 'weak_probs': each class has probability 0"):
        train(tmp_path, student(), Dataset.from_list(rows), pooling="log_linear")


LOSSES = ("naive", "bayesian", "dirichlet_votes")
POOLINGS = ("linear", "log_linear", "majority", "dawid_skene")  # each aggregator: test_pooled_votes.py
COMBINATIONS = list(itertools.product(LOSSES, POOLINGS, [True, False], CHOICES["threshold"], [0.0, 0.5]))


@pytest.mark.parametrize("loss, pooling, soft, threshold, gamma", COMBINATIONS)
def test_every_combination_of_settings_trains_or_is_refused_before_training(
    tmp_path, loss, pooling, soft, threshold, gamma
):
    chosen = {"weak_loss": loss, "pooling": pooling, "soft_labels": soft, "threshold": threshold, "gamma_max": gamma}
    try:
        args = settings(tmp_path, max_steps=2, **chosen)
    except ValueError as error:
        assert any(f"{name}" in str(error) for name in chosen), error
        return
    trainer = WeakClassificationTrainer(student(), args, weak_dataset(), processing_class=tokenizer())
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2 and all(abs(loss) < 100 for loss in losses)


@pytest.mark.parametrize("written", [[3, 0, 2, 2], ["3", "0", "2", "2.0"]])
def test_where_classes_have_numbers_for_names_a_number_of_the_gold_is_a_name(tmp_path, written):
    rows = named(["0", "2", "3"], classes=3, rows=4)
    rows = rows.remove_columns([c for c in ("label",) if c in rows.column_names]).add_column("label", written)
    gold = rows.remove_columns(["weak_probs", "weak_weights"] if "weak_weights" in rows.column_names else "weak_probs")
    trainer = train(tmp_path, classifier(num_labels=3), rows, gold)
    assert trainer.train_dataset["labels"][:] == trainer.eval_dataset["labels"][:] == [2, 0, 1, 1]
    assert trainer.eval_dataset["weak_votes"][:] == [[[float(k == y) for k in range(3)]] for y in (2, 0, 1, 1)]
    sure = gold_votes(rows, 3)
    assert sure["weak_probs"][:] == trainer.eval_dataset["weak_votes"][:]
    again = train(tmp_path, classifier(num_labels=3), sure)
    assert again.train_dataset["labels"][:] == [2, 0, 1, 1], "ids are not read as names a second time"


def test_names_of_another_number_than_the_votes_have_classes_are_refused(tmp_path):
    """The student took them, and `num_labels` with them: its checkpoint could not be loaded."""
    rows, three = weak_dataset(rows=4), ClassLabel(names=["a", "b", "c"])
    model = classifier()
    for given in (rows.cast_column("label", three), rows.add_column("weak_classes", [three.names] * 4)):
        message = r"The {} dataset names 3 classes, \['a', 'b', 'c'\], and votes .* are probabilities of 2"
        with pytest.raises(ValueError, match=message.format("train")):
            WeakClassificationTrainer(model, settings(tmp_path), given, processing_class=tokenizer())
        for evaluation, name in ((given, "eval"), ({"part": given.remove_columns("weak_probs")}, "part")):
            with pytest.raises(ValueError, match=message.format(name)):
                WeakClassificationTrainer(model, settings(tmp_path), rows, evaluation, processing_class=tokenizer())
    assert model.config.num_labels == len(model.config.id2label) == 2
