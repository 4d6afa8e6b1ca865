"""Rows of tokens as trees: what rows begin with in common stands there once. Integers only; no model.

Letters: B rows, L padded length, G trees, Q padded nodes of a tree. The rows of one tree, sorted, are walked depth
first, so that the descendants of a node follow it without a gap: node j is seen by node i if j <= i < end of j.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GAIN = 1.1  # the estimated work of rows over that of trees, from which on trees are used
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


def prefix_trees(rows: Sequence[Sequence[int]], length: int, width: int) -> PrefixTrees | None:
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
    # the last token of a row is only ever predicted
    paths = [np.asarray(row[: max(1, len(row) - 1)]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: paths[i].tolist())
    lengths = np.array([len(paths[i]) for i in order])
    shared = np.array([0, *(_common(paths[a], paths[b]) for a, b in zip(order, order[1:], strict=False))])
    best, groups = np.inf, None
    most = max(SMALL, len(rows) * length**2)
    for count in range(1, len(rows) + 1):
        trial, size = _cut(lengths, shared, max(lengths.max(), -(-int((lengths - shared).sum()) // count)))
        work = len(trial) * size * (6 * width + size)
        if work < best and len(trial) * size**2 <= most:
            best, groups = work, trial
    if groups is None or len(rows) * length * (6 * width + length) < GAIN * best:
        return None
    return _grow(paths, order, shared, groups, length)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens with which both begin."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


def _cut(lengths: np.ndarray, shared: np.ndarray, capacity: int) -> tuple[list[range], int]:
    """Runs of sorted rows whose trees have at most `capacity` nodes, and the size of the largest tree."""
    groups, start, nodes, largest = [], 0, 0, 0
    for i, (length, known) in enumerate(zip(lengths.tolist(), shared.tolist(), strict=True)):
        if i > start and nodes + length - known > capacity:
            groups.append(range(start, i))
            start = i
        nodes = length if i == start else nodes + length - known
        largest = max(largest, nodes)
    return [*groups, range(start, len(lengths))], largest


def _grow(
    paths: list[np.ndarray], order: list[int], shared: np.ndarray, groups: list[range], length: int
) -> PrefixTrees:
    trees, nodes = [], np.zeros((len(paths), length), dtype=np.int64)
    for group in groups:
        size = sum(len(paths[order[i]]) - (int(shared[i]) if i > group.start else 0) for i in group)
        first, ends, count = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), 0
        line = np.empty(0, dtype=np.int64)  # the nodes of the row before, from the root
        for i in group:
            row, known = order[i], int(shared[i]) if i > group.start else 0
            new = np.arange(count, count + len(paths[row]) - known)
            line = np.concatenate([line[:known], new])
            first[new] = row * length + known + np.arange(len(new))
            count += len(new)
            nodes[row, : len(line)] = line
            ends[line] = count  # the row's last node descends from all of its nodes
        trees.append((first, ends))
    size = max(len(first) for first, _ in trees)
    for g, (group, (first, ends)) in enumerate(zip(groups, trees, strict=True)):
        for i in group:
            nodes[order[i], : len(paths[order[i]])] += g * size
        padding = np.arange(len(first), size)
        trees[g] = np.append(first, np.full(len(padding), first[0])), np.append(ends, padding + 1)
    first, ends = (torch.from_numpy(np.stack(part)) for part in zip(*trees, strict=True))
    return PrefixTrees(torch.from_numpy(nodes), first, ends)
