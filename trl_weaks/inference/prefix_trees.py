"""Prefix trees: what sequences of tokens begin with in common is computed once. Integers only; no model.

Two users, one tree: completions that are scored after their prompts (`scoring_trees`), and rows of a training batch
(`training_trees`). They differ in where the sorted sequences are cut into trees.

Letters: B rows, L padded length, G trees, Q padded nodes of a tree. The last token of a row is only predicted, so that
it needs no node. The rows of one tree, sorted, are walked depth first, so that the descendants of a node follow it
without a gap: node j is seen by node i if j <= i < end of j.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .padding import Pair

GAIN = 1.1  # the estimated work of rows over that of trees, from which on trees are trained on
SMALL = 1 << 20  # attention entries that never count as too many


@dataclass(frozen=True)
class PrefixTrees:
    """
    G trees that stand for B rows padded on the right to L tokens.

    Args:
        nodes: The node of each token of each row, `g Q + q`, `(B, L)` long; 0 where there is none (padding, and the
            last token of a row, which predicts nothing).
        first: For each node a token it stands for, `b L + l`, `(G, Q)` long.
        ends: One past the node's last descendant in its tree, `(G, Q)` long. Padding nodes have no descendants.
    """

    nodes: Tensor
    first: Tensor
    ends: Tensor

    def positions(self) -> Tensor:
        """Depth of each node, which is its token's place in its row, `(G, Q)`."""
        return self.first % self.nodes.shape[1]

    def tokens(self, input_ids: Tensor) -> Tensor:
        """The node's tokens, `(G, Q)`, from the rows, `(B, L)`."""
        return input_ids.flatten()[self.first]

    def visible(self) -> Tensor:
        """Whether a node (third axis) attends to another (fourth): itself and its ancestors, `(G, 1, Q, Q)` bool."""
        place = torch.arange(self.ends.shape[1], device=self.ends.device)
        return ((place[None, :] <= place[:, None]) & (place[:, None] < self.ends[:, None, :]))[:, None]


@dataclass(frozen=True)
class ScoringTree:
    """
    One tree of several prompts with their completions.

    Args:
        trees: The tree, G = 1.
        tokens: Its nodes' tokens, `(1, Q)`.
        pairs: For each pair its index in the list given, and the nodes from which its completion is predicted.
    """

    trees: PrefixTrees
    tokens: Tensor
    pairs: list[tuple[int, list[int]]]


