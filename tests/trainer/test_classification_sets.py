"""Sets of texts in every form that users bring: read as what they say, or refused with row, column and remedy."""

import pytest
import torch
from classification_runs import classifier, settings, texts, tokenizer, weak_dataset
from datasets import Dataset, DatasetDict

from trl_weaks.losses.dirichlet_votes import DirichletVotes
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

PLAIN = {"weak_loss": "naive", "gamma_max": 0.0, "max_steps": 2, "learning_rate": 0.0}


def build(folder, dataset=None, evaluation=None, model=None, extra=None, **changes) -> WeakClassificationTrainer:
    dataset = weak_dataset() if dataset is None else dataset
    return WeakClassificationTrainer(
        model or classifier(), settings(folder, **{**PLAIN, **changes}), dataset, evaluation,
        processing_class=tokenizer(), **(extra or {}),
    )  # fmt: skip


def votes(value) -> Dataset:
    return Dataset.from_dict({"text": texts(3), "weak_probs": [value] * 3})


@pytest.mark.parametrize(
    "dataset, message",
    [
        (votes([0, 1, 1]), r"row 0, column 'weak_probs' = \[0, 1, 1\] is not one list of class prob.*class id k"),
        (votes([0.5, 0.5]), r"row 0, column 'weak_probs' = \[0.5, 0.5\] is not one list"),
        (votes(1), r"row 0, column 'weak_probs' = 1 is not one list"),
        (votes(["no", "yes"]), r"row 0, column 'weak_probs' = \['no', 'yes'\] is not one list"),
        (votes([["no", "yes"]]), r"row 0.*vote 0 = \['no', 'yes'\] holds a value that is no probability"),
        (votes([[[0.5, 0.5], [0.5, 0.5]]]), r"row 0.*holds a value that is no probability"),
        (weak_dataset(rows=3).add_column("weak_weights", [1.0] * 3), r"row 0, column 'weak_weights' = 1.0 is not a l"),
        (weak_dataset(rows=3).add_column("weak_weights", [["a"] * 3] * 3), r"row 0, column 'weak_weights'.*finite"),
        (weak_dataset(rows=3).with_transform(lambda rows: rows), r"has a transform.*`map`"),
        (weak_dataset(rows=3).to_iterable_dataset(), r"must be a `datasets.Dataset`, got IterableDataset"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_named(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(tmp_path, dataset)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_format_changes_nothing(tmp_path, kind):
    rows = weak_dataset(rows=5)
    plain, given = build(tmp_path, rows), build(tmp_path, rows.with_format(kind), rows.with_format(kind))
    assert given.train_dataset.to_dict() == given.eval_dataset.to_dict() == plain.train_dataset.to_dict()


def test_integers_that_are_probabilities_are_probabilities(tmp_path):
    assert build(tmp_path, votes([[0, 1], [1, 0]])).train_dataset[0]["weak_votes"] == [[0.0, 1.0], [1.0, 0.0]]


def test_streams_are_refused_wherever_they_are_given(tmp_path):
    stream, trainer = weak_dataset(rows=3).to_iterable_dataset(), build(tmp_path)
    for attempt in (
        lambda: build(tmp_path, evaluation=stream),
        lambda: build(tmp_path, evaluation={"a": weak_dataset(rows=3), "b": stream}),
        lambda: trainer.evaluate(stream),
        lambda: trainer.predict(stream),
        lambda: trainer.predict_classes(stream),
    ):
        with pytest.raises(ValueError, match=r"The (eval|b|test) dataset must be a `datasets.Dataset`, got Iterable"):
            attempt()


def test_gold_may_be_names(tmp_path):
    rows = weak_dataset(rows=4, gold=False).add_column("weak_classes", [["no", "yes"]] * 4)
    trainer = build(tmp_path, rows.add_column("label", ["yes", "No ", "no", "YES"]))
    assert trainer.train_dataset["labels"][:] == [1, 0, 0, 1]
    gold = Dataset.from_dict({"text": texts(3), "label": ["yes", "yes", "no"]})  # the training data's names
    assert trainer._prepare_eval(gold, trainer.processing_class, trainer.args)["labels"][:] == [1, 1, 0]
    with pytest.raises(ValueError, match=r"eval dataset, row 2, column 'label' = 'maybe' is none of the classes"):
        trainer.evaluate(Dataset.from_dict({"text": texts(3), "label": ["yes", "yes", "maybe"]}))
    with pytest.raises(ValueError, match=r"row 1, column 'label' = None is none of the classes"):
        trainer.evaluate(Dataset.from_dict({"text": texts(3), "label": ["yes", None, "no"]}))


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_student_of_another_problem_is_refused(tmp_path, problem):
    model = classifier()
    model.config.problem_type = problem
    with pytest.raises(ValueError, match=f"problem_type='{problem}'"):
        build(tmp_path, model=model)


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("weak_votes", [[0.5, 0.9]], "'weak_votes': vote 0 sums to 1.4"),
        ("weak_votes", [[0.2, 0.3, 0.5]], "vote 0 has 3 classes"),
        ("weak_vote_weights", [2.0], "'weak_vote_weights' sums to 2"),
        ("labels", 7, "'labels' = 7 is not a class id"),
    ],
)
def test_prepared_columns_of_others_are_checked(tmp_path, column, value, message):
    row = {"input_ids": [5], "weak_votes": [[0.5, 0.5]], "weak_vote_weights": [1.0], "labels": -1}
    trainer = build(tmp_path)
    assert "eval_loss" in trainer.evaluate(Dataset.from_list([row]))
    with pytest.raises(ValueError, match=f"The eval dataset, row 1, .*{message}"):
        trainer.evaluate(Dataset.from_list([row, row | {column: value}]))


def test_sets_that_another_trainer_prepared_are_refused(tmp_path):
    """Their ids are another tokenizer's, cut to another length; the trainer's own are known again, in part too."""
    rows = weak_dataset(rows=5)
    one, other = build(tmp_path, rows, {"a": rows}, max_length=2), build(tmp_path, rows)
    assert one.evaluate(one.eval_dataset["a"])["eval_loss"] == one.evaluate(rows)["eval_loss"]
    one.evaluate(one.eval_dataset["a"].select(range(3)).shuffle(seed=1))
    for use in (other.evaluate, other.predict, lambda found: build(tmp_path, rows, found)):
        with pytest.raises(ValueError, match="another trainer prepared its rows.*Pass the rows as they were"):
            use(one.eval_dataset["a"].select(range(3)))
    assert rows.info.description in (None, "")


@pytest.mark.parametrize("pooling", ["majority", "log_linear"])
def test_votes_fitted_one_by_one_are_not_pooled(tmp_path, pooling):
    with pytest.raises(ValueError, match=f"DirichletVotes.*fits every vote by itself.*pooling='{pooling}'"):
        build(tmp_path, extra={"loss": DirichletVotes()}, pooling=pooling)


def test_predicted_classes_whatever_the_settings_of_evaluation(tmp_path):
    rows = weak_dataset(rows=25)
    plain = build(tmp_path, per_device_eval_batch_size=4).predict_classes(rows).probabilities
    for changes in ({"eval_do_concat_batches": False}, {"eval_accumulation_steps": 1}, {"label_names": []}):
        found = build(tmp_path, per_device_eval_batch_size=4, **changes).predict_classes(rows).probabilities
        assert torch.equal(found, plain), changes
    with pytest.raises(ValueError, match="prediction_loss_only"):
        build(tmp_path, prediction_loss_only=True).predict_classes(rows)


def reading(found, compute_result=True):
    return {"rows": len(found.predictions), "read": 0 if found.inputs is None else len(found.inputs)}


@pytest.mark.parametrize(
    "changes",
    [
        {"label_names": ["gold"]},
        {"label_names": []},
        {"remove_unused_columns": False},
        {"train_sampling_strategy": "group_by_length"},
        {"include_for_metrics": ["inputs", "loss"], "extra": {"compute_metrics": reading}},
        {"batch_eval_metrics": True, "extra": {"compute_metrics": reading}},
        {"eval_accumulation_steps": 1, "extra": {"compute_metrics": reading}},
        {"prediction_loss_only": True},
        {"average_tokens_across_devices": False},
        {"auto_find_batch_size": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_settings_of_evaluation_do_not_change_the_metrics(tmp_path, changes):
    sets = DatasetDict({"a": weak_dataset(rows=7, seed=5)})
    runs = [build(tmp_path, evaluation=sets, per_device_eval_batch_size=4, **more) for more in ({}, changes)]
    for trainer in runs:
        trainer.train()
    plain, found = (trainer.evaluate() for trainer in runs)
    for name in ("loss", "accuracy", "weak/agreement"):
        assert found[f"eval_a_{name}"] == pytest.approx(plain[f"eval_a_{name}"], rel=1e-6), name
    if "compute_metrics" in changes.get("extra", {}):
        assert found["eval_a_rows"] == (3 if "batch_eval_metrics" in changes else 7)
        assert found["eval_a_read"] == (7 if "include_for_metrics" in changes else 0)
