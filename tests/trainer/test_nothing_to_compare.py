"""Sets with neither votes nor gold: refused where a student is scored, and predicted without a score."""

import logging

import pytest
import torch
from classification_runs import classifier, settings, texts, tokenizer, weak_dataset
from datasets import Dataset
from transformers import TrainerCallback

from trl_weaks.trainer.classification import sets
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

BARE = Dataset.from_dict({"text": texts(9, seed=4)})
GOLD = [0, 1, 1, 0, 0, 1, 0, 1, 1]


def build(folder, dataset=None, evaluation=None, extra=None, **changes) -> WeakClassificationTrainer:
    given = {"weak_loss": "naive", "gamma_max": 0.0, "per_device_eval_batch_size": 4} | changes
    return WeakClassificationTrainer(
        classifier(), settings(folder, **given), weak_dataset() if dataset is None else dataset, evaluation,
        processing_class=tokenizer(), **(extra or {}),
    )  # fmt: skip


@pytest.mark.parametrize("column", ["labels", "gold", "Label", "target", "intent"])
def test_an_evaluation_set_with_neither_is_refused_and_likely_gold_is_named(tmp_path, column):
    rows = BARE.add_column(column, GOLD)
    message = (
        rf"The (eval|b) dataset has neither votes.*If '{column}' holds the gold: `dataset.rename_column\('{column}'"
    )
    for evaluation in (rows, {"a": weak_dataset(), "b": rows}):
        with pytest.raises(ValueError, match=message):
            build(tmp_path, evaluation=evaluation)
    trainer = build(tmp_path)
    for evaluation in (rows, {"b": rows}):
        with pytest.raises(ValueError, match=message):
            trainer.evaluate(evaluation)
    assert trainer.evaluate(rows.rename_column(column, "label"))["eval_accuracy"] is not None
    with pytest.raises(ValueError, match=r"columns are \['text'\]. Add a column 'label'.*`predict_classes`"):
        trainer.evaluate(BARE)


def test_bare_texts_are_predicted_without_a_loss(tmp_path):
    """The loss against the uniform distribution stood there, ln 2 for a student that knows nothing."""
    seen = []

    class Watch(TrainerCallback):
        def on_predict(self, args, state, control, metrics, **kwargs):
            seen.append(dict(metrics))

    trainer = build(tmp_path, extra={"callbacks": [Watch()]})
    found = trainer.predict(BARE)
    for metrics in (found.metrics, *seen):
        assert not [n for n in metrics if n in ("test_loss", "test_accuracy") or "weak/agreement" in n], metrics
    assert len(seen) == 1 and "test_runtime" in found.metrics and "test_num_tokens" in found.metrics
    trainer.model.eval()
    alone = [trainer.model(torch.tensor([tokenizer()(text)["input_ids"]])).logits[0].tolist() for text in BARE["text"]]
    assert found.predictions == pytest.approx(torch.tensor(alone).numpy(), abs=1e-5)
    told = trainer.predict(BARE.add_column("label", GOLD)).metrics
    log_probs = torch.tensor(alone).log_softmax(-1)
    assert told["test_loss"] == pytest.approx(-sum(log_probs[i, k].item() for i, k in enumerate(GOLD)) / 9, rel=1e-5)
    assert "test_weak/agreement" in told


def test_votes_beside_gold_of_another_name_have_no_accuracy_and_it_is_said(tmp_path, caplog):
    rows = weak_dataset().rename_column("label", "labels")
    with caplog.at_level(logging.WARNING, logger=sets.__name__):
        trainer = build(tmp_path, rows)
        assert "eval_accuracy" not in trainer.evaluate(weak_dataset(gold=False))
    (said,) = [r.getMessage() for r in caplog.records if r.name == sets.__name__]
    assert "train dataset has no column 'label'" in said and "`dataset.rename_column('labels', 'label')`" in said
