"""Learned tokens before each row: PEFT hands the model embeddings and labels that are longer than its request."""

import pytest
import torch
from test_weak_head_settings import (
    LOSSES,
    NAMES,
    ask,
    assert_same,
    batch,
    from_full_logits,
    gradients,
    llama,
)
from torch import nn

from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.losses import NaiveLoss

peft = pytest.importorskip("peft")
KINDS = {
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
}


class Own(nn.Module):
    """Gives the logits of the row itself."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, labels=None):
        outputs = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        outputs.logits = outputs.logits[:, -input_ids.shape[1] :]
        return outputs


def run(model, request):
    ids, labels, *_ = batch()
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, weak_head=request)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_learned_tokens_are_trained_as_by_full_logits(kind, loss):
    model = peft.get_peft_model(llama(), KINDS[kind]()).eval()
    add_weak_head(model)
    expected = from_full_logits(Own(model), loss)
    reference = gradients(model, expected)
    output = run(model, ask(loss))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.label_mask.shape == (3, 11)
    assert_same(gradients(model, output.loss), reference)
    assert all("prompt_encoder" in name for name in reference)


@pytest.mark.parametrize("kind", KINDS)
def test_hard_labels_need_no_units(kind):
    model = peft.get_peft_model(llama(), KINDS[kind]()).eval()
    add_weak_head(model)
    output = run(model, WeakHeadRequest(NaiveLoss(), 0.5, torch.ones(3, 1)))
    ids, labels, *_ = batch()
    expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    assert output.loss.item() == pytest.approx(expected.item() * (labels[:, 1:] != -100).sum().item(), rel=1e-5)


def test_a_request_of_another_length_is_still_refused():
    ids, labels, weights, units, logps = batch()
    short = WeakHeadRequest(NaiveLoss(), 0.5, weights, units[:, 1:], logps[:, 1:])
    model = llama()
    add_weak_head(model)
    with pytest.raises(ValueError, match="unit_ids must be"):
        model(input_ids=ids, labels=labels, weak_head=short)
    embeddings = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="unit_ids must be"):
        model(inputs_embeds=embeddings, labels=ids, weak_head=short)
