"""Attention over shared levels against one softmax over everything, and the cache that carries the levels."""

from types import SimpleNamespace

import pytest
import torch

from trl_weaks.inference.cascade_attention import CascadeLayer, cascade_attention


def naive(query, keys, values, mask):
    """(N, H, q, d) over per-row keys (N, G, L, d), in float64 with explicit loops."""
    n, heads, q, d = query.shape
    per = heads // keys.shape[1]
    out = torch.zeros(n, q, heads, d, dtype=torch.float64)
    for i in range(n):
        for h in range(heads):
            for t in range(q):
                k, v = keys[i, h // per].double(), values[i, h // per].double()
                weights = (k @ query[i, h, t].double() * d**-0.5).masked_fill(~mask[i, 0, t], -torch.inf).softmax(0)
                out[i, t, h] = weights @ v
    return out


@pytest.mark.parametrize("queries", [1, 3])
def test_levels_equal_one_softmax(queries):
    torch.manual_seed(0)
    n, heads, groups, d = 6, 4, 2, 8
    levels = [(torch.randn(p, groups, length, d), torch.randn(p, groups, length, d)) for p, length in ((1, 5), (3, 4))]
    own = (torch.randn(n, groups, queries, d), torch.randn(n, groups, queries, d))
    query = torch.randn(n, heads, queries, d) * 3
    mask = torch.ones(n, 1, queries, 9 + queries, dtype=torch.bool)
    mask[2:4, :, :, 5:7] = False  # the second prompt is padded: its two beams
    mask[..., 9:] = torch.ones(queries, queries).tril().bool()
    key = own[0].clone()
    key.levels = levels
    made, _ = cascade_attention(SimpleNamespace(), query, key, own[1], mask)
    whole = [torch.cat([a.repeat_interleave(n // len(a), 0) for a in level], dim=2) for level in
             zip(*levels, own, strict=True)]  # fmt: skip
    torch.testing.assert_close(made.double(), naive(query, *whole, mask), rtol=1e-5, atol=1e-6)


def test_unknown_attention_is_refused():
    key = torch.randn(1, 1, 1, 4)
    key.levels = []
    with pytest.raises(NotImplementedError, match="softcap"):
        cascade_attention(SimpleNamespace(), key, key, key, torch.ones(1, 1, 1, 1, dtype=torch.bool), softcap=30.0)


def test_layer_shares_and_reorders():
    prefix = (torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4))
    layer = CascadeLayer([prefix])
    assert layer.get_seq_length() == 5
    keys, _ = layer.update(torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4))
    assert layer.get_seq_length() == 9 and layer.get_mask_sizes(2) == (11, 0)
    layer.share()
    assert layer.get_seq_length() == 9 and len(layer.levels) == 2 and layer.levels[1][0] is keys
    layer.reorder_cache(torch.tensor([0, 0, 1, 1, 2, 2]))  # nothing of their own yet: nothing to move
    grown, _ = layer.update(torch.arange(6.0).view(6, 1, 1, 1), torch.zeros(6, 1, 1, 1))
    layer.reorder_cache(torch.tensor([1, 1, 3, 2, 5, 4]))
    assert layer.keys.flatten().tolist() == [1, 1, 3, 2, 5, 4] and layer.get_seq_length() == 10
