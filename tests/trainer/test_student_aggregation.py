"""Poolings that learn from the student: accumulation, LoRA, resuming, two processes, and what they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_runs import classifier, end_group, settings, texts, tokenizer, trajectory, weak_dataset
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file

from trl_weaks.aggregation import StudentDawidSkene
from trl_weaks.trainer.classification.student_aggregation import STATE_FILE
from trl_weaks.trainer.weak_classification_trainer import WINDOW_FILE, WeakClassificationTrainer

RAVEN = {"pooling": "raven", "weak_loss": "naive", "gamma_max": 0.0}
LOOP = RAVEN | {"pooling": "student_dawid_skene"}
EASY = {"pooling_kwargs": {"learning_rate": 0.1, "easy_start": 0.25}}


def rows(number=16, voters=3, classes=2, **more):
    return weak_dataset(number, voters, classes, **more)


def build(folder, data=None, model=None, lora=None, evaluation=None, **changes):
    args = settings(folder, **changes)
    return WeakClassificationTrainer(
        model or classifier(), args, rows() if data is None else data, evaluation, processing_class=tokenizer(),
        peft_config=lora,
    )  # fmt: skip


def run(folder, data=None, **changes):
    trainer = build(folder, data, **changes)
    trainer.train()
    return trainer


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_without_steps_raven_is_the_mean_and_its_weights_are_logged(tmp_path):
    still = run(tmp_path / "still", pooling_kwargs={"learning_rate": 0.0, "easy_start": 0}, **RAVEN)
    mean = run(tmp_path / "mean", **RAVEN | {"pooling": "mean"})
    torch.testing.assert_close(trajectory(still), trajectory(mean), rtol=1e-5, atol=1e-6)
    logs = [log for log in still.state.log_history if "weak/weight_0" in log]
    assert len(logs) == 8 and {log["weak/weight_2"] for log in logs} == {1 / 3}


def test_the_weights_follow_the_students_loss_update_by_update(tmp_path):
    """Full batches by hand: the student's answers before each update move the weights after it."""
    changes = RAVEN | {"per_device_train_batch_size": 16, "num_train_epochs": 3, "optim": "sgd"}
    changes["pooling_kwargs"] = {"learning_rate": 0.2, "easy_start": 0, "guard": 0}
    trainer = build(tmp_path, **changes)
    votes, expected, weights = torch.tensor(rows()["weak_probs"][:]), [], np.full(3, 1 / 3)
    batch = trainer.data_collator(list(trainer.train_dataset))
    model = trainer.model
    for _ in range(3):
        log_probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
        gradient = -(votes * log_probs[:, None]).sum(-1).mean(0)
        model.zero_grad()
        (gradient @ torch.tensor(weights, dtype=gradient.dtype)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-2 * parameter.grad
        weights = np.clip(weights - 0.2 * gradient.detach().double().numpy(), 1e-6, None)
        weights = weights / weights.sum()
        expected.append(weights)
    again = run(tmp_path / "run", **changes)
    logs = [[log[f"weak/weight_{n}"] for n in range(3)] for log in again.state.log_history if "grad_norm" in log]
    np.testing.assert_allclose(logs, expected, atol=1e-5)


@pytest.mark.parametrize("combine", ["linear", "log_linear"])
def test_accumulation_changes_nothing(tmp_path, combine):
    found = []
    for batch in (4, 2):
        kwargs = {"learning_rate": 0.1, "easy_start": 0.25, "combine": combine}
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch, "optim": "sgd"}
        trainer = run(tmp_path / str(batch), pooling_kwargs=kwargs, **RAVEN, **changes)
        found.append((trajectory(trainer), trainer._pool.aggregator.weights))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)
    assert np.ptp(found[0][1]) > 0.01


def test_accumulation_relabels_after_the_same_updates(tmp_path):
    """An update of four batches of one row is that of one of four, and it is updates that are counted."""
    found = []
    for batch in (4, 1):
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch, "optim": "sgd"}
        found.append(run(tmp_path / str(batch), pooling_kwargs={"every": 3}, **LOOP, **changes))
    whole, cut = found
    assert whole._lessons._made_at == cut._lessons._made_at == 6
    torch.testing.assert_close(trajectory(cut), trajectory(whole), rtol=1e-4, atol=1e-5)
    for name, value in whole._lessons._state().items():
        np.testing.assert_allclose(cut._lessons._state()[name], value, atol=1e-5, err_msg=name)
    table = np.array(rows()["weak_probs"][:])
    assert np.abs(whole._lessons.labels.numpy() - StudentDawidSkene().fit(table).first).max() > 0.01


