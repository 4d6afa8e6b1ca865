"""Evaluation metrics of the classifier: counted over rows, named after their set, and gone with their loop."""

import json
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from classification_runs import classifier, end_group, settings, texts, tokenizer, weak_dataset
from datasets import Dataset
from transformers import TrainerCallback

from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

PLAIN = {"weak_loss": "naive", "gamma_max": 0.0}
METRICS = ("loss", "accuracy", "weak/agreement")


def trainer_of(folder, eval_dataset=None, extra=None, **changes) -> WeakClassificationTrainer:
    return WeakClassificationTrainer(
        classifier(), settings(folder, **{"per_device_eval_batch_size": 4, **PLAIN, **changes}), weak_dataset(),
        eval_dataset=eval_dataset, processing_class=tokenizer(), **(extra or {}),
    )  # fmt: skip


def labelled(trainer, rows: int, right: set[int], seed: int = 3) -> Dataset:
    """Gold that the trainer's model gets right on these rows only."""
    dataset = Dataset.from_dict({"text": texts(rows, seed)})
    said = trainer.predict_classes(dataset).classes.tolist()
    return dataset.add_column("label", [c if i in right else 1 - c for i, c in enumerate(said)])


def by_hand(trainer, dataset: Dataset) -> dict[str, float]:
    """Each text by itself, in float64, where there are votes as the trainer has them without gamma."""
    model, read = trainer.model.eval(), trainer.processing_class
    losses, right, agree = [], [], []
    for row in dataset:
        with torch.no_grad():
            logits = model(torch.tensor([read(row["text"])["input_ids"]])).logits[0].double()
        votes = row.get("weak_probs") or [[float(k == row["label"]) for k in range(len(logits))]]
        target = torch.tensor(votes, dtype=torch.float64).mean(0)
        losses.append(-(target * logits.log_softmax(-1)).sum().item())
        agree.append(bool(target[logits.argmax()] == target.max()))
        if "label" in row:
            right.append(logits.argmax().item() == row["label"])
    found = {"loss": np.mean(losses), "weak/agreement": np.mean(agree)}
    return found | ({"accuracy": np.mean(right)} if right else {})


def test_accuracy_is_counted_over_rows_not_averaged_over_batches(tmp_path):
    """One right of five, in batches of four and one: the mean of the batches' accuracies is 0.5."""
    trainer = trainer_of(tmp_path)
    found = trainer.evaluate(labelled(trainer, 5, right={4}))
    assert found["eval_accuracy"] == 0.2 and trainer.state.log_history[-1]["eval_accuracy"] == 0.2


def test_training_metrics_are_counted_over_the_rows_since_the_last_log(tmp_path):
    """Nine rows in updates of 4, 4 and 1 that change nothing, logged together."""
    trainer = trainer_of(tmp_path, learning_rate=0.0, num_train_epochs=1, logging_steps=3)
    gold = labelled(trainer, 9, right={0, 3, 4, 5, 7})
    votes = [[[float(k == label) for k in range(2)]] for label in gold["label"]]
    again = WeakClassificationTrainer(
        trainer.model, trainer.args, gold.add_column("weak_probs", votes), processing_class=tokenizer()
    )
    again.train()
    logged = [log for log in again.state.log_history if "accuracy" in log]
    assert [log["accuracy"] for log in logged] == [pytest.approx(5 / 9)]
    assert logged[0]["weak/agreement"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("rows, batch", [(1, 4), (5, 4), (7, 2), (9, 8)])
def test_every_metric_by_hand(tmp_path, rows, batch):
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=batch)
    dataset = weak_dataset(rows=rows, seed=rows)
    found, expected = trainer.evaluate(dataset), by_hand(trainer, dataset)
    for name in METRICS:
        assert found[f"eval_{name}"] == pytest.approx(expected[name], rel=1e-5), name


def test_several_sets_keep_their_names(tmp_path):
    sets = {
        "a": weak_dataset(rows=5, seed=5),
        "b": weak_dataset(rows=6, seed=6),
        "c": weak_dataset(rows=3, gold=False),
    }
    trainer = trainer_of(tmp_path, eval_dataset=sets)
    found = trainer.evaluate()
    for name, dataset in sets.items():
        for metric, value in by_hand(trainer, dataset).items():
            assert found[f"eval_{name}_{metric}"] == pytest.approx(value, rel=1e-5), (name, metric)
    assert "eval_c_accuracy" not in found  # no gold, no accuracy
    assert not any(key in found for key in ("eval_accuracy", "eval_weak/agreement", "eval_loss"))
    again = trainer.evaluate(sets)
    assert {k: v for k, v in again.items() if "loss" in k or "weak" in k} == {
        k: v for k, v in found.items() if "loss" in k or "weak" in k
    }
    logged = [log for log in trainer.state.log_history if "eval_b_accuracy" in log]
    assert logged and not any("eval_a_accuracy" in log for log in logged)


