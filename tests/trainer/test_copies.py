"""Copies of a student are models of their own, and a student can be trained again."""

import copy
import io

import pytest
import torch
from datasets import Dataset
from preference_runs import model as policy_of
from preference_runs import pairs
from preference_runs import tokenizer as pair_tokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.losses import NaiveLoss

IDS = torch.arange(5, 17)[None]


@pytest.fixture
def weak_dataset(weak_rows):
    return Dataset.from_list(weak_rows)


def pickled(model):
    """Without the hooks of the trainer; what comes back is taught again."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    found = torch.load(file, weights_only=False)
    add_weak_head(found)
    return found


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model).module


def supervised(student, rows, tokenizer, arguments):
    args = WeakSupervisionConfig(**arguments)
    return WeakSupervisionTrainer(student, args, train_dataset=rows, processing_class=tokenizer)


def logits(model):
    return model(input_ids=IDS).logits.detach()


def weak_loss(model):
    request = WeakHeadRequest(NaiveLoss(), 0.5, torch.ones(1, 1))
    return float(model(input_ids=IDS, labels=IDS, weak_head=request).loss)


@pytest.mark.parametrize("trained", [False, True], ids=["before", "after training"])
@pytest.mark.parametrize("copied", [copy.deepcopy, averaged, pickled])
def test_a_copy_of_the_student_uses_its_own_weights(copied, trained, student, weak_dataset, tokenizer, arguments):
    trainer = supervised(student(), weak_dataset, tokenizer, arguments)
    if trained:
        trainer.train()
    twin = copied(trainer.model)
    twin.eval(), trainer.model.eval()
    before = logits(trainer.model), weak_loss(trainer.model)
    torch.testing.assert_close(logits(twin), before[0])
    assert weak_loss(twin) == pytest.approx(before[1], rel=1e-5)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    fresh = student().eval()
    fresh.load_state_dict(twin.state_dict())
    expected = logits(fresh)
    add_weak_head(fresh)
    torch.testing.assert_close(logits(twin), expected)
    assert weak_loss(twin) == pytest.approx(weak_loss(fresh), rel=1e-5)
    torch.testing.assert_close(logits(trainer.model), before[0])
    assert weak_loss(trainer.model) == pytest.approx(before[1], rel=1e-5)


def test_copies_of_policy_and_reference_use_their_own_weights(tmp_path):
    args = WeakPreferenceConfig(str(tmp_path), use_cpu=True, report_to="none", bf16=False)
    trainer = WeakPreferenceTrainer(
        policy_of(), policy_of(seed=1), args, train_dataset=pairs(4), processing_class=pair_tokenizer()
    )
    for model in (trainer.model, trainer.ref_model):
        twin, before = copy.deepcopy(model), logits(model)
        with torch.no_grad():
            twin.lm_head.weight.zero_()
        assert not logits(twin).any()
        torch.testing.assert_close(logits(model), before)
        fused = twin(input_ids=IDS, labels=IDS, fused_lm_head=True).log_probs
        torch.testing.assert_close(fused, torch.full_like(fused, -torch.tensor(320.0).log()))


def test_a_student_is_trained_again_by_another_trainer(student, weak_dataset, tokenizer, arguments, tmp_path):
    """Ours, TRL's on either side: each step is that of a model that no trainer has seen."""

    def stock(model):
        args = SFTConfig(**arguments)
        rows = weak_dataset.select_columns(["prompt", "completion"])
        return SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)

    def ours(model):
        return supervised(model, weak_dataset, tokenizer, arguments)

    def preferred(model, kind=WeakPreferenceTrainer, settings=WeakPreferenceConfig):
        args = settings(**arguments)
        rows = pairs(4) if kind is WeakPreferenceTrainer else pairs(4, False, False)
        return kind(model, copy.deepcopy(model), args, train_dataset=rows, processing_class=tokenizer)

    seen = student()
    first = stock(seen)
    makers = (lambda m: first if m is seen else stock(m), ours, stock, ours, preferred, ours,
              lambda m: preferred(m, DPOTrainer, DPOConfig))  # fmt: skip
    for make in makers:
        fresh = student()
        fresh.load_state_dict(seen.state_dict())
        losses = []
        for model in (seen, fresh):
            trainer = make(model)
            torch.manual_seed(7)  # the order of the rows is drawn now, and the first trainer was made long before
            trainer.train()
            losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for one, other in zip(seen.parameters(), fresh.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    first.train()  # the trainer that was there before ours still can
