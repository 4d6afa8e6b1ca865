"""The weak head under PEFT, checkpointing, compilation, half precision, frozen heads, experts, and odd heads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import causal_lm

from trl_weaks.heads import WeakHeadRequest, add_weak_head, rows
from trl_weaks.heads.tokens import Tokens, flatten_tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary import cpu_kernels

V = 61
LOSSES = [AuxiliaryConfidence(NaiveLoss(), 0.3), AuxiliaryConfidence(EvidentialLoss(kl_coef=0.05), 0.3)]
NAMES = ["naive", "evidential"]


def llama():
    return causal_lm("llama", V, layers=2, inner=24, kv_heads=1).eval()


def batch(rows=3, length=12):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (rows, length), generator=g)
    labels = ids.clone()
    labels[:, :4] = -100
    units = torch.arange(length)[None].expand(rows, -1) // 3
    logps = -torch.rand(rows, length // 3, 2, generator=g)
    return ids, labels, torch.rand(rows, 2, generator=g), units, logps.gather(1, units[..., None].expand(-1, -1, 2))


def ask(loss, chunk_size=256, split="confidence", **more):
    _, _, weights, units, logps = batch()
    return WeakHeadRequest(loss, 0.5, weights, units, logps, split=split, chunk_size=chunk_size, **more)


def run(model, loss, **kwargs):
    ids, labels, *_ = batch()
    return model(input_ids=ids, labels=labels, weak_head=ask(loss, **kwargs))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def from_full_logits(model, loss):
    """The same numbers by way of the public loss on full logits: one token, one supervisor at a time."""
    ids, labels, *_ = batch()
    logits = model(input_ids=ids, labels=None).logits[:, :-1]
    tokens, mask = flatten_tokens(ask(loss), labels)
    rows, total = logits[mask], 0.0
    tops = rows.detach().softmax(-1).amax(-1)
    probs = tokens.target_logps(slice(0, len(rows)), tops.double()).exp()
    for i, t in enumerate(tokens.ids.tolist()):
        p = rows[i].detach().double().softmax(-1)
        for s in range(2):
            y = p * (1 - probs[i, s]) / (1 - p[t])
            y[t] = probs[i, s]
            total = total + tokens.weights[i, s] * loss(rows[i : i + 1], y[None].to(rows.dtype), 0.5)[0]
    return total


def assert_same(a, b, tolerance=1e-5):
    assert a.keys() == b.keys() and a
    for name in a:
        size = b[name].abs().max().clamp(min=1e-3)
        assert (a[name] - b[name]).abs().max() <= tolerance * size, name


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_float32_equals_full_logits_to_five_digits(loss):
    model = llama()
    expected = from_full_logits(model, loss)
    reference = gradients(model, expected)
    add_weak_head(model)
    output = run(model, loss)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same(gradients(model, output.loss), reference)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("reachable", [True, False], ids=["chunked", "full logits"])
def test_compiled_passes_give_the_same(loss, reachable, compiler, monkeypatch):
    asked, load = [], cpu_kernels.load_kernels
    monkeypatch.setattr(cpu_kernels, "load_kernels", lambda: asked.append(1) or load())
    model = llama()
    add_weak_head(model)
    model._weak_head_reachable, model._weak_head_warned = reachable, True
    one = run(model, loss, chunk_size=5)
    reference = gradients(model, one.loss)
    assert not asked
    other = run(model, loss, chunk_size=5, kernels=True)
    assert asked, "the compiled passes ran"
    for name in ("per_token_loss", "log_probs", "entropy", "target_probs", "is_top1"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=2e-6, atol=2e-6)
    assert_same(gradients(model, other.loss), reference, 5e-6)


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]], ids=["backbone", "backbone and head"])
def test_lora(targets):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=targets, r=2, init_lora_weights=False)
    model = peft.get_peft_model(llama(), config)
    add_weak_head(model)
    expected = from_full_logits(model, LOSSES[1])
    reference = gradients(model, expected)
    output = run(model, LOSSES[1])
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same(gradients(model, output.loss), reference)
    assert all("lora" in name for name in reference) and any(targets[-1] in name for name in reference)


def test_a_head_trained_in_full_beside_an_adapter():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(llama(), config)
    add_weak_head(model)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "modules_to_save" in n).mul_(1.3)
    expected = from_full_logits(model, LOSSES[0])
    output = run(model, LOSSES[0])
    assert_same(gradients(model, output.loss), gradients(model, expected))
    with model.disable_adapter():
        assert run(model, LOSSES[0]).loss.item() != pytest.approx(output.loss.item())


def test_adapter_dropout_on_the_head_falls_back_to_full_logits():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"], lora_dropout=0.5)
    model = peft.get_peft_model(llama(), config).train()
    add_weak_head(model)
    with pytest.warns(UserWarning, match="full logits"):
        run(model, LOSSES[0])


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_a_head_with_a_layer_in_front_falls_back_to_full_logits_with_one_warning(loss, recwarn):
    model = causal_lm("bert", V, layers=2, inner=24, is_decoder=True).eval()
    expected = from_full_logits(model, loss)
    reference = gradients(model, expected)
    add_weak_head(model)
    with pytest.warns(UserWarning, match="full logits"):
        output = run(model, loss, chunk_size=5)
    recwarn.clear()
    again = run(model, loss)
    assert not [w for w in recwarn if "full logits" in str(w.message)]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert again.loss.item() == pytest.approx(output.loss.item(), rel=1e-6)
    assert_same(gradients(model, output.loss), reference)


def test_a_frozen_head_gets_no_gradient_and_passes_it_on():
    model = llama()
    add_weak_head(model)
    free = gradients(model, run(model, LOSSES[1]).loss)
    model.lm_head.weight.requires_grad_(False)
    frozen = gradients(model, run(model, LOSSES[1]).loss)
    del free["lm_head.weight"]
    assert_same(frozen, free, 1e-7)


def test_evaluation_makes_no_gradient_and_the_same_value():
    model = llama()
    add_weak_head(model)
    with torch.no_grad():
        value = run(model, LOSSES[1])
    assert not value.loss.requires_grad
    assert value.loss.item() == pytest.approx(run(model, LOSSES[1]).loss.item(), rel=1e-6)


def test_a_second_backward_is_refused_instead_of_wrong():
    model = llama()
    add_weak_head(model)
    loss = run(model, LOSSES[0]).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run forward again"):
        loss.backward()


def test_the_upstream_gradient_scales_the_result():
    model = llama()
    add_weak_head(model)
    whole = gradients(model, run(model, LOSSES[0]).loss)
    tenth = gradients(model, run(model, LOSSES[0]).loss * 0.1)
    assert_same({k: v * 10 for k, v in tenth.items()}, whole)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model = llama().train()
    add_weak_head(model)
    plain = gradients(model, run(model, LOSSES[1]).loss)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same(gradients(model, run(model, LOSSES[1]).loss), plain, 1e-6)


def test_a_compiled_model_gives_the_same():
    model = llama()
    add_weak_head(model)
    plain = gradients(model, run(model, LOSSES[0]).loss)
    compiled = torch.compile(model, backend="eager")
    assert_same(gradients(model, run(compiled, LOSSES[0]).loss), plain, 1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_stays_close_and_accumulates_in_float32(loss, how):
    exact, model = llama(), llama()
    add_weak_head(exact)
    add_weak_head(model.to(torch.bfloat16) if how == "weights" else model)
    reference = gradients(exact, run(exact, loss).loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = run(model, loss, chunk_size=4)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(run(exact, loss).loss.item(), rel=2e-2)
    head = gradients(model, output.loss)["lm_head.weight"]
    assert head.dtype == model.lm_head.weight.dtype
    assert (head.float() - reference["lm_head.weight"]).norm() <= 0.03 * reference["lm_head.weight"].norm()


@pytest.mark.parametrize("split", ["confidence", "uniform", "eq8"])
@pytest.mark.parametrize("reachable", [True, False], ids=["chunked", "full logits"])
@pytest.mark.parametrize("lengths", [[1] * 8, [8], [3, 5], [2, 2, 4]], ids=str)
def test_a_chunk_holds_no_more_rows_than_asked_whatever_the_units(lengths, reachable, split, monkeypatch):
    """A text without white space is one unit, whose logits were all held at once: 289 rows for a chunk of 16."""
    model = llama().double()
    add_weak_head(model)
    model._weak_head_reachable, model._weak_head_warned = reachable, True
    held, found = [], {}
    seen = rows.split_rows
    monkeypatch.setattr(rows, "split_rows", lambda z, *given: (held.append(len(z)), seen(z, *given))[1])
    ids, labels, weights, *_ = batch()
    units = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    units = torch.cat([torch.full((4,), -1), units]).expand(3, -1)
    logps = -torch.rand(3, len(lengths), 2, generator=torch.Generator().manual_seed(2))
    logps = logps.gather(1, units.clamp(min=0)[..., None].expand(-1, -1, 2))
    for size in (1000, 1, 2, 3, 5, 8):
        request = WeakHeadRequest(LOSSES[1], 0.5, weights, units, logps, split, chunk_size=size)
        held.clear()
        output = model(input_ids=ids, labels=labels, weak_head=request)
        assert max(held) <= size
        assert sum(held) <= 2 * 24, "no logits are made more than twice"
        found[size] = output.per_token_loss, gradients(model, output.loss)
    assert found[1000][0].abs().max() > 0.1
    for losses, slopes in found.values():
        torch.testing.assert_close(losses, found[1000][0], rtol=1e-6, atol=1e-7)
        assert_same(slopes, found[1000][1], 1e-10)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=12), st.integers(1, 50))
def test_chunks_are_bounded_and_cut_long_units_alone(lengths, size):
    segments = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))
    total = len(segments)
    tokens = Tokens(torch.zeros(total), torch.ones(total, 1), segments, torch.zeros(total, 1), "uniform")
    chunks = tokens.chunks(size)
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(total))
    assert all(0 < c.stop - c.start <= size for c in chunks)
    for c in chunks[1:]:
        if segments[c.start] == segments[c.start - 1]:
            assert lengths[segments[c.start]] > size


class SquaredError:
    """Not one of ours, not linear in the target, no closed form."""

    linear_in_targets = False

    def __call__(self, logits, targets, progress):
        return (torch.softmax(logits, -1) - targets).square().sum(-1) + progress


@pytest.mark.parametrize(
    "loss", [SquaredError(), AuxiliaryConfidence(SquaredError(), 0.2), EvidentialLoss("softplus")]
)
def test_any_callable_runs_through_the_same_head(loss):
    model = llama()
    add_weak_head(model)
    expected = from_full_logits(model, loss)
    reference = gradients(model, expected)
    output = run(model, loss, chunk_size=4)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same(gradients(model, output.loss), reference)


def test_logits_beyond_the_closed_form_are_still_exact():
    model = llama().double()
    add_weak_head(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(2_000)  # evidence beyond exp(300)
    loss = EvidentialLoss(kl_coef=1e-3, kl_clamp=None)
    ids, labels, weights, *_ = batch()
    request = WeakHeadRequest(loss, 0.5, weights)
    output = model(input_ids=ids, labels=labels, weak_head=request)
    logits = model(input_ids=ids).logits[:, :-1]
    hard = torch.nn.functional.one_hot(ids[:, 1:], V).double()
    expected = (loss(logits.flatten(0, 1), hard.flatten(0, 1), 0.5).view(3, -1) * (labels[:, 1:] != -100)).sum(-1)
    expected = (expected * weights.double().sum(-1)).sum()
    assert logits.max() > 300
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-7)
    assert_same(gradients(model, output.loss), gradients(model, expected), 1e-6)


def test_a_mixture_of_experts_reports_its_balancing_loss():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = causal_lm("mixtral", V, layers=2, inner=24, kv_heads=1, **experts).eval()
    ids, labels, *_ = batch()
    own = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    add_weak_head(model)
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, weak_head=ask(NaiveLoss()))
    assert output.aux_loss.item() == pytest.approx(own.aux_loss.item(), rel=1e-6)
    assert output.aux_loss.requires_grad


def test_beside_trl_s_own_fused_head_in_either_order():
    utils = pytest.importorskip("trl.trainer.utils")
    ids, labels, *_ = batch()
    values = []
    for first, second in ((utils.add_fused_lm_head, add_weak_head), (add_weak_head, utils.add_fused_lm_head)):
        model = llama()
        first(model)
        second(model)
        fused = model(input_ids=ids, labels=labels, fused_lm_head=True)
        ours = model(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(NaiveLoss(), 0.5, torch.ones(3, 1)))
        assert torch.allclose(ours.log_probs, fused.log_probs, atol=1e-5)
        assert torch.equal(ours.label_mask, fused.label_mask)
        assert ours.loss.item() == pytest.approx(-fused.log_probs.sum().item(), rel=1e-5)
        assert model(input_ids=ids).logits.shape == (*ids.shape, V)
        values.append(ours.loss.item())
    assert values[0] == values[1]