def training_trees(rows: Sequence[Sequence[int]], length: int, width: int) -> PrefixTrees | None:
    """
    Trees for a batch of rows, or nothing where they save too little.

    The work of a layer of width H over Q tokens is about `24 H^2 Q + 4 H Q^2`: matrix products, and a dense attention.
    Sorted rows are cut into as many trees as make `G Q (6 H + Q)` smallest. They are used if that is at least `GAIN`
    times less than the `B L (6 H + L)` of the rows, and only where all trees together need no more attention entries,
    `G Q^2`, than the rows, so that memory never grows.

    Args:
        rows: Token ids, none empty.
        length: Tokens to which the rows are padded, L.
        width: Hidden size of the model, H.
    """
    paths = [np.asarray(row[: max(1, len(row) - 1)]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: paths[i].tolist())
    lengths, shared = _overlaps([paths[i] for i in order])
    best, groups = np.inf, None
    most = max(SMALL, len(rows) * length**2)
    for count in range(1, len(rows) + 1):
        trial, size = _cut(lengths, shared, max(max(lengths), -(-(sum(lengths) - sum(shared)) // count)))
        work = len(trial) * size * (6 * width + size)
        if work < best and len(trial) * size**2 <= most:
            best, groups = work, trial
    if groups is None or len(rows) * length * (6 * width + length) < GAIN * best:
        return None
    return _grow(
        paths, [[order[i] for i in group] for group in groups], [shared[g.start : g.stop] for g in groups], length
    )


def scoring_trees(pairs: Sequence[Pair], skip: int, capacity: int, most: int) -> Iterator[ScoringTree]:
    """
    Trees of at most `capacity` nodes that hold every pair once, like prompts together.

    The completions of one prompt that do not fit are split over several trees, which repeat the prompt: a tree then
    has up to twice as many nodes as the prompt, so that repeating costs at most as much as it carries.

    Args:
        pairs: Prompt and completion ids.
        skip: Tokens at the beginning of every prompt that are computed elsewhere; fewer than any prompt has.
        most: Nodes of a tree that may belong to completions; a single longer completion has a tree of its own.
    """
    rows = [(*prompt[skip:], *completion) for prompt, completion in pairs]
    order = sorted(range(len(pairs)), key=rows.__getitem__)
    paths = [np.asarray(rows[i][:-1]) for i in order]
    lengths, shared = _overlaps(paths)
    for group in _fill([pairs[i] for i in order], lengths, shared, skip, capacity, most):
        members = order[group.start : group.stop]
        length = max(lengths[group.start : group.stop])
        ids = np.zeros((len(group), length), dtype=np.int64)
        for row, i in zip(ids, group, strict=True):
            row[: lengths[i]] = paths[i]
        trees = _grow([paths[i] for i in group], [range(len(group))], [shared[group.start : group.stop]], length)
        nodes = [
            (i, row[len(pairs[i][0]) - skip - 1 :][: len(pairs[i][1])])
            for i, row in zip(members, trees.nodes.tolist(), strict=True)
        ]
        yield ScoringTree(trees, trees.tokens(torch.from_numpy(ids)), nodes)


def _overlaps(paths: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """The length of each sorted path, and how much of it is the beginning of the path before it."""
    shared = [0, *(_common(a, b) for a, b in zip(paths, paths[1:], strict=False))]
    return [len(path) for path in paths], shared


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens with which both begin."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


def _cut(lengths: list[int], shared: list[int], capacity: int) -> tuple[list[range], int]:
    """Runs of sorted rows whose trees have at most `capacity` nodes, and the size of the largest tree."""
    groups, start, nodes, largest = [], 0, 0, 0
    for i, (length, known) in enumerate(zip(lengths, shared, strict=True)):
        if i > start and nodes + length - known > capacity:
            groups.append(range(start, i))
            start = i
        nodes = length if i == start else nodes + length - known
        largest = max(largest, nodes)
    return [*groups, range(start, len(lengths))], largest


def _fill(
    pairs: Sequence[Pair], lengths: list[int], shared: list[int], skip: int, capacity: int, most: int
) -> Iterator[range]:
    """Runs of sorted pairs that make one scoring tree each."""
    start = nodes = carried = 0
    for part in _parts(pairs, skip, capacity, most):
        own, size = len(pairs[part.start][0]) - skip, sum(len(pairs[i][1]) for i in part)
        if nodes and (nodes + own + size > capacity or carried + size > most):
            yield range(start, part.start)
            start, nodes, carried = part.start, 0, 0
        nodes += sum(lengths[i] - (shared[i] if i > start else 0) for i in part)
        carried += size
    if nodes:
        yield range(start, len(pairs))


def _parts(pairs: Sequence[Pair], skip: int, capacity: int, most: int) -> Iterator[range]:
    """Runs of pairs of one prompt, whose completions have together at most as many tokens as a tree has room for."""
    start = size = 0
    for i, (prompt, completion) in enumerate(pairs):
        own = len(prompt) - skip
        room = min(most, max(capacity - own, own))
        if i > start and (prompt != pairs[i - 1][0] or size + len(completion) > room):
            yield range(start, i)
            start, size = i, 0
        size += len(completion)
    if pairs:
        yield range(start, len(pairs))


def _grow(
    paths: Sequence[np.ndarray], groups: Sequence[Sequence[int]], shared: Sequence[Sequence[int]], length: int
) -> PrefixTrees:
    """
    One tree for each group of paths.

    Args:
        paths: The rows without their last tokens.
        groups: Numbers of the rows of each tree, in the order of the sorted paths.
        shared: For each of them how much of its path is the beginning of the path before it.
        length: Tokens to which the rows are padded, L.
    """
    trees, nodes = [], np.zeros((len(paths), length), dtype=np.int64)
    for group, overlaps in zip(groups, shared, strict=True):
        known = [0, *overlaps[1:]]  # a tree begins with nothing
        size = sum(len(paths[row]) for row in group) - sum(known)
        first, ends, count = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), 0
        line = np.empty(0, dtype=np.int64)  # the nodes of the row before, from the root
        for row, old in zip(group, known, strict=True):
            new = np.arange(count, count + len(paths[row]) - old)
            line = np.concatenate([line[:old], new])
            first[new] = row * length + old + np.arange(len(new))
            count += len(new)
            nodes[row, : len(line)] = line
            ends[line] = count  # the row's last node descends from all of its nodes
        trees.append((first, ends))
    size = max(len(first) for first, _ in trees)
    for g, (group, (first, ends)) in enumerate(zip(groups, trees, strict=True)):
        for row in group:
            nodes[row, : len(paths[row])] += g * size
        padding = np.arange(len(first), size)
        trees[g] = np.append(first, np.full(len(padding), first[0])), np.append(ends, padding + 1)
    first, ends = (torch.from_numpy(np.stack(part)) for part in zip(*trees, strict=True))
    return PrefixTrees(torch.from_numpy(nodes), first, ends)