def planted(number=64, seed=0):
    """The class is whether the text has a word; one supervisor sees it, two toss coins."""
    said = texts(number, seed)
    gold = np.array([int("the" in text.split() or "play" in text.split() or "is" in text.split()) for text in said])
    noise = np.random.default_rng(seed).integers(0, 2, (number, 2))
    votes = np.eye(2)[np.column_stack([gold, noise])]
    return Dataset.from_dict({"text": said, "weak_probs": votes.tolist(), "label": gold.tolist()})


def test_the_good_supervisors_weight_grows_with_the_student(tmp_path):
    kwargs = {"learning_rate": 0.02, "easy_start": 0.1}
    trainer = run(tmp_path, planted(), pooling_kwargs=kwargs, num_train_epochs=8, **RAVEN)
    weights = [log["weak/weight_0"] for log in trainer.state.log_history if "weak/weight_0" in log]
    assert weights[0] == pytest.approx(1 / 3) and weights[-1] > 0.6
    assert trainer._pool.aggregator.weights.argmax() == 0


@pytest.mark.parametrize("method", [RAVEN | EASY, LOOP], ids=["raven", "loop"])
@pytest.mark.parametrize("step", [3, 4, 5])  # within an epoch, at its end, within the next
def test_a_resumed_run_ends_bit_identical(tmp_path, method, step):
    changes = method | {"save_strategy": "steps", "save_steps": step, "num_train_epochs": 3}
    data = rows().add_column("example_id", [f"row {n}" for n in range(16)])
    whole = run(tmp_path / "whole", data, **changes)
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    assert (checkpoint / STATE_FILE).is_file()
    again = build(tmp_path / "again", data, **changes)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert trajectory(again)[-4:] == trajectory(whole)[-4:]
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(again)[name], value), name
    for name, value in whole._lessons._state().items():
        np.testing.assert_array_equal(again._lessons._state()[name], value)


def test_training_again_begins_anew(tmp_path):
    trainer = run(tmp_path, **RAVEN | EASY, num_train_epochs=1)
    assert np.ptp(trainer._pool.aggregator.weights) > 0
    trainer.args.num_train_epochs = 0.25
    trainer.train()
    np.testing.assert_allclose(trainer._pool.aggregator.weights, 1 / 3)


def test_the_students_answers_become_labels_at_each_epoch_but_the_first(tmp_path, monkeypatch):
    asked = []
    relabel = StudentDawidSkene.relabel
    monkeypatch.setattr(StudentDawidSkene, "relabel", lambda self, s: asked.append(s) or relabel(self, s))
    trainer = build(tmp_path, num_train_epochs=3, **LOOP)
    trainer.train()
    assert len(asked) == 2
    table = np.array(rows()["weak_probs"][:])
    fresh = StudentDawidSkene().fit(table)
    np.testing.assert_allclose(trainer.train_dataset["weak_votes"][:][0][0], fresh.first[0])
    np.testing.assert_allclose(trainer._lessons.labels, fresh.relabel(asked[-1]), atol=1e-6)
    batch = trainer.data_collator([trainer.train_dataset[5], trainer.train_dataset[2]])
    trainer.model.train()
    votes, _ = trainer._lessons.supervise(batch["weak_votes"], batch["weak_vote_weights"], batch["weak_rows"])
    np.testing.assert_array_equal(votes[:, 0], trainer._lessons.labels[[5, 2]])
    trainer.model.eval()
    assert (
        trainer._lessons.supervise(batch["weak_votes"], batch["weak_vote_weights"], batch["weak_rows"])[0]
        is (batch["weak_votes"])
    )
    logged = [log for log in trainer.state.log_history if "weak/relabelled" in log]
    assert len(logged) == 2 and 0 <= logged[0]["weak/relabelled"] <= 1 and "weak/accuracy_2" in logged[0]


def test_relabelling_after_so_many_updates(tmp_path):
    """Two relabellings in eight updates, the first after three, until when all is as with Dawid and Skene's labels."""
    plain = run(tmp_path / "plain", **LOOP | {"pooling": "dawid_skene"})
    trainer = run(tmp_path / "loop", pooling_kwargs={"every": 3, "tau": 0.5}, **LOOP)
    assert trainer._lessons._made_at == 6
    assert run(tmp_path / "one", num_train_epochs=1, **LOOP)._lessons._made_at == 2  # the half of a single epoch
    odd = run(tmp_path / "odd", max_steps=3, **LOOP)  # less than an epoch: one relabelling, where there were two
    assert [log["step"] for log in odd.state.log_history if "weak/relabelled" in log] == [3]
    torch.testing.assert_close(trajectory(trainer)[:3], trajectory(plain)[:3], rtol=1e-6, atol=1e-7)
    assert trajectory(trainer)[4] != trajectory(plain)[4]


