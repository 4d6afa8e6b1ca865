"""The patched forward against plain loops over full logits."""

import copy
import math

import pytest
import torch
from tiny import causal_lm
from torch.utils._python_dispatch import TorchDispatchMode

from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss

V = 53
SMALL = {"layers": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MODELS = {
    "llama": {"inner": 24, "kv_heads": 1},
    "gpt2": {},
    "opt": {"inner": 24, "word_embed_proj_dim": 8},
    "gpt_neox": {"inner": 24},
    "gemma2": {"inner": 24, "kv_heads": 1, "head_dim": 8, "final_logit_softcapping": 3.0},
}
MODELS |= {  # with a bias, a logit scale, a logit divisor
    "phi": {"inner": 24},
    "cohere": {"inner": 24},
    "granite": {"inner": 24, "logits_scaling": 3.0},
}
LOSSES = {
    "naive": NaiveLoss(),
    "naive + aux": AuxiliaryConfidence(NaiveLoss(), gamma_max=0.3),
    "evidential": EvidentialLoss(kl_coef=0.05, kl_clamp=None),
    "evidential, expected + aux": AuxiliaryConfidence(
        EvidentialLoss(kl_coef=0.05, kl_target="expected"), gamma_max=0.3
    ),
}


def plain(name="llama"):
    return causal_lm(name, V, **SMALL, **MODELS[name]).double().eval()


def build(name="llama"):
    model = plain(name)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    add_weak_head(model)
    return model


def batch(seed=0, rows=3, length=9, supervisors=2):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V, (rows, length), generator=g)
    labels = ids.clone()
    labels[:, :3] = -100
    units = torch.tensor([[-1, -1, -1, 0, 0, 1, 2, 2, 2]] * rows)
    units[1] = torch.tensor([-1, -1, -1, 0, 1, 1, 1, -1, 3])
    logps = -torch.rand(rows, 4, supervisors, generator=g) * 2
    unit_logps = logps.gather(1, units.clamp(min=0)[..., None].expand(-1, -1, supervisors))
    weights = torch.rand(rows, supervisors, generator=g)
    weights[0, 1] = 0
    return ids, labels, weights, units, unit_logps