@pytest.mark.parametrize("metric", ["eval_a_accuracy", "a_accuracy"])
def test_a_named_metric_chooses_the_best_checkpoint(tmp_path, metric):
    sets = {"a": weak_dataset(rows=5, seed=5), "b": weak_dataset(rows=6, seed=6)}
    trainer = trainer_of(
        tmp_path, eval_dataset=sets, metric_for_best_model=metric, greater_is_better=True, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, num_train_epochs=3, learning_rate=0.05,
    )  # fmt: skip
    trainer.train()
    seen = [log["eval_a_accuracy"] for log in trainer.state.log_history if "eval_a_accuracy" in log]
    assert len(seen) == 3 and trainer.state.best_metric == max(seen)
    assert trainer.evaluate()["eval_a_accuracy"] == max(seen)


def test_predict_has_its_own_metrics_and_leaves_none_behind(tmp_path):
    trainer = trainer_of(tmp_path)
    dataset, other = labelled(trainer, 5, right={4}), labelled(trainer, 6, right={0, 1, 2, 3, 4, 5}, seed=8)
    expected = trainer.evaluate(dataset)["eval_accuracy"]
    assert trainer.predict(other).metrics["test_accuracy"] == 1.0
    trainer.predict_classes(other)
    assert trainer.evaluate(dataset)["eval_accuracy"] == expected == 0.2
    assert trainer.predict(other, metric_key_prefix="x").metrics["x_accuracy"] == 1.0


def test_a_failed_evaluation_leaves_none_behind(tmp_path):
    trainer = trainer_of(tmp_path)
    dataset, other = labelled(trainer, 5, right={4}), labelled(trainer, 9, right=set(range(9)), seed=8)

    class Stop(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    stop = Stop()
    trainer.add_callback(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(other)
    trainer.remove_callback(stop)
    assert trainer.evaluate(dataset)["eval_accuracy"] == 0.2


def test_a_second_training_starts_afresh(tmp_path):
    """Steps that were trained after the last log are not in the next training's first."""
    trainer = trainer_of(tmp_path, learning_rate=0.0, max_steps=3, logging_steps=2)
    trainer.train()
    first = [log["accuracy"] for log in trainer.state.log_history if "grad_norm" in log]
    trainer._sums["train"].add(trainer.accelerator, {"accuracy": (torch.ones(1), torch.ones(1) * 1e6)}, False)
    trainer.train()
    second = [log["accuracy"] for log in trainer.state.log_history if "grad_norm" in log]
    assert second == first


def test_a_metric_of_the_users_keeps_its_name(tmp_path):
    extra = {"compute_metrics": lambda found: {"accuracy": 42.0, "rows": len(found.predictions)}}
    found = trainer_of(tmp_path, extra=extra).evaluate(weak_dataset(rows=5))
    assert found["eval_accuracy"] == 42.0 and found["eval_rows"] == 5 and "eval_weak/agreement" in found


@pytest.mark.distributed
def test_two_processes_with_uneven_shards_report_what_one_does(tmp_path):
    """Five rows in batches of two: the sampler repeats three to fill the second round."""
    found = {}
    for world in (1, 2):
        done = processes.run([__file__, tmp_path / str(world)], world)
        assert done.returncode == 0, done.stderr[-3000:]
        found[world] = json.loads((tmp_path / str(world) / "found.json").read_text())
    one, two = found[1], found[2]
    assert (one["world"], two["world"]) == (1, 2)
    for name in ("a_loss", "a_accuracy", "a_weak/agreement", "b_loss", "b_accuracy"):
        assert two[f"eval_{name}"] == pytest.approx(one[f"eval_{name}"], rel=1e-5), name
    for name in METRICS:
        assert two[f"test_{name}"] == pytest.approx(one[f"test_{name}"], rel=1e-5), name
        assert one[f"test_{name}"] == pytest.approx(one["expected"][name], rel=1e-5), name


def main(folder: str) -> None:
    sets = {"a": weak_dataset(rows=5, seed=5), "b": weak_dataset(rows=6, seed=6).remove_columns("weak_probs")}
    trainer = trainer_of(folder, eval_dataset=sets, per_device_eval_batch_size=2)
    other = weak_dataset(rows=7, seed=9)
    found = trainer.predict(other).metrics | trainer.evaluate()
    found |= {"world": trainer.accelerator.num_processes}
    if trainer.accelerator.is_main_process:
        found["expected"] = {name: float(value) for name, value in by_hand(trainer, other).items()}
        (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
    end_group()
