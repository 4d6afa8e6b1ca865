"""Prefix trees of training rows and of scored completions, against brute force over prefixes."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_weaks.inference import prefix_trees
from trl_weaks.inference.prefix_trees import SMALL, scoring_trees, training_trees

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8)


def padded(rows):
    length = max(map(len, rows))
    return torch.tensor([row + [9] * (length - len(row)) for row in rows]), length


def always(rows, length, width=64):
    """Trees even where it saves nothing."""
    before, prefix_trees.GAIN = prefix_trees.GAIN, 0.0
    try:
        return training_trees(rows, length, width)
    finally:
        prefix_trees.GAIN = before


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
    packed = training_trees(rows, 427, 768)
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
    assert (training_trees(rows, max(map(len, rows)), width) is not None) == used


def test_the_stated_rule():
    """`G Q (6 H + Q)` against `B L (6 H + L)`, at the margin."""
    rows = [[1] * shared + [10 + i] * (40 - shared) + [0] for shared in [20] for i in range(2)]
    work = {"rows": 2 * 41 * (6 * 64 + 41), "tree": 60 * (6 * 64 + 60)}
    assert training_trees(rows, 41, 64) is not None and work["rows"] > prefix_trees.GAIN * work["tree"]
    rows = [[1] * 10 + [10 + i] * 30 + [0] for i in range(2)]
    assert training_trees(rows, 41, 64) is None and 2 * 41 * (6 * 64 + 41) < prefix_trees.GAIN * 70 * (6 * 64 + 70)


@pytest.mark.parametrize("width", [16, 64, 4096])
def test_a_large_batch_is_cut_into_trees_that_need_no_more_memory_than_its_rows(width):
    rows = [row for seed in range(6) for row in batch(8, 4, 60, seed)]  # six instructions
    random.Random(1).shuffle(rows)
    length = max(map(len, rows))
    packed = training_trees(rows, length, width)
    check(rows, packed)
    trees, size = packed.first.shape
    assert trees > 1 and trees * size < len(rows) * length
    assert trees * size**2 <= max(SMALL, len(rows) * length**2)


@pytest.fixture(scope="module")
def pairs():
    """Prompts that begin alike, some of them the beginning of others, and completions that do."""
    draw = random.Random(0)

    def ids(low, high):
        return tuple(draw.randrange(3) for _ in range(draw.randint(low, high)))

    return sorted({((7, 7) + ids(1, 4), ids(1, 5)) for _ in range(60)})


@pytest.mark.parametrize("skip, capacity", [(0, 20), (2, 20), (2, 1000), (0, 1)])
def test_every_completion_token_is_predicted_from_its_own_past(pairs, skip, capacity):
    held = []
    for tree in scoring_trees(pairs, skip, capacity, 1000):
        tokens, positions, visible = tree.tokens[0], tree.trees.positions()[0], tree.trees.visible()[0, 0]
        pasts = [tuple(tokens[visible[node]].tolist()) for node in range(len(tokens))]
        assert positions.tolist() == [len(past) - 1 for past in pasts]
        assert len(set(pasts)) == len(pasts), "what pairs begin with in common stands once"
        for index, nodes in tree.pairs:
            prompt, completion = pairs[index]
            wanted = [(prompt + completion[:t])[skip:] for t in range(len(completion))]
            assert [pasts[node] for node in nodes] == wanted
            held.append(index)
    assert sorted(held) == list(range(len(pairs))), "every pair exactly once"


def test_common_beginnings_are_one_node():
    (tree,) = scoring_trees([((1, 2, 3), (4, 5, 9)), ((1, 2, 3), (4, 6, 9)), ((1, 2, 8), (4, 9))], 0, 100, 1000)
    assert tree.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 8, 4]], "4 stands once under 3; the last tokens nowhere"


@pytest.mark.parametrize("most", [1000, 12])
def test_scoring_trees_are_full_but_not_overfull(pairs, most):
    trees = list(scoring_trees(pairs, 2, 30, most))
    assert all(tree.tokens.numel() <= 30 for tree in trees) and len(trees) > 1
    assert all(sum(len(nodes) for _, nodes in tree.pairs) <= most for tree in trees)


def test_many_completions_of_one_prompt_are_split():
    """A long prompt is repeated for about as many completion tokens as it has itself; one completion is never cut."""
    prompt = tuple(range(100))
    pairs = [(prompt, (k, *range(39))) for k in range(10)] + [(prompt, tuple(range(500)))]
    trees = list(scoring_trees(pairs, 0, 50, 1000))
    assert sorted(index for tree in trees for index, _ in tree.pairs) == list(range(11)) and len(trees) == 7
    assert all(tree.tokens.numel() <= 200 for tree in trees if len(tree.pairs) > 1)
    assert {len(nodes) for tree in trees for _, nodes in tree.pairs} == {40, 500}


def test_one_prompt_more_begins_no_new_tree_where_it_fits():
    """By hand: a prompt of 4 with completions of 3 and 2 tokens has 6 nodes: 1 2 3 4, 5 and 6."""
    two = [((1, 2, 3, 4), (5, 6, 7)), ((1, 2, 3, 4), (5, 8))]
    beside = ((1, 2, 3, 9), (5, 6))  # 4 + 2 at most, beside the 6 that there are
    assert [len(tree.pairs) for tree in scoring_trees([*two, beside], 0, 12, 1000)] == [3]
    assert [len(tree.pairs) for tree in scoring_trees([*two, beside], 0, 11, 1000)] == [2, 1]
    assert [tree.tokens.numel() for tree in scoring_trees([*two, beside], 0, 11, 1000)] == [6, 5]


def test_no_pairs_make_no_tree():
    assert list(scoring_trees([], 0, 10, 10)) == []
