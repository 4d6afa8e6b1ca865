"""Packed trees against the sequences they were made of."""

import random

import pytest

from trl_weaks.inference.prefix_trees import pack


def path(tree, node):
    """Tokens from the root to a node, by walking up."""
    tokens = []
    while node >= 0:
        tokens.append(tree.tokens[node])
        node = tree.parents[node]
    return tokens[::-1]


@pytest.fixture
def pairs():
    draw = random.Random(0)

    def ids(low, high):
        return tuple(draw.randrange(3) for _ in range(draw.randint(low, high)))

    return sorted({((7, 7) + ids(1, 4), ids(1, 5)) for _ in range(60)})


@pytest.mark.parametrize("skip, capacity", [(0, 20), (2, 20), (2, 1000), (0, 1)])
def test_every_token_is_predicted_from_its_own_past(pairs, skip, capacity):
    seen = {}
    for tree in pack(pairs, skip, capacity, 1000):
        depths, visible = tree.depths(), tree.visible()
        for node in range(len(tree.tokens)):
            walked = path(tree, node)
            assert depths[node] == len(walked) - 1
            assert [tree.tokens[i] for i in visible[node].nonzero()[0]] == walked
        for index, nodes in tree.pairs:
            prompt, completion = pairs[index]
            assert len(nodes) == len(completion)
            for t, node in enumerate(nodes):
                assert path(tree, node) == list((prompt + completion[:t])[skip:])
            seen[index] = len(tree.tokens)
    assert sorted(seen) == list(range(len(pairs))), "every pair exactly once"


def test_common_beginnings_are_one_node():
    (tree,) = pack([((1, 2, 3), (4, 5, 9)), ((1, 2, 3), (4, 6, 9)), ((1, 2, 8), (4, 9))], 0, 100, 1000)
    assert tree.tokens == [1, 2, 3, 4, 5, 6, 8, 4], "4 stands once under 3; the last tokens nowhere"


@pytest.mark.parametrize("most", [1000, 12])
def test_trees_are_full_but_not_overfull(pairs, most):
    trees = list(pack(pairs, 2, 30, most))
    assert all(len(tree.tokens) <= 30 for tree in trees) and len(trees) > 1
    assert all(sum(len(nodes) for _, nodes in tree.pairs) <= most for tree in trees)
    assert sorted(index for tree in trees for index, _ in tree.pairs) == list(range(len(pairs)))


def test_many_completions_of_one_prompt_are_split():
    """A long prompt is repeated for about as many completion tokens as it has itself; one completion is never cut."""
    prompt = tuple(range(100))
    pairs = [(prompt, (k, *range(39))) for k in range(10)] + [(prompt, tuple(range(500)))]
    trees = list(pack(pairs, 0, 50, 1000))
    assert sorted(index for tree in trees for index, _ in tree.pairs) == list(range(11)) and len(trees) == 7
    assert all(len(tree.tokens) <= 200 for tree in trees if len(tree.pairs) > 1)
    assert {len(nodes) for tree in trees for _, nodes in tree.pairs} == {40, 500}
