"""Aggregators behind `pooling`: fitted once to the training rows, never per batch; a toy of six lines is one too."""

import numpy as np
import pytest
import torch
from classification_runs import classifier, settings, tokenizer, weak_dataset
from datasets import Dataset
from trl import TrlParser

from trl_weaks.aggregation import AGGREGATORS, aggregate
from trl_weaks.losses.dirichlet_votes import DirichletVotes
from trl_weaks.trainer.classification.data import VOTE_WEIGHTS, VOTES
from trl_weaks.trainer.classification.objective import POOLS
from trl_weaks.trainer.weak_classification_config import WeakClassificationConfig
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer


def build(folder, rows, evaluation=None, **changes) -> WeakClassificationTrainer:
    args = settings(folder, max_steps=2, **changes)
    return WeakClassificationTrainer(classifier(), args, rows, evaluation, processing_class=tokenizer())


def table(rows):
    return np.array(rows["weak_probs"][:])


def named(rows, names="abc", keep=lambda number: "abc") -> Dataset:
    """The rows with names, each with the votes of `keep(number)` only, in that order."""
    found = []
    for number, row in enumerate(rows):
        places = [names.index(name) for name in keep(number)]
        found.append(row | {"weak_probs": [row["weak_probs"][p] for p in places], "weak_supervisors": [*keep(number)]})
    return Dataset.from_list(found)


ONCE = [n for n, made in AGGREGATORS.items() if n not in POOLS and not getattr(made, "with_student", False)]


@pytest.mark.parametrize("name", ONCE)  # others pool batch by batch, or learn on
def test_students_train_on_every_registered_aggregator(tmp_path, name):
    if name in ("glad", "mace", "wawa"):  # run by `make test-crowd`
        pytest.importorskip("crowdkit.aggregation")
    rows, more = weak_dataset(), weak_dataset(seed=1)
    trainer = build(tmp_path, rows, more, pooling=name, weak_loss="naive", gamma_max=0.0)
    np.testing.assert_allclose(np.array(trainer.train_dataset[VOTES][:])[:, 0], aggregate(name, table(rows)))
    assert trainer.train_dataset[VOTE_WEIGHTS][:] == [[1.0]] * 12
    fitted = AGGREGATORS[name]
    fitted = fitted().fit(table(rows)) if isinstance(fitted, type) else fitted
    np.testing.assert_allclose(np.array(trainer.eval_dataset[VOTES][:])[:, 0], fitted(table(more)))
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert f"pooled `{name}`" in card and "| rows, votes a row | 12, 3 |" in card
    assert trainer.evaluate()["eval_loss"] > 0


def test_training_on_the_mean_is_training_on_the_linear_pool(tmp_path):
    losses = []
    for pooling in ("linear", "mean"):
        trainer = build(tmp_path / pooling, weak_dataset(), pooling=pooling, logging_steps=1)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_toy_of_six_lines_runs_through_the_trainer_and_by_its_name_on_the_command_line(tmp_path):
    calls = []

    @AGGREGATORS.register("loudest")
    def loudest(votes, weights):
        calls.append(len(votes))
        surest = np.nan_to_num(votes).max(-1).argmax(-1)
        return votes[np.arange(len(votes)), surest]

    try:
        (args,) = TrlParser(WeakClassificationConfig).parse_args_and_config(
            ["--pooling", "loudest", "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false",
             "--max_steps", "3", "--per_device_train_batch_size", "2", "--report_to", "none"]
        )  # fmt: skip
        rows = weak_dataset()
        trainer = WeakClassificationTrainer(classifier(), args, rows, processing_class=tokenizer())
        trainer.train()
        votes = table(rows)
        expected = [row[row.max(-1).argmax()] for row in votes]
        np.testing.assert_allclose(np.array(trainer.train_dataset[VOTES][:])[:, 0], expected)
        assert calls == [12], "once over the set, never per batch"
    finally:
        del AGGREGATORS["loudest"]
    with pytest.raises(ValueError, match="`pooling` must be one of .*; got 'loudest'"):
        settings(tmp_path, pooling="loudest")