@pytest.mark.parametrize("method", [RAVEN | EASY, LOOP], ids=["raven", "loop"])
def test_lora_evidence_and_gold_in_evaluation(tmp_path, method):
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], r=2)
    gold = rows(seed=1).remove_columns("weak_probs")
    changes = method | {"weak_loss": "bayesian", "gamma_max": 0.5, "save_strategy": "epoch"}
    trainer = build(tmp_path, lora=lora, evaluation={"gold": gold, "votes": rows(seed=2)}, **changes)
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_gold_accuracy"] >= 0 and np.isfinite(found["eval_votes_loss"])
    checkpoint = sorted(Path(tmp_path).glob("checkpoint-*"))[0]
    again = build(tmp_path / "again", lora=lora, evaluation={"gold": gold, "votes": rows(seed=2)}, **changes)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert trajectory(again) == trajectory(trainer)
    for name, value in trainer._lessons._state().items():
        np.testing.assert_array_equal(again._lessons._state()[name], value)


def test_supervisors_are_told_apart_by_name_and_gaps_have_no_weight(tmp_path):
    named = []
    for number, row in enumerate(rows(20)):
        order = ("abc", "cab", "ba")[number % 3]
        votes = [row["weak_probs"]["abc".index(name)] for name in order]
        named.append(row | {"weak_probs": votes, "weak_supervisors": list(order)})
    trainer = build(tmp_path, Dataset.from_list(named), pooling_kwargs={"guard": 0, "easy_start": 0}, **RAVEN)
    for number, row in enumerate(trainer.train_dataset):
        there = [1 / 3] * 3 if number % 3 < 2 else [0.5, 0.5, 0.0]
        assert row["weak_vote_weights"] == pytest.approx(there)
        np.testing.assert_allclose(np.array(row["weak_votes"])[:2], rows(20)[number]["weak_probs"][:2], atol=1e-9)
    trainer.train()
    assert "weak/weight_c" in trainer.state.log_history[0]


def test_labels_are_joined_on_ids_when_a_run_is_resumed(tmp_path):
    data = rows().add_column("example_id", [f"row {n}" for n in range(16)])
    changes = LOOP | {"save_strategy": "steps", "save_steps": 5}
    trainer = run(tmp_path / "a", data, **changes)
    moved = build(tmp_path / "b", data.select(range(15, -1, -1)), **changes)
    moved._lessons.load(tmp_path / "a" / "checkpoint-5")
    assert trainer._lessons._made_at == 4
    np.testing.assert_array_equal(moved._lessons.labels, trainer._lessons.labels.flip(0))
    with pytest.raises(ValueError, match=r"its labels are of 16 rows, the training set has 15; row 15.*'row 15'"):
        build(tmp_path / "c", data.select(range(15)), **changes)._lessons.load(tmp_path / "a" / "checkpoint-5")
    other = data.map(lambda row: {"example_id": row["example_id"].replace("row 7", "line 7")})
    with pytest.raises(ValueError, match="row 7, column 'example_id' = 'line 7' is not in both"):
        build(tmp_path / "d", other, **changes)._lessons.load(tmp_path / "a" / "checkpoint-5")
    with pytest.raises(ValueError, match="is of `pooling='student_dawid_skene'`, not 'raven'"):
        build(tmp_path / "e", data, **RAVEN)._lessons.load(tmp_path / "a" / "checkpoint-5")
    with pytest.raises(ValueError, match=f"has no {STATE_FILE}.*another `pooling` than 'raven'"):
        build(tmp_path / "f", data, **RAVEN)._lessons.load(tmp_path / "a")


def test_what_a_loss_remembers_is_read_under_every_strategy(tmp_path):
    """DeepSpeed reads weights without `_load_from_checkpoint`, which alone read the window once."""
    trainer = WeakClassificationTrainer(
        classifier(), settings(tmp_path, threshold="balanced"), rows(), processing_class=tokenizer()
    )
    trainer.weak_loss.window.update(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]))
    save_file(trainer.weak_loss.window.state_dict(), tmp_path / WINDOW_FILE)
    fresh = WeakClassificationTrainer(
        classifier(), settings(tmp_path, threshold="balanced"), rows(), processing_class=tokenizer()
    )
    fresh._load_optimizer_and_scheduler(str(tmp_path))
    assert len(fresh.weak_loss.window) == 1


