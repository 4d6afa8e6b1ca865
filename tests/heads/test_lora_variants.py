"""Adapters on the output layer that are more than a matrix added to its weight: bias, and variants of LoRA."""

import warnings

import pytest
import tiny
import torch

from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.heads.projection import head_parameters
from trl_weaks.losses.naive import NaiveLoss

peft = pytest.importorskip("peft")
V = 50
KINDS = {
    "bias": ("phi", {"lora_bias": True}),  # whose output layer has a bias
    "activated": ("llama", {"alora_invocation_tokens": [7]}),
    "dora": ("llama", {"use_dora": True}),
    "plain": ("llama", {}),
    "plain with a bias": ("phi", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_cross_entropy(kind):
    name, settings = KINDS[kind]
    model = tiny.causal_lm(name, V, seed=0, scale=3, tie_word_embeddings=False)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head", "q_proj"], **settings)
    model = peft.get_peft_model(model, config).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    add_weak_head(model.get_base_model())  # at the start of a training, when all of them add nothing yet
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    ids = torch.randint(8, V, (3, 9))
    ids[0, 2] = ids[1, 5] = 7  # the third text never invokes
    labels = ids.clone()
    labels[:, :3] = -100
    plain = model(input_ids=ids).logits
    expected = torch.nn.functional.cross_entropy(
        plain[:, :-1].reshape(-1, V).double(), labels[:, 1:].reshape(-1), reduction="sum"
    )
    wanted = torch.autograd.grad(expected, list(trained.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all logits are computed
        output = model(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(NaiveLoss(), 0.5, torch.ones(3, 1)))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, found, right in zip(
        trained, torch.autograd.grad(output.loss, list(trained.values())), wanted, strict=True
    ):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()) + 1e-7, msg=name)
    whole = head_parameters(model.get_base_model().get_output_embeddings())
    assert (whole is not None) == kind.startswith("plain"), "the cheaper way stays where it is exact"
