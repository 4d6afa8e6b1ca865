"""What the classification trainer refuses, before any training; and the settings it explains."""

import math
from dataclasses import fields

import pytest
import torch
from classification_runs import classifier, settings, tokenizer, weak_dataset
from datasets import Dataset
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import LoraConfig

from trl_weaks.losses.auxiliary_confidence import AuxiliaryConfidence
from trl_weaks.losses.dirichlet_votes import DirichletVotes
from trl_weaks.losses.evidential import EvidentialLoss
from trl_weaks.trainer.classification.collator import WeakClassificationCollator
from trl_weaks.trainer.classification.objective import VoteObjective
from trl_weaks.trainer.weak_classification_config import BaseConfig, WeakClassificationConfig
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer


def build(folder, dataset, model=None, **changes):
    return WeakClassificationTrainer(
        model or classifier(), settings(folder, **changes), dataset, processing_class=tokenizer()
    )


def with_row(column: str, value, row: int = 2) -> Dataset:
    data = weak_dataset(rows=4).to_dict()
    if column == "weak_weights":
        data[column] = [[1.0, 1.0, 1.0]] * 4
    data[column][row] = value
    return Dataset.from_dict(data)


@pytest.mark.parametrize(
    "dataset, message",
    [
        (lambda: with_row("weak_probs", [[0.5, 0.5], [0.2, 0.3, 0.5]]), r"row 2.*'weak_probs': vote 1 has 3 classes"),
        (lambda: with_row("weak_probs", [[0.5, 0.4]]), r"row 2.*sums to 0.9"),
        (lambda: with_row("weak_probs", [[2.0, -1.0]]), r"row 2.*no probability"),
        (lambda: with_row("weak_probs", [[math.nan, 1.0]]), r"row 2.*no probability"),
        (lambda: with_row("weak_probs", []), r"row 2.*no vote"),
        (lambda: with_row("weak_probs", None), r"row 2.*no vote"),
        (lambda: with_row("weak_probs", [None, [0.5, 0.5]]), r"row 2.*vote 0 is null"),
        (lambda: with_row("weak_probs", [[None, 1.0]]), r"row 2.*no probability"),
        (lambda: with_row("weak_weights", [None, 1.0, 1.0]), r"row 2.*finite"),
        (lambda: with_row("label", None), r"row 2, column 'label' = None"),
        (lambda: with_row("text", None), r"row 2, column 'text' is empty"),
        (lambda: with_row("weak_weights", [1.0, 1.0]), r"row 2.*'weak_weights' has 2 weights for 3 votes"),
        (lambda: with_row("weak_weights", [1.0, -1.0, 1.0]), r"row 2.*not negative"),
        (lambda: with_row("weak_weights", [0.0, 0.0, 0.0]), r"row 2.*not all 0"),
        (lambda: with_row("weak_weights", [math.nan, 1.0, 1.0]), r"row 2.*finite"),
        (lambda: with_row("label", 2), r"row 2, column 'label' = 2 is not a class id from 0 to 1"),
        (lambda: with_row("label", -1), r"row 2, column 'label'"),
        (lambda: with_row("text", ""), r"row 2, column 'text' is empty"),
        (lambda: with_row("text", "<pad> <pad>"), r"row 2: no token to classify"),
        (lambda: with_row("text", "up " * 41), r"row 2: 41 tokens, the model reads 40.*max_length"),
        (lambda: weak_dataset().remove_columns("weak_probs"), r"lacks the column 'weak_probs'.*label_classes"),
        (lambda: weak_dataset().remove_columns("text"), r"needs a column 'text' or 'prompt'"),
        (lambda: weak_dataset(classes=3), r"num_labels=2.*3 classes"),
        (lambda: weak_dataset().select([]), r"empty"),
        (lambda: weak_dataset().to_iterable_dataset(), r"datasets.Dataset"),
        (lambda: None, r"datasets.Dataset"),
    ],
)
def test_bad_rows_are_named_before_training(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(tmp_path, dataset())


def test_evaluation_rows_are_checked_too(tmp_path):
    trainer = build(tmp_path, weak_dataset())
    with pytest.raises(ValueError, match="row 2, column 'label'"):
        trainer.evaluate(with_row("label", 7))
    with pytest.raises(ValueError, match="vote 0 has 3 classes"):
        trainer.evaluate(weak_dataset(classes=3))
    with pytest.raises(ValueError, match="The eval dataset is empty"):
        trainer.evaluate(weak_dataset().select([]))


def test_long_texts_are_cut_on_request(tmp_path):
    trainer = build(tmp_path, with_row("text", "up " * 41), max_length=7)
    assert max(len(ids) for ids in trainer.train_dataset["input_ids"]) == 7


def test_messages_are_rendered(tmp_path):
    dataset = weak_dataset(rows=2).rename_column("text", "prompt")
    messages = [[{"role": "user", "content": "play some jazz"}]] * 2
    dataset = Dataset.from_dict({**dataset.to_dict(), "prompt": messages})
    chat = tokenizer()
    chat.chat_template = "{% for m in messages %}{{ m['content'] }} </s> {% endfor %}"
    trainer = WeakClassificationTrainer(classifier(), settings(tmp_path), dataset, processing_class=chat)
    assert trainer.train_dataset["input_ids"][0] == chat("play some jazz </s>")["input_ids"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weak_loss": "bayes"}, "weak_loss"),
        ({"pooling": "average"}, "`pooling` must be one of linear, .*dawid_skene.*; got 'average'"),
        ({"evidence": "square"}, "evidence"),
        ({"threshold": "median"}, "threshold"),
        ({"gamma_max": 1.0}, "gamma_max"),
        ({"gamma_warmup": 1.5}, "gamma_warmup"),
        ({"kl_anneal": -0.1}, "kl_anneal"),
        ({"kl_coef": -1.0}, "kl_coef"),
        ({"threshold_window": 0}, "threshold_window"),
        ({"max_length": 0}, "max_length"),
        ({"threshold": "balanced", "gamma_max": 0.0}, "gamma_max=0"),
        ({"weak_loss": "dirichlet_votes"}, "gamma_max=0"),
        ({"weak_loss": "dirichlet_votes", "gamma_max": 0.0, "pooling": "majority"}, "pooling"),
        ({"weak_loss": "dirichlet_votes", "gamma_max": 0.0, "vote_precision": 0.0}, "precision"),
        ({"weak_loss": "dirichlet_votes", "gamma_max": 0.0, "evidence": "relu"}, "evidence above 0"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **changes).build_loss()


def test_relu_on_a_head_that_starts_at_zero_is_refused(tmp_path):
    model = classifier()
    torch.nn.init.zeros_(model.score.weight)
    with pytest.raises(ValueError, match="relu has no gradient"):
        build(tmp_path, weak_dataset(), model, evidence="relu")
    build(tmp_path, weak_dataset(), model, evidence="exp")
    build(tmp_path, weak_dataset(), classifier(), evidence="relu")
    # the reason given is true: no gradient reaches the head
    logits = model(torch.tensor([[4, 5]])).logits
    EvidentialLoss(evidence="relu")(logits, torch.tensor([[1.0, 0.0]]), 1.0).sum().backward()
    assert not model.score.weight.grad.any()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"data_collator": print}, "data_collator"),
        ({"compute_loss_func": print}, "compute_loss_func"),
        ({"peft_config": LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")}, "SEQ_CLS"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        WeakClassificationTrainer(
            classifier(), settings(tmp_path), weak_dataset(), processing_class=tokenizer(), **kwargs
        )


def test_other_arguments_are_refused(tmp_path):
    from trl import SFTConfig

    with pytest.raises(ValueError, match="WeakClassificationConfig"):
        WeakClassificationTrainer(classifier(), SFTConfig(str(tmp_path), use_cpu=True, bf16=False), weak_dataset())
    with pytest.raises(ValueError, match="given by name"):
        build(tmp_path, weak_dataset(), model_init_kwargs={"num_labels": 2})


def test_every_new_field_is_documented():
    added = {f.name: f for f in fields(WeakClassificationConfig)}
    for f in fields(BaseConfig):
        if f.name != "learning_rate":
            added.pop(f.name)
    assert len(added) == 21
    for name, field in added.items():
        assert f"{name} (`" in WeakClassificationConfig.__doc__ or name == "learning_rate"
        assert field.metadata["help"]


@hypothesis_settings(max_examples=60, deadline=None)
@given(classes=st.integers(2, 6), supervisors=st.integers(1, 4), seed=st.integers(0, 999), data=st.data())
def test_objective_is_the_weighted_sum_over_supervisors(classes, supervisors, seed, data):
    """Eq. 2 / Eq. 4 by plain loops, whether or not the loss is linear in its target."""
    torch.manual_seed(seed)
    target = data.draw(st.sampled_from(["soft", "expected"]))
    loss = AuxiliaryConfidence(EvidentialLoss(kl_coef=0.7, kl_clamp=None, kl_target=target), 0.3)
    logits = torch.randn(3, classes, dtype=torch.float64)
    votes = torch.distributions.Dirichlet(torch.ones(classes, dtype=torch.float64)).sample((3, supervisors))
    weights = torch.distributions.Dirichlet(torch.ones(supervisors, dtype=torch.float64)).sample((3,))
    expected = [
        sum(weights[b, i] * loss(logits[b : b + 1], votes[b, i : i + 1], 0.8)[0] for i in range(supervisors))
        for b in range(3)
    ]
    torch.testing.assert_close(VoteObjective(loss)(logits, votes, weights, 0.8), torch.stack(expected))
    hard = VoteObjective(loss, soft_labels=False)(logits, votes, weights, 0.8)
    one_hot = torch.nn.functional.one_hot(votes.argmax(-1), classes).double()
    torch.testing.assert_close(hard, VoteObjective(loss)(logits, one_hot, weights, 0.8))
    fitted = DirichletVotes()
    torch.testing.assert_close(VoteObjective(fitted)(logits, votes, weights, 0.8), fitted(logits, votes, 0.8, weights))


def test_collator_pads_right_and_to_a_multiple():
    rows = [
        {"input_ids": [5], "weak_votes": [[1.0, 0.0]], "weak_vote_weights": [1.0], "labels": 1},
        {
            "input_ids": [5, 6, 7],
            "weak_votes": [[0.3, 0.7], [0.5, 0.5]],
            "weak_vote_weights": [0.4, 0.6],
            "labels": -1,
        },
    ]
    batch = WeakClassificationCollator(9, pad_to_multiple_of=4)(rows)
    assert batch["input_ids"].tolist() == [[5, 9, 9, 9], [5, 6, 7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert batch["weak_votes"][0].tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert batch["weak_vote_weights"][0].tolist() == [1.0, 0.0] and batch["labels"].tolist() == [1, -1]
