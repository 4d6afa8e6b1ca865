"""`loss=` of the trainers: a name, a function, or the auxiliary loss around a function."""

import classification_runs
import pytest
import torch
from datasets import Dataset

from trl_weaks import WeakClassificationTrainer, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss, as_weak_loss
from trl_weaks.losses.dirichlet_votes import DirichletVotes
from trl_weaks.trainer.common.model_card import describe_loss


def cross_entropy(logits, targets, progress):
    return -(targets * logits.float().log_softmax(-1)).sum(-1)


def trainer_of(student, rows, tokenizer, arguments, loss=None, **settings):
    args = WeakSupervisionConfig(**arguments | settings)
    trainer = WeakSupervisionTrainer(
        model=student(), args=args, loss=loss, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return trainer, args


def classifier_trainer(folder, loss, **changes):
    return WeakClassificationTrainer(
        classification_runs.classifier(),
        classification_runs.settings(folder, **changes),
        classification_runs.weak_dataset(rows=4),
        processing_class=classification_runs.tokenizer(),
        loss=loss,
    )


def test_a_name_is_the_weak_loss_of_the_other_settings(student, weak_rows, tokenizer, arguments, trajectory):
    named, args = trainer_of(student, weak_rows, tokenizer, arguments, "naive", gamma_max=0.1)
    assert args.weak_loss == "bayesian" and named.args.weak_loss == "naive"
    assert named.weak_loss == AuxiliaryConfidence(NaiveLoss(), gamma_max=0.1)
    described, _ = trainer_of(student, weak_rows, tokenizer, arguments, weak_loss="naive", gamma_max=0.1)
    assert trajectory(named) == trajectory(described)


@pytest.mark.parametrize(
    "loss, message",
    [
        ("bayes", "`loss` must be one of naive, bayesian, .*or a function; got 'bayes'"),
        ("dirichlet_votes", "must be one of naive, bayesian.*; got 'dirichlet_votes'"),
        (3, "callable .* got a `int`"),
        (DirichletVotes(), "`DirichletVotes` reads the class votes.*WeakClassificationTrainer"),
        (AuxiliaryConfidence(NaiveLoss(), threshold="balanced"), "`threshold='balanced'` is for classification"),
        (AuxiliaryConfidence(cross_entropy, threshold="balanced"), "`threshold='balanced'` is for classification"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused(student, weak_rows, tokenizer, arguments, loss, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(student, weak_rows, tokenizer, arguments, loss)


@pytest.mark.parametrize(
    "loss, message",
    [
        ("bayes", "`loss` must be one of naive, bayesian, .*dirichlet_votes.*or a function; got 'bayes'"),
        ("dirichlet_votes", "set `gamma_max=0`"),
        (3, "callable .* got a `int`"),
    ],
)
def test_a_loss_of_classes_that_cannot_be_used_is_refused(tmp_path, loss, message):
    with pytest.raises(ValueError, match=message):
        classifier_trainer(tmp_path, loss, gamma_max=0.5)


def test_votes_are_a_named_loss_of_classes(tmp_path):
    assert classifier_trainer(tmp_path, "dirichlet_votes", gamma_max=0.0).weak_loss == DirichletVotes()


def test_auxiliary_confidence_around_a_function(student, weak_rows, tokenizer, arguments, trajectory):
    """It trains as around the built-in loss of the same formula, and its weight is logged."""
    runs = []
    for inner in (cross_entropy, NaiveLoss()):
        loss = AuxiliaryConfidence(inner, gamma_max=0.4, warmup=0.5)
        trainer, _ = trainer_of(student, weak_rows, tokenizer, arguments, loss)
        path = trajectory(trainer)
        gammas = [log["weak/gamma"] for log in trainer.state.log_history if "weak/gamma" in log]
        steps = trainer.state.max_steps
        assert gammas == pytest.approx([0.4 * min(1.0, 2.0 * i / steps) for i in range(steps)], abs=1e-6)
        runs.append(path)
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]), rtol=2e-5, atol=2e-5)


def test_auxiliary_confidence_around_a_function_of_classes(tmp_path):
    def with_vote(inner):
        trainer = classifier_trainer(tmp_path, AuxiliaryConfidence(inner, gamma_max=0.4))
        batch = trainer.data_collator(list(trainer.train_dataset))
        trainer.model.eval()
        return trainer.compute_loss(trainer.model, batch)

    torch.testing.assert_close(with_vote(cross_entropy), with_vote(NaiveLoss()))


class Focal:
    """A loss with fields of its own that are called as some of ours."""

    gamma, evidence, prior, linear_in_targets = 2.0, "strong", torch.ones(3), False

    def __call__(self, logits, targets, progress):
        logps = logits.float().log_softmax(-1)
        return -((1 - logps.exp()) ** self.gamma * targets * logps).sum(-1)


def test_a_loss_may_have_a_gamma_of_its_own(tmp_path):
    loss = Focal()
    loss.window = 5
    trainer = classifier_trainer(tmp_path, loss, num_train_epochs=1)
    trainer.train()
    assert not any("weak/gamma" in log or "weak/vacuity" in log for log in trainer.state.log_history)


def test_a_loss_of_tokens_may_have_a_gamma_of_its_own(student, weak_rows, tokenizer, arguments):
    trainer, _ = trainer_of(student, weak_rows, tokenizer, arguments, Focal(), max_steps=1)
    trainer.train()
    assert not any("weak/gamma" in log for log in trainer.state.log_history)


def test_the_default_is_what_the_settings_describe(student, weak_rows, tokenizer, arguments):
    trainer, args = trainer_of(student, weak_rows, tokenizer, arguments)
    assert trainer.weak_loss == args.build_loss() == AuxiliaryConfidence(EvidentialLoss())


@pytest.mark.parametrize(
    "loss, text",
    [
        (cross_entropy, "cross_entropy"),
        (as_weak_loss(cross_entropy), "CallableLoss(function=cross_entropy, linear_in_targets=False)"),
        (
            AuxiliaryConfidence(cross_entropy, threshold="balanced"),
            "AuxiliaryConfidence(loss=cross_entropy, gamma_max=0.25, warmup=0.25, threshold='balanced', "
            "window=PredictionWindow)",
        ),
    ],
)
def test_the_card_names_a_function_not_its_address(loss, text):
    assert describe_loss(loss) == text