def test_supervisors_are_told_apart_by_name_whatever_their_order_and_gaps(tmp_path):
    rows = weak_dataset(rows=30)
    orders = ("abc", "cab", "ba", "c")
    trainer = build(tmp_path, named(rows, keep=lambda n: orders[n % 4]), pooling="dawid_skene")
    votes = table(rows)
    for number in range(30):
        votes[number, ["abc".index(x) for x in "abc" if x not in orders[number % 4]]] = np.nan
    expected = aggregate("dawid_skene", votes)
    np.testing.assert_allclose(np.array(trainer.train_dataset[VOTES][:])[:, 0], expected, atol=1e-9)
    assert trainer._pool.votes == (1, 3)
    again = trainer._prepare_eval(named(rows, keep=lambda n: "bca"), trainer.processing_class, trainer.args)
    np.testing.assert_allclose(np.array(again[VOTES][:])[:, 0], trainer._pool.aggregator(table(rows)), atol=1e-9)


def test_weights_count_and_hard_labels_harden_the_votes_not_the_pool(tmp_path):
    rows = weak_dataset().add_column("weak_weights", [[0.5, 0.25, 0.25]] * 12)
    soft = build(tmp_path, rows, pooling="mean").train_dataset
    np.testing.assert_allclose(np.array(soft[VOTES][:])[:, 0], table(rows).swapaxes(1, 2) @ [0.5, 0.25, 0.25])
    trainer = build(tmp_path, rows, pooling="mean", soft_labels=False)
    hard = np.eye(2)[table(rows).argmax(-1)].swapaxes(1, 2) @ [0.5, 0.25, 0.25]
    np.testing.assert_allclose(np.array(trainer.train_dataset[VOTES][:])[:, 0], hard)
    target = trainer._objective.target(torch.tensor(hard)[:, None], torch.ones(12, 1))
    np.testing.assert_allclose(target, hard)


def test_gold_of_an_evaluation_set_is_not_pooled_and_prepared_rows_are_not_pooled_twice(tmp_path):
    rows = weak_dataset()
    gold = weak_dataset(seed=1).remove_columns("weak_probs")
    trainer = build(tmp_path, rows, {"gold": gold, "votes": rows}, pooling="dawid_skene")
    assert [votes[0].index(1.0) for votes in trainer.eval_dataset["gold"][VOTES]] == gold["label"][:]
    before = trainer.eval_dataset["votes"][VOTES][:]
    again = trainer._prepare_eval(trainer.eval_dataset, trainer.processing_class, trainer.args)
    assert again["votes"][VOTES][:] == before
    trainer.evaluate()
    bare = Dataset.from_list([dict(row) for row in trainer.train_dataset])
    with pytest.raises(ValueError, match="The train dataset has the column 'input_ids', prepared before `pooling"):
        build(tmp_path, bare.add_column("weak_probs", table(rows).tolist()).add_column("text", rows["text"][:]),
              pooling="dawid_skene")  # fmt: skip


SHORT = [row if i != 5 else row | {"weak_probs": row["weak_probs"][:2]} for i, row in enumerate(weak_dataset())]


@pytest.mark.parametrize(
    ("rows", "evaluation", "message"),
    [
        (lambda: Dataset.from_list(SHORT), None, "train dataset, row 5 has 2 votes, others 3.*'weak_supervisors'"),
        (
            lambda: named(weak_dataset(), keep=lambda n: "aab"[: 3 - n % 2]),
            None,
            "row 0, column 'weak_supervisors' = ",
        ),
        (
            lambda: named(weak_dataset(), keep=lambda n: "ab"),
            lambda: named(weak_dataset(), keep=lambda n: "abc"),
            "The eval dataset, row 0, column 'weak_supervisors': 'c' gave no vote on the training rows",
        ),
        (
            lambda: named(weak_dataset()),
            weak_dataset,
            "The eval dataset, row 0, column 'weak_supervisors' = None: `pooling='dawid_skene'` needs the name",
        ),
    ],
)
def test_supervisors_who_cannot_be_told_apart_are_refused_before_training(tmp_path, rows, evaluation, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, rows(), evaluation and evaluation(), pooling="dawid_skene")
    build(tmp_path, rows(), evaluation and evaluation(), pooling="mean")  # which needs no names


def test_a_loss_that_fits_each_vote_does_not_take_pooled_ones(tmp_path):
    args = settings(tmp_path, pooling="dawid_skene", gamma_max=0.0)
    with pytest.raises(ValueError, match="fits every vote by itself"):
        WeakClassificationTrainer(
            classifier(), args, weak_dataset(), processing_class=tokenizer(), loss=DirichletVotes()
        )
