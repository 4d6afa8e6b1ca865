"""The classification trainer: plain cross-entropy as its special case, invariances, checkpoints, predictions."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from classification_runs import (
    KINDS,
    classifier,
    hard_dataset,
    settings,
    texts,
    tokenizer,
    trajectory,
    weak_dataset,
)
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from trl_weaks.losses.auxiliary_confidence import AuxiliaryConfidence
from trl_weaks.losses.dirichlet_votes import DirichletVotes
from trl_weaks.losses.evidential import EvidentialLoss
from trl_weaks.supervisors.class_predictions import ClassPredictions
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.trainer.classification.sets import gold_votes
from trl_weaks.trainer.weak_classification_trainer import WINDOW_FILE, WeakClassificationTrainer

PLAIN = {"weak_loss": "naive", "gamma_max": 0.0}


def weak_trainer(folder, dataset, model=None, loss=None, **changes):
    return WeakClassificationTrainer(
        model or classifier(), settings(folder, **changes), dataset, processing_class=tokenizer(), loss=loss
    )


def run(folder, dataset, model=None, **changes):
    trainer = weak_trainer(folder, dataset, model, **changes)
    trainer.train()
    return trainer


@pytest.mark.parametrize("classes", [2, 5])
def test_one_sure_supervisor_is_the_plain_trainer(tmp_path, classes):
    """Losses and gradient norms of transformers' own Trainer at accumulation 1, on the same collated batches."""
    dataset = hard_dataset(classes=classes)
    weak = run(tmp_path / "weak", dataset, classifier(num_labels=classes), **PLAIN)
    prepared, collator = weak.train_dataset, weak.data_collator

    def plain_collator(rows):
        batch = collator(rows)
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    fields = settings(tmp_path / "plain").to_dict()
    keep = (
        "learning_rate",
        "lr_scheduler_type",
        "per_device_train_batch_size",
        "num_train_epochs",
        "max_grad_norm",
        "seed",
    )
    plain = Trainer(
        model=classifier(num_labels=classes),
        args=TrainingArguments(
            str(tmp_path / "plain"), use_cpu=True, report_to="none", save_strategy="no", logging_steps=1,
            disable_tqdm=True, remove_unused_columns=False, **{name: fields[name] for name in keep},
        ),
        train_dataset=prepared,
        data_collator=plain_collator,
    )  # fmt: skip
    plain.train()
    torch.testing.assert_close(trajectory(weak), trajectory(plain), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(weak.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("weak_loss", ["naive", "bayesian", "dirichlet_votes"])
def test_accumulation_does_not_change_the_gradient(tmp_path, weak_loss, kind):
    """4 x 1, 2 x 2, 1 x 4, and a last update of fewer rows; also for a model that says it takes no count."""
    dataset = weak_dataset(rows=10)
    changes = {"weak_loss": weak_loss, "gamma_max": 0.0 if weak_loss == "dirichlet_votes" else 0.5}
    changes |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}  # Adam makes much of rounding

    def model():
        built = classifier(kind)
        built.accepts_loss_kwargs = kind != "bert"
        return built

    runs = [
        trajectory(run(tmp_path / str(batch), dataset, model(), per_device_train_batch_size=batch,
                       gradient_accumulation_steps=4 // batch, **changes))
        for batch in (4, 2, 1)
    ]  # fmt: skip
    assert len(runs[0]) == 6
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(runs[2], runs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_accumulation_does_not_change_the_balanced_threshold(tmp_path, classes):
    """All micro-batches of an update meet the thresholds of the updates before it, the first one's argmax included."""
    dataset = weak_dataset(rows=10, classes=classes, seed=1)
    changes = {"threshold": "balanced", "threshold_window": 7, "gamma_warmup": 0.0}
    runs = [
        run(tmp_path / str(batch), dataset, classifier(num_labels=classes), per_device_train_batch_size=batch,
            gradient_accumulation_steps=4 // batch, **changes)
        for batch in (4, 2, 1)
    ]  # fmt: skip
    plain = run(tmp_path / "argmax", dataset, classifier(num_labels=classes), gamma_warmup=0.0)
    for other in runs[1:]:
        torch.testing.assert_close(trajectory(other), trajectory(runs[0]), rtol=1e-3, atol=1e-5)
        windows = [one.weak_loss.window.state_dict()["probs"] for one in (other, runs[0])]
        torch.testing.assert_close(*windows, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(trajectory(plain)[0], trajectory(runs[0])[0])  # nothing is known yet
    assert max(abs(a[0] - b[0]) for a, b in zip(trajectory(plain), trajectory(runs[0]), strict=True)) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_8_is_8_batches_of_1(tmp_path, kind):
    """Pooling, padding side and pad token: a tokenizer that pads left must not matter."""
    dataset = weak_dataset(rows=8)
    trainer = weak_trainer(tmp_path, dataset, classifier(kind), **PLAIN)
    rows, model = list(trainer.train_dataset), trainer.model.eval()
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        batch = trainer.data_collator(rows)
        together = model(**{n: batch[n] for n in names}).logits
        alone = [model(**{n: trainer.data_collator([row])[n] for n in names}).logits for row in rows]
    assert batch["attention_mask"].sum(-1).unique().numel() > 1
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_tokenizer_without_pad_token_uses_end_of_sequence(tmp_path):
    bare = tokenizer()
    bare.pad_token = None
    model = classifier("gpt2")
    model.config.pad_token_id = None
    trainer = WeakClassificationTrainer(model, settings(tmp_path, **PLAIN), weak_dataset(), processing_class=bare)
    assert model.config.pad_token_id == bare.eos_token_id == trainer.data_collator.pad_token_id
    trainer.train()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weak_loss", ["bayesian", "dirichlet_votes"])
def test_every_parameter_learns(tmp_path, kind, weak_loss):
    model = classifier(kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gamma = 0.0 if weak_loss == "dirichlet_votes" else 0.5
    trainer = run(tmp_path, weak_dataset(), model, weak_loss=weak_loss, gamma_max=gamma)
    assert trainer.state.log_history[-1]["train_loss"] is not None
    for name, parameter in model.named_parameters():
        if not (kind == "bert" and "position" in name):
            assert not torch.equal(parameter, before[name]), name


def test_more_votes_a_row_and_weights(tmp_path):
    """Weights 1:3 are the same as repeating the second vote; rows may have different numbers of votes."""
    votes = [[[0.9, 0.1], [0.3, 0.7]], [[0.2, 0.8]], [[0.5, 0.5], [0.6, 0.4]], [[1.0, 0.0]]]
    weighted = Dataset.from_dict(
        {"text": texts(4), "weak_probs": votes, "weak_weights": [[1.0, 3.0], [2.0], [1.0, 3.0], [0.5]]}
    )
    repeated = Dataset.from_dict({"text": texts(4), "weak_probs": [[v[0], *v[1:] * 3] for v in votes]})
    for loss in ("naive", "bayesian", "dirichlet_votes"):
        runs = [
            trajectory(run(tmp_path / f"{loss}{i}", d, weak_loss=loss, gamma_max=0.0, num_train_epochs=1))
            for i, d in enumerate((weighted, repeated))
        ]
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-6)


def test_lora_trains_adapters_and_head_only(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    trainer = WeakClassificationTrainer(
        classifier(),
        settings(tmp_path / "run", gradient_checkpointing=True),
        weak_dataset(),
        processing_class=tokenizer(),
        peft_config=config,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora" in name or "modules_to_save" in name for name in changed)
    assert any("score.modules_to_save" in name for name in changed)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()


def test_balanced_window_sees_all_micro_batches(tmp_path):
    """At micro-batch 1 a batch quantile would call everything class 0; the window does not."""
    trainer = run(
        tmp_path, weak_dataset(rows=12), threshold="balanced", threshold_window=8, per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )  # fmt: skip
    assert len(trainer.weak_loss.window) == 8
    before = trainer.weak_loss.window.state_dict()["probs"].clone()
    trainer.evaluate(weak_dataset(rows=3, seed=5))
    torch.testing.assert_close(trainer.weak_loss.window.state_dict()["probs"], before)  # evaluation does not feed it


def test_resuming_changes_nothing(tmp_path):
    """Ramp, window and gradients continue: losses after a checkpoint equal those of the run that never stopped."""
    changes = {
        "threshold": "balanced",
        "threshold_window": 8,
        "save_strategy": "steps",
        "save_steps": 3,
        "num_train_epochs": 2,
    }
    whole = run(tmp_path / "whole", weak_dataset(), **changes)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert (checkpoint / WINDOW_FILE).is_file()
    resumed = weak_trainer(tmp_path / "resumed", weak_dataset(), **changes)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(trajectory(resumed)[-3:], trajectory(whole)[-3:], rtol=1e-5, atol=1e-6)


def test_gamma_rises_and_evaluation_uses_the_final_one(tmp_path):
    trainer = run(tmp_path, weak_dataset(rows=16), gamma_max=0.4, gamma_warmup=0.5, num_train_epochs=2)
    gammas = [log["weak/gamma"] for log in trainer.state.log_history if "weak/gamma" in log]
    assert gammas == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])
    trainer.evaluate(weak_dataset(rows=5, seed=2))
    assert trainer.state.log_history[-1]["eval_weak/gamma"] == pytest.approx(0.4)


def test_evaluation_on_gold_reports_accuracy(tmp_path):
    trainer = run(tmp_path, weak_dataset(), **PLAIN)
    gold = weak_dataset(rows=7, seed=4).remove_columns("weak_probs")
    scores = trainer.evaluate(gold)
    log = trainer.state.log_history[-1]
    logits = torch.as_tensor(trainer.predict(gold).predictions)
    labels = torch.tensor(gold["label"])
    assert log["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert scores["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch", [{}, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}])
def test_rows_teach_by_their_weight(tmp_path, batch):
    """The mean loss is the weighted mean, by hand in float64; a row of weight 0 is a row that is left out."""
    rows, draw = weak_dataset(rows=11), np.random.default_rng(0)
    weights = [0.0, *draw.uniform(0.1, 3.0, 10).tolist()]
    given = {"weak_loss": "naive", "gamma_max": 0.0, "max_steps": 1, "learning_rate": 0.0} | (
        batch or {"per_device_train_batch_size": 11}
    )
    weighed = weak_trainer(tmp_path, rows.add_column("triage_weight", weights), **given)
    losses, model = [], classifier().eval()
    for row in rows:
        ids = torch.tensor([tokenizer()(row["text"])["input_ids"]])
        logps = model(input_ids=ids).logits.double().log_softmax(-1)[0]
        pool = torch.tensor(row["weak_probs"], dtype=torch.float64).mean(0)
        losses.append(-(pool * logps).sum().item())
    weighed.train()
    logged = next(log["loss"] for log in weighed.state.log_history if "loss" in log)
    assert logged == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    assert logged != pytest.approx(np.mean(losses), rel=1e-3)
    found = weighed.evaluate(rows.add_column("triage_weight", weights))["eval_loss"]
    without = weighed.evaluate(rows.select(range(1, 11)).add_column("triage_weight", weights[1:]))["eval_loss"]
    assert found == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    assert found == pytest.approx(without, rel=1e-5)
    prepared = weighed.train_dataset.select(range(1, 5))  # weights over another mean
    assert weighed.evaluate(prepared)["eval_loss"] == pytest.approx(
        np.average(losses[1:5], weights=weights[1:5]), rel=1e-4
    )


def test_what_needs_no_weight_asks_for_none(tmp_path):
    """Predictions are of every row, and gold in the place of votes is not weighed by what the votes were worth."""
    rows = weak_dataset(rows=6)
    trainer = weak_trainer(tmp_path, rows)
    doubtful = rows.add_column("triage_weight", [0.0] * 6)
    torch.testing.assert_close(
        trainer.predict_classes(doubtful).probabilities, trainer.predict_classes(rows).probabilities
    )
    gold = rows.remove_columns("weak_probs")
    found = trainer.evaluate(gold.add_column("triage_weight", [None] * 6))
    assert found["eval_loss"] == pytest.approx(trainer.evaluate(gold)["eval_loss"])


@pytest.mark.parametrize(("weights", "said"), [([1.0, -1.0], "row 1, .*triage_weight"), ([0.0, 0.0], "is 0")])
def test_what_is_no_weight_of_a_row_is_refused(tmp_path, weights, said):
    with pytest.raises(ValueError, match=said):
        weak_trainer(tmp_path, weak_dataset(rows=2).add_column("triage_weight", weights))


@pytest.mark.parametrize("setting", [{"train_sampling_strategy": "group_by_length"}, {"dataloader_drop_last": True}])
def test_predictions_are_rows_in_their_order(tmp_path, setting):
    """And the trainer's own settings are as they were, also for an evaluation after it."""
    rows = weak_dataset(rows=19, seed=9, gold=False)
    expected = weak_trainer(tmp_path, weak_dataset(), per_device_eval_batch_size=4).predict_classes(rows).probabilities
    assert len(expected.unique(dim=0)) > 10  # the order can be told
    trainer = weak_trainer(tmp_path, weak_dataset(), per_device_eval_batch_size=4, **setting)
    torch.testing.assert_close(trainer.predict_classes(rows).probabilities, expected, rtol=1e-4, atol=1e-6)
    assert all(getattr(trainer.args, name) == value for name, value in setting.items())


def test_predictions_expose_the_dirichlet(tmp_path):
    trainer = run(tmp_path, weak_dataset(), weak_loss="bayesian", evidence="softplus")
    unlabelled = weak_dataset(rows=6, seed=9, gold=False).remove_columns("weak_probs")
    found = trainer.predict_classes(unlabelled)
    alpha = torch.nn.functional.softplus(torch.as_tensor(trainer.predict(unlabelled).predictions)) + 1
    torch.testing.assert_close(found.strength, alpha.sum(-1))
    torch.testing.assert_close(found.vacuity, 2 / alpha.sum(-1))
    torch.testing.assert_close(found.probabilities, alpha / alpha.sum(-1, keepdim=True))
    assert trainer.model.config.weak_evidence == "softplus"
    plain = ClassPredictions.from_logits(torch.tensor([[0.0, 1.0]]), None)
    assert plain.strength is None and plain.classes.tolist() == [1]


@pytest.mark.parametrize("evidence", ["exp", "softplus", "relu"])
@pytest.mark.parametrize("offset", [0.0, 3.0, -1.5])
def test_predictions_are_those_that_the_loss_scores(tmp_path, evidence, offset):
    """Without its divergence the evidential loss of class k is -log of the probability that is predicted for k."""
    loss = EvidentialLoss(evidence, kl_coef=0.0, evidence_offset=offset)
    trainer = weak_trainer(tmp_path, weak_dataset(classes=3), classifier(num_labels=3), AuxiliaryConfidence(loss, 0.2))
    rows = weak_dataset(rows=6, classes=3, seed=9, gold=False)
    logits = torch.as_tensor(trainer.predict(rows).predictions)
    found = trainer.predict_classes(rows)
    for k in range(3):
        scored = loss(logits, torch.eye(3)[k].expand(6, 3), 1.0)
        torch.testing.assert_close(-found.probabilities[:, k].log(), scored, rtol=1e-5, atol=1e-6)
    shifted = logits.double() + offset
    alpha = {"exp": shifted.exp(), "softplus": (1 + shifted.exp()).log(), "relu": shifted.clamp(min=0)}[evidence] + 1
    torch.testing.assert_close(found.vacuity.double(), 3 / alpha.sum(-1), rtol=1e-5, atol=1e-6)
    logged = trainer.evaluate(rows)["eval_weak/vacuity"]
    assert logged == pytest.approx(float((3 / alpha.sum(-1)).mean()), rel=1e-5)
    trainer.save_model(str(tmp_path / "saved"))
    judge = WeakClassifier.from_pretrained(str(tmp_path / "saved"), device="cpu").predict(rows["text"])
    torch.testing.assert_close(judge.probabilities, found.probabilities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(judge.vacuity, found.vacuity, rtol=1e-4, atol=1e-6)


def test_every_field_of_the_evidential_losses_reaches_predictions_or_concerns_training_alone():
    """A new field that changes how logits are read belongs into the loss's `dirichlet`, and is added here."""
    read = {"evidence", "evidence_offset", "prior"}
    training = {"kl_coef", "kl_anneal", "kl_clamp", "kl_target", "precision"}
    assert {f.name for loss in (EvidentialLoss, DirichletVotes) for f in dataclasses.fields(loss)} == read | training


def test_saved_student_has_a_card_and_loads(tmp_path):
    trainer = run(tmp_path / "run", weak_dataset())
    trainer.save_model(str(tmp_path / "run"))
    trainer.create_model_card(model_name="student", tags="home")
    card = (tmp_path / "run" / "README.md").read_text()
    for expected in (
        "text-classification",
        "2406.03199",
        "weak-classification",
        "EvidentialLoss",
        "| 12, 3 |",
        "trl_weaks",
    ):
        assert expected in card
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.weak_evidence == "exp"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["pad_token_id"] == 0


def test_a_callable_may_be_the_loss(tmp_path):
    def brier(logits, targets, progress):
        return (logits.softmax(-1) - targets).square().sum(-1)

    brier.linear_in_targets = False
    trainer = weak_trainer(tmp_path, weak_dataset(), loss=brier)
    batch = trainer.data_collator(list(trainer.train_dataset)[:4])
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch)
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = sum(brier(logits, batch["weak_votes"][:, i], 1.0).mean() / 3 for i in range(3))
    torch.testing.assert_close(loss, expected)


def test_votes_stay_float32_under_a_half_precision_engine(tmp_path, monkeypatch):
    """DeepSpeed casts every float input that reaches `Trainer._prepare_inputs`."""
    trainer = weak_trainer(tmp_path, weak_dataset())
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    seen = {}
    monkeypatch.setattr(Trainer, "_prepare_inputs", lambda self, inputs: seen.update(inputs) or dict(inputs))
    prepared = trainer._prepare_inputs(batch)
    assert not any(value.is_floating_point() for value in seen.values())
    assert torch.equal(prepared["weak_votes"], batch["weak_votes"]) and prepared["weak_votes"].dtype == torch.float32


def test_gold_votes_are_sure():
    dataset = gold_votes(weak_dataset(rows=3, classes=3), 3)
    assert dataset["weak_probs"] == [[[float(k == label) for k in range(3)]] for label in dataset["label"]]
