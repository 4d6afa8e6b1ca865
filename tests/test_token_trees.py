"""Forests against brute force over prefixes."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_weaks.inference import token_trees
from trl_weaks.inference.token_trees import SMALL, prefix_trees

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8)


def padded(rows):
    length = max(map(len, rows))
    return torch.tensor([row + [9] * (length - len(row)) for row in rows]), length


def always(rows, length, width=64):
    """Trees even where it saves nothing."""
    before, token_trees.GAIN = token_trees.GAIN, 0.0
    try:
        return prefix_trees(rows, length, width)
    finally:
        token_trees.GAIN = before


def check(rows, packed):
    ids, length = padded(rows)
    size = packed.first.shape[1]
    tokens, positions = packed.tokens(ids).flatten(), packed.positions().flatten()
    visible = packed.visible()[:, 0]
    assert packed.ends.min() > 0 and visible.any(-1).all()  # nobody attends to nothing
    for row, nodes in zip(rows, packed.nodes.tolist(), strict=True):
        path = nodes[: max(1, len(row) - 1)]
        assert tokens[path].tolist() == row[: len(path)]
        assert positions[path].tolist() == list(range(len(path)))
        tree = path[0] // size
        for depth, node in enumerate(path):
            seen = torch.nonzero(visible[tree, node - tree * size]).flatten() + tree * size
            assert sorted(seen.tolist()) == sorted(path[: depth + 1])


@settings(max_examples=400, deadline=None)
@given(ROWS)
def test_every_node_sees_its_own_row_up_to_itself(rows):
    check(rows, always(rows, padded(rows)[1]))


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_one_tree_holds_every_distinct_prefix_once(rows):
    """A width at which attention costs nothing makes one tree of everything."""
    packed = always(rows, padded(rows)[1], width=10**6)
    distinct = {tuple(row[:n]) for row in rows for n in range(1, max(1, len(row) - 1) + 1)}
    if len(packed.first) == 1:
        assert packed.first.shape[1] == len(distinct)
    check(rows, packed)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_tree(rows, shuffler):
    mixed = rows[:]
    shuffler.shuffle(mixed)
    one, two = (always(r, padded(r)[1]) for r in (rows, mixed))
    assert torch.equal(one.tokens(padded(rows)[0]), two.tokens(padded(mixed)[0]))
    assert torch.equal(one.ends, two.ends)


def batch(prompts, completions, instruction, seed=0):
    """`completions` answers of 15 tokens to each of `prompts` requests of 12 under one instruction, shuffled."""
    r = random.Random(seed)
    draw = lambda n: [r.randrange(1000) for _ in range(n)]  # noqa: E731
    head, rows = draw(instruction), []
    for _ in range(prompts):
        request = draw(12)
        rows += [head + request + draw(15) for _ in range(completions)]
    r.shuffle(rows)
    return rows


def test_a_shared_instruction_is_computed_once():
    rows = batch(4, 3, 400)
    packed = prefix_trees(rows, 427, 768)
    assert packed.first.shape == (1, 400 + 4 * (12 + 3 * 14))
    check(rows, packed)


@pytest.mark.parametrize(
    "rows, width, used",
    [
        (batch(4, 1, 0), 768, False),  # nothing in common
        (batch(12, 1, 1), 768, False),  # one token of 28
        (batch(4, 3, 0), 768, True),  # 12 of 27 tokens, three times
        (batch(32, 1, 3), 8, False),  # a narrow student: the dense attention would cost more than it saves
        (batch(12, 1, 15), 768, True),
        ([[1, 2]], 768, True),  # the last token is only predicted
        ([[1]], 768, False),
        ([[1] * 9, [2] * 90], 768, True),  # nothing in common, but half of it is padding
        ([[5, 6, 7]] * 4, 768, True),  # the same row again
    ],
)
def test_trees_only_where_they_save_work(rows, width, used):
    assert (prefix_trees(rows, max(map(len, rows)), width) is not None) == used


def test_the_stated_rule():
    """`G Q (6 H + Q)` against `B L (6 H + L)`, at the margin."""
    rows = [[1] * shared + [10 + i] * (40 - shared) + [0] for shared in [20] for i in range(2)]
    work = {"rows": 2 * 41 * (6 * 64 + 41), "tree": 60 * (6 * 64 + 60)}
    assert prefix_trees(rows, 41, 64) is not None and work["rows"] > token_trees.GAIN * work["tree"]
    rows = [[1] * 10 + [10 + i] * 30 + [0] for i in range(2)]
    assert prefix_trees(rows, 41, 64) is None and 2 * 41 * (6 * 64 + 41) < token_trees.GAIN * 70 * (6 * 64 + 70)


@pytest.mark.parametrize("width", [16, 64, 4096])
def test_a_large_batch_is_cut_into_trees_that_need_no_more_memory_than_its_rows(width):
    rows = [row for seed in range(6) for row in batch(8, 4, 60, seed)]  # six instructions
    random.Random(1).shuffle(rows)
    length = max(map(len, rows))
    packed = prefix_trees(rows, length, width)
    check(rows, packed)
    trees, size = packed.first.shape
    assert trees > 1 and trees * size < len(rows) * length
    assert trees * size**2 <= max(SMALL, len(rows) * length**2)
