"""Whether the head can be taken apart is decided by what the model does to logits of any size."""

import warnings

import pytest
import torch
from tiny import causal_lm, config
from torch import nn
from transformers import LlamaForCausalLM, xLSTMForCausalLM

from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.inference.probe import made_up_tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss

V = 59
KERNELS = {
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}
MODELS = {
    "gpt2, tied": lambda: causal_lm("gpt2", V),
    "phi, bias": lambda: causal_lm("phi", V, inner=24),
    "cohere, scale": lambda: causal_lm("cohere", V, inner=24, pad_token_id=0),
    "granite, divisor": lambda: causal_lm("granite", V, inner=24, logits_scaling=3.0),
    "recurrent gemma, cap": lambda: causal_lm(
        "recurrent_gemma", V, inner=48, kv_heads=1, lru_width=16, head_dim=8, attention_window_size=32
    ),
    "xlstm, cap": lambda: causal_lm("xlstm", V, num_blocks=1, **KERNELS),
}
LOSSES = [AuxiliaryConfidence(NaiveLoss(), 0.3), AuxiliaryConfidence(EvidentialLoss(kl_coef=0.05), 0.3)]


def build(make, grow=1.0):
    """A patched model whose head has grown since."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lm_head.bias"):
                p.normal_()
    add_weak_head(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(grow)
    return model


def run(model, loss):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (2, 8), generator=g)
    units = torch.arange(8).expand(2, -1) // 2
    logps = -torch.rand(2, 4, 2, generator=g).repeat_interleave(2, 1)
    request = WeakHeadRequest(loss, 0.5, torch.rand(2, 2, generator=g), units, logps, chunk_size=5)
    value = model(input_ids=ids, labels=ids, weak_head=request).loss
    model.zero_grad()
    value.backward()
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("grow", [1.0, 100.0])
@pytest.mark.parametrize("loss", LOSSES, ids=["naive", "evidential"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_head_equals_the_full_logits_however_large_they_have_become(make, loss, grow):
    model = build(make, grow)
    assert model._weak_head_reachable
    value, grads = run(model, loss)
    model._weak_head_reachable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, reference = run(model, loss)
    tolerance = 1e-6 if isinstance(model, xLSTMForCausalLM) else 1e-10  # which rounds its logits to float32
    assert value == pytest.approx(expected, rel=tolerance)
    for name in reference:
        assert (grads[name] - reference[name]).norm() <= 10 * tolerance * reference[name].norm() + 1e-12, name


class Bent(LlamaForCausalLM):
    """Logits that pass through a function no configuration tells of."""

    bend = staticmethod(lambda logits: logits)

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = self.bend(outputs.logits)
        return outputs


BENDS = {
    "soft cap": lambda z: 30 * torch.tanh(z / 30),
    "clamp": lambda z: z.clamp(-50, 50),
    "scale": lambda z: 1.001 * z,
    "offset": lambda z: z - 1e-3,
}


@pytest.mark.parametrize("bend", BENDS.values(), ids=BENDS)
def test_logits_that_cannot_be_rebuilt_are_taken_whole(bend, monkeypatch):
    monkeypatch.setattr(Bent, "bend", staticmethod(bend))
    model = build(lambda: Bent(config("llama", V, inner=24)))
    with pytest.warns(UserWarning, match="full logits"):
        run(model, NaiveLoss())
    assert not model._weak_head_reachable


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained", [False, True])
def test_rounding_is_no_reason(dtype, trained):
    model = causal_lm("llama", V, width=256, inner=24)
    if trained:
        nn.init.normal_(model.lm_head.weight, std=3.0)
    model = model.to(dtype).eval()
    add_weak_head(model)
    assert model._weak_head_reachable
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("reachable", [True, False], ids=["fused", "full logits"])
@pytest.mark.parametrize("loss", LOSSES, ids=["naive", "evidential"])
def test_a_token_ruled_out_by_minus_infinity_is_one_of_no_weight(loss, reachable):
    """As models pad their vocabulary; the token itself is not among the labels."""
    found = []
    for value in (-torch.inf, -1e4):
        model = build(MODELS["phi, bias"])
        model._weak_head_reachable = reachable
        with torch.no_grad():
            model.lm_head.bias[:3] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(run(model, loss))
    (value, grads), (expected, reference) = found
    assert value == pytest.approx(expected, rel=1e-12)
    for name in reference:
        torch.testing.assert_close(grads[name], reference[name], rtol=1e-10, atol=1e-13)


def test_a_label_that_is_ruled_out_costs_much_and_breaks_nothing():
    model = build(MODELS["phi, bias"])
    with torch.no_grad():
        model.lm_head.bias[:] = -torch.inf
        model.lm_head.bias[3:9] = 0
    value, grads = run(model, LOSSES[1])
    assert 0 < value < torch.inf
    assert all(torch.isfinite(g).all() for g in grads.values())


class Padded(Bent):
    """The configuration says nothing of what `bend` does, and the padding token, the first one, is a row of zeros."""


def padded(**given):
    return Padded(config("llama", V, inner=24, pad_token_id=0, **given))


TOUCHES = {
    "scale": lambda z, c: c * z,
    "shift of one token": lambda z, c: z + torch.nn.functional.one_hot(torch.tensor(7), z.shape[-1]) * (1 - c),
    "shift that depends on the place": lambda z, c: z * torch.linspace(c, 1, z.shape[1])[:, None],
    "soft cap": lambda z, c: c * 40 * torch.tanh(z / (c * 40)),
    "bias": lambda z, c: z + torch.linspace(-1, 1, z.shape[-1]) * (1 - c),
    "a padded vocabulary": lambda z, c: z.masked_fill(torch.arange(z.shape[-1]) >= V - round(9 * c), -torch.inf),
    "a cut vocabulary": lambda z, c: z[..., : V - round(9 * c)],
    "temperature of the last": lambda z, c: torch.cat([z[:, :-1], z[:, -1:] / c], 1),
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("std", [0.02, 1.0])
@pytest.mark.parametrize("strength", [0.25, 0.9, 0.99])
@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_what_forward_does_to_the_logits_is_seen(touch, strength, std, tied, monkeypatch):
    """A row of zeros for the padding token made every probe on that token pass: loss 6.2648 instead of 5.9463."""
    monkeypatch.setattr(Bent, "bend", staticmethod(lambda z: touch(z, strength)))
    torch.manual_seed(0)
    model = padded(tie_word_embeddings=tied, initializer_range=std)
    assert not model.model.embed_tokens.weight[0].any(), "the case is real"
    add_weak_head(model)
    assert not model._weak_head_reachable


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("std", [0.02, 1.0])
def test_a_plain_head_beside_a_row_of_zeros_is_taken_apart(std, tied, monkeypatch):
    monkeypatch.setattr(Bent, "bend", staticmethod(lambda z: z))
    torch.manual_seed(0)
    model = padded(tie_word_embeddings=tied, initializer_range=std)
    add_weak_head(model)
    assert model._weak_head_reachable


@pytest.mark.parametrize("silent", ["head", "embedding"])
def test_a_model_that_says_the_same_after_every_token_shows_nothing(silent, monkeypatch):
    """With a head of zeros any scale passes, and training moves it."""
    monkeypatch.setattr(Bent, "bend", staticmethod(lambda z: 0.25 * z))
    model = padded()
    with torch.no_grad():
        (model.lm_head if silent == "head" else model.model.embed_tokens).weight.zero_()
    add_weak_head(model)
    assert not model._weak_head_reachable


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float32).min, -1e9])
def test_a_bias_that_rules_tokens_out_hides_nothing(value, monkeypatch):
    for scale in (1.0, 0.25):
        monkeypatch.setattr(Bent, "bend", staticmethod(lambda z, scale=scale: scale * z.clamp(min=value)))
        torch.manual_seed(0)
        model = padded()
        model.lm_head = nn.Linear(16, V)
        with torch.no_grad():
            model.lm_head.bias[:5] = value
        add_weak_head(model)
        assert model._weak_head_reachable == (scale == 1.0)


@pytest.mark.parametrize("size", [4, 23, 7919, 2 * 7919])
def test_made_up_tokens_differ_and_are_never_the_padding(size):
    model = causal_lm("llama", size, inner=24, pad_token_id=0)
    ids = made_up_tokens(model, 12)
    assert ids.shape == (1, 12) and 0 not in ids and torch.equal(ids, made_up_tokens(model, 12))
    assert len(ids.unique()) == min(12, size - 1)