def by_hand(model, ids, labels, request):
    """Loops over rows, supervisors, units and tokens."""
    logits = model(input_ids=ids).logits
    total = 0.0
    for b in range(len(ids)):
        positions = [i for i in range(1, ids.shape[1]) if labels[b, i] != -100]
        for s in range(request.weights.shape[1]):
            for i in positions:
                z = logits[b, i - 1]
                p = z.detach().softmax(-1)
                prob = torch.ones((), dtype=z.dtype)
                if request.unit_logps is not None and request.unit_ids[b, i] >= 0:
                    mates = [j for j in positions if request.unit_ids[b, j] == request.unit_ids[b, i]]
                    tops = torch.stack([logits[b, j - 1].detach().softmax(-1).max() for j in mates])
                    sign = {"confidence": -1, "uniform": 0, "eq8": 1}[request.split]
                    share = (sign * tops).softmax(0)[mates.index(i)]
                    whole = request.unit_logps[b, i, s].double()
                    prob = share * whole.exp() if request.split == "eq8" else (share * whole).exp()
                y = p * (1 - prob) / (1 - p[labels[b, i]])
                y[labels[b, i]] = prob
                loss = request.loss(z[None], y[None], request.progress)[0]
                total = total + request.weights[b, s].double() * loss
    return total


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b, tolerance=1e-10):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("split", ["confidence", "uniform", "eq8"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_loss_and_gradients_equal_plain_loops(loss, split):
    model = build()
    ids, labels, weights, units, logps = batch()
    request = WeakHeadRequest(loss, 0.5, weights, units, logps, split=split, chunk_size=4)
    output = model(input_ids=ids, labels=labels, weak_head=request)
    expected = by_hand(model, ids, labels, request)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert output.per_token_loss.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same(gradients(model, output.loss), gradients(model, expected))


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_keeps_its_head_quirks(name):
    model = build(name)
    assert model._weak_head_reachable
    ids, labels, weights, units, logps = batch()
    request = WeakHeadRequest(LOSSES["naive + aux"], 0.5, weights, units, logps)
    output = model(input_ids=ids, labels=labels, weak_head=request)
    expected = by_hand(model, ids, labels, request)
    assert_same(gradients(model, output.loss), gradients(model, expected))
    log_probs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    mask = labels[:, 1:] != -100
    emitted = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    checks = {
        "log_probs": emitted * mask,
        "entropy": -(log_probs.exp() * log_probs).sum(-1) * mask,
        "top_probs": log_probs.exp().amax(-1) * mask,
        "is_top1": (log_probs.argmax(-1) == ids[:, 1:]) & mask,
        "label_mask": mask,
    }
    for key, value in checks.items():
        assert torch.allclose(output[key].double(), value.double(), atol=1e-6), key


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_merging_supervisors_of_one_row_equals_separate_rows(loss):
    model = build()
    ids, labels, weights, units, logps = batch(supervisors=3)
    merged = model(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(loss, 0.4, weights, units, logps))
    one = [x.repeat_interleave(3, 0) for x in (ids, labels, units)]
    apart = logps.permute(0, 2, 1).reshape(9, 9, 1)
    request = WeakHeadRequest(loss, 0.4, weights.reshape(9, 1), one[2], apart)
    separate = model(input_ids=one[0], labels=one[1], weak_head=request)
    assert merged.loss.item() == pytest.approx(separate.loss.item(), rel=1e-6)
    assert_same(gradients(model, merged.loss), gradients(model, separate.loss), 1e-6)  # Llama norms in float32


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_chunk_size_changes_nothing(loss):
    model = build()
    ids, labels, weights, units, logps = batch()
    results = []
    for size in (1, 2, 5, 1000):
        request = WeakHeadRequest(loss, 0.5, weights, units, logps, chunk_size=size)
        output = model(input_ids=ids, labels=labels, weak_head=request)
        results.append((output.loss.item(), gradients(model, output.loss)))
    for value, grads in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-12)
        assert_same(grads, results[0][1], 1e-12)


def test_hard_labels_and_weight_one_are_plain_cross_entropy():
    model = build()
    ids, labels, *_ = batch()
    output = model(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(NaiveLoss(), 0.5, torch.ones(3, 1)))
    count = (labels[:, 1:] != -100).sum()
    assert output.loss.item() == pytest.approx(model(input_ids=ids, labels=labels).loss.item() * count.item())
    assert torch.equal(output.target_probs, output.label_mask.float())


def test_rows_without_a_supervised_token_give_a_connected_zero():
    model = build()
    ids, labels, weights, units, logps = batch()
    labels = torch.full_like(labels, -100)
    output = model(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(NaiveLoss(), 0.5, weights, units, logps))
    assert output.loss.item() == 0
    assert all((g == 0).all() for g in gradients(model, output.loss).values())


def test_patching_twice_and_copying_keep_the_plain_forward():
    model = build()
    add_weak_head(model)
    ids, labels, weights, units, logps = batch()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.5)
    fresh = plain()
    fresh.load_state_dict(twin.state_dict())
    assert torch.equal(twin(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert twin.generate(ids, max_new_tokens=2, do_sample=False).shape == (3, 11)
    request = WeakHeadRequest(NaiveLoss(), 0.5, weights, units, logps)
    assert (
        twin(input_ids=ids, labels=labels, weak_head=request).loss
        != model(input_ids=ids, labels=labels, weak_head=request).loss
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "equal"}, "split"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"unit_ids": None}, "unit_ids"),
        ({"weights": torch.ones(2, 2)}, "weights"),
        ({"unit_logps": torch.zeros(3, 9, 5)}, "unit_logps"),
        ({"loss": AuxiliaryConfidence(NaiveLoss(), threshold="balanced")}, "balanced"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(change, message):
    ids, labels, weights, units, logps = batch()
    given = {"loss": NaiveLoss(), "progress": 0.5, "weights": weights, "unit_ids": units, "unit_logps": logps} | change
    with pytest.raises(ValueError, match=message):
        build()(input_ids=ids, labels=labels, weak_head=WeakHeadRequest(**given))


def test_the_shares_of_units_are_computed_without_waiting_for_the_device():
    """A number that Python reads stops a GPU in every chunk of tokens."""
    read = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            read.extend([function] if function is torch.ops.aten._local_scalar_dense.default else [])
            return function(*arguments, **(named or {}))

    draw = torch.Generator().manual_seed(0)
    logps, top = -torch.rand(12, 1, generator=draw), torch.rand(6, generator=draw)
    tokens = Tokens(torch.zeros(12, dtype=torch.long), torch.ones(12, 1), torch.arange(12) // 3, logps, "confidence")
    with Reads():
        found = tokens.target_logps(slice(3, 9), top)
    assert not read
    for start in (0, 3):
        weights = [math.exp(-float(c)) for c in top[start : start + 3]]
        for i, weight in enumerate(weights):
            assert float(found[start + i]) == pytest.approx(
                weight / sum(weights) * float(logps[3 + start + i]), rel=1e-6
            )