def test_what_a_loss_remembers_is_forgotten_when_another_training_begins(tmp_path):
    """An attempt that ended early, as with `auto_find_batch_size`, left rows on hold, which then counted as seen."""
    changes = {"weak_loss": "realm_learned", "gamma_max": 0.0, "num_train_epochs": 1, "optim": "sgd"}
    trainer, other = (build(tmp_path / name, **changes) for name in "ab")
    start = weights_of(trainer)
    trainer.weak_loss.window.hold(torch.zeros(50, 3), torch.ones(50, 3))
    for again in (other, trainer, trainer):
        again.model.load_state_dict(start)
        torch.manual_seed(0)  # the order of the rows
        again.train()
        torch.testing.assert_close(again.weak_loss.window.values, other.weak_loss.window.values)


CONSTANT = Dataset.from_list(
    [row | {"weak_probs": [*row["weak_probs"][: n and 2], [1.0, 0.0]], "weak_supervisors": [*"ab"[: n and 2], "c"]}
     for n, row in enumerate(rows())]
)  # fmt: skip
TWICE = rows().add_column("example_id", ["x", "y", "z", "y", *"abcdefghijkl"])


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (None, RAVEN | {"pooling_kwargs": {"rate": 1}}, "'raven' has no argument `rate`. There is 'learning_rate'"),
        (None, RAVEN | {"pooling_kwargs": {"floor": 2}}, "floor=2 must be in"),
        (None, RAVEN | {"pooling_kwargs": "fast"}, "`pooling_kwargs` must be a JSON object"),
        (None, {"pooling_kwargs": {"a": 1}}, "`pooling='linear'` takes no arguments"),
        (None, {"pooling": "mean", "pooling_kwargs": {"a": 1}}, "'mean' has no argument `a`. There is none"),
        (None, RAVEN | {"weak_loss": "dirichlet_votes"}, "fits every vote by itself"),
        (None, LOOP | {"prediction_loss_only": True}, "`prediction_loss_only=True` does not keep"),
        (rows(1), RAVEN | {"soft_labels": False, "pooling_kwargs": {"combine": "log_linear", "guard": 0}},
         "train dataset, row 0 has a vote of probability 0"),
        (TWICE, LOOP, "train dataset, row 3, column 'example_id' = 'y' is that of an earlier row"),
        (CONSTANT, RAVEN | {"pooling_kwargs": {"easy_start": 0}}, "row 0 has only votes of c, who always vote"),
    ],
)  # fmt: skip
def test_what_is_refused_before_training(tmp_path, data, changes, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, data, **changes)


@pytest.mark.parametrize("given", [{"max_steps": 1}, {"pooling_kwargs": {"every": 8}}])
def test_a_training_without_a_relabelling_is_refused(tmp_path, given):
    trainer = build(tmp_path, **LOOP | given)
    with pytest.raises(ValueError, match="makes no new label in this training of [18] updates: set `every`"):
        trainer.train()


def main(folder: str) -> None:
    """Train with either on one process or two, which cut each update otherwise; rank 0 reports."""
    world, report = int(os.environ.get("WORLD_SIZE", 1)), {}
    for name, method in (("raven", RAVEN | EASY), ("loop", LOOP)):
        cut = {"per_device_train_batch_size": 4 if world == 1 else 1, "gradient_accumulation_steps": world}
        trainer = run(f"{folder}/{name}", rows(18), optim="sgd", per_device_eval_batch_size=4, **method | cut)
        state = {key: value.tolist() for key, value in trainer._lessons._state().items()}
        report[name] = {"world": trainer.accelerator.num_processes, "losses": trajectory(trainer), "state": state}
    if trainer.accelerator.is_main_process:
        Path(folder, "report.json").write_text(json.dumps(report))


def launched(folder: Path, processes: int) -> dict:
    folder.mkdir()
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(many if processes > 1 else []), __file__, str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


@pytest.mark.distributed
@pytest.mark.matrix
def test_two_processes_learn_what_one_learns(tmp_path):
    one, two = launched(tmp_path / "one", 1), launched(tmp_path / "two", 2)
    for name in one:
        assert (one[name]["world"], two[name]["world"]) == (1, 2)
        np.testing.assert_allclose(two[name]["losses"], one[name]["losses"], atol=1e-4, rtol=1e-4)
        for key, value in one[name]["state"].items():
            np.testing.assert_allclose(two[name]["state"][key], value, atol=1e-4, err_msg=key)


if __name__ == "__main__":
    main(sys.argv[1])
    end_group()
