"""Completions packed as a tree: what they begin with in common is computed once. Lists and numpy; no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Pair = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class Tree:
    """Tokens of several sequences as nodes of a trie, parents before children.

    Attributes:
        tokens: token of each node.
        parents: node before it, -1 for a first token.
        pairs: for each sequence, its index in the list given, and the nodes from which its completion is predicted.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    pairs: list[tuple[int, list[int]]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, index: int, prompt: Sequence[int], completion: Sequence[int]) -> None:
        """Insert a sequence; its last token is only predicted, so it needs no node."""
        node, path = -1, []
        for token in (*prompt, *completion[:-1]):
            node = self._step(node, token)
            path.append(node)
        self.pairs.append((index, path[len(prompt) - 1 :]))

    def _step(self, node: int, token: int) -> int:
        key = (node, token)
        if key not in self._children:
            self._children[key] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(node)
        return self._children[key]

    def depths(self) -> np.ndarray:
        """Number of nodes before each node, (Q,)."""
        depths = np.zeros(len(self.tokens), dtype=np.int64)
        for node, parent in enumerate(self.parents):
            depths[node] = depths[parent] + 1 if parent >= 0 else 0
        return depths

    def visible(self) -> np.ndarray:
        """(Q, Q) bool: node i attends to node j, which is i itself or comes before it in its sequence."""
        mask = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask


def pack(pairs: Sequence[Pair], skip: int, capacity: int, most: int) -> Iterator[Tree]:
    """Trees of at most `capacity` nodes, like prompts together.

    The completions of one prompt that do not fit are split over several trees, which repeat the prompt: a tree then
    has up to twice as many nodes as the prompt, so that repeating costs at most as much as it carries.

    Args:
        skip: tokens at the beginning of every prompt that are computed elsewhere.
        most: nodes of a tree that may belong to completions; a single longer completion has a tree of its own.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(pairs)), key=pairs.__getitem__):
        by_prompt.setdefault(pairs[i][0], []).append(i)
    tree, carried = Tree(), 0
    for prompt, members in by_prompt.items():
        own = len(prompt) - skip
        for part in _parts(pairs, members, min(most, max(capacity - own, own))):
            size = sum(len(pairs[i][1]) for i in part)
            if tree.tokens and (len(tree.tokens) + own + size > capacity or carried + size > most):
                yield tree
                tree, carried = Tree(), 0
            for i in part:
                tree.add(i, prompt[skip:], pairs[i][1])
            carried += size
    if tree.tokens:
        yield tree


def _parts(pairs: Sequence[Pair], members: Sequence[int], room: int) -> Iterator[list[int]]:
    """Consecutive members whose completions have at most `room` tokens together."""
    part, size = [], 0
    for i in members:
        if part and size + len(pairs[i][1]) > room:
            yield part
            part, size = [], 0
        part.append(i)
        size += len(pairs[i][1])
    yield part
