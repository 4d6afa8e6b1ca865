"""Beginnings that a supervisor's prompts have in common: found without being told, computed once.

Their keys and values stay while the weights stay the same.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from .cascade_attention import Level
from .padding import forward_state
from .probe import can_share
from .scoring import prefix_levels

SHORTEST = 16  # tokens: a shorter prefix saves less than its own forward pass costs
SAMPLE = 512  # prompts looked at
FEWEST = 0.04  # share of the sample that must begin with a prefix
MOST = 8  # prefixes kept at a time

Ids = tuple[int, ...]


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[Ids]:
    """Prefixes worth computing once, longest first: of all prompts, and of large groups of them.

    Every prefix is shorter than each of its prompts, so that a last prompt token is left to answer from.
    """
    step = max(1, -(-len(prompts) // SAMPLE))
    rows = sorted(tuple(p) for p in prompts[::step])
    found: list[tuple[int, Ids]] = []
    _split(rows, 0, max(2, int(FEWEST * len(rows))), found)
    best = sorted(found, reverse=True)[:MOST]
    return sorted((prefix for _, prefix in best), key=lambda p: (-len(p), p))


def longest_match(prompt: Sequence[int], prefixes: Sequence[Ids]) -> Ids:
    """The longest of the prefixes (longest first) that the prompt begins with and goes beyond; else ()."""
    for prefix in prefixes:
        if len(prompt) > len(prefix) and tuple(prompt[: len(prefix)]) == prefix:
            return prefix
    return ()


def common_length(first: Sequence[int], last: Sequence[int]) -> int:
    """Tokens that two sequences begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _split(rows: list[Ids], known: int, fewest: int, found: list[tuple[int, Ids]]) -> None:
    """Record the common beginning of sorted rows beyond `known` tokens, then look into its branches."""
    if len(rows) < fewest:
        return
    length = common_length(rows[0], rows[-1])
    usable = min(length, min(map(len, rows)) - 1)
    if usable - known >= SHORTEST:
        found.append(((usable - known) * (len(rows) - 1), rows[0][:usable]))
        known = usable
    branch: list[Ids] = []
    for row in rows:
        if branch and (len(row) <= length or row[length] != branch[0][length]):
            _split(branch, known, fewest, found)
            branch = []
        if len(row) > length:
            branch.append(row)
    if branch and len(branch) < len(rows):
        _split(branch, known, fewest, found)


class Sharing:
    """What one model may share, found out when first needed.

    `expect` fixes the prefixes for a whole dataset, so that every batch is computed in the same way whichever batches
    came before; without it each call looks at its own prompts.
    """

    def __init__(self, model: PreTrainedModel | None):
        self.model = model
        self.prefixes: list[Ids] = []
        self._able: bool = False
        self._asked: int | None = None  # the state of the model that was asked
        self._levels: dict[Ids, list[Level]] = {}
        self._weights: int = 0

    def expect(self, prompts: Sequence[Sequence[int]]) -> None:
        """Keep the prefixes of these prompts until the next call; none for an empty list."""
        self._levels.clear()
        self.prefixes = shared_prefixes(prompts) if prompts else []

    def able(self) -> bool:
        """Whether the model fits the fast paths at all; call without gradients and dropout."""
        state = forward_state(self.model)
        if self._asked != state:
            self._asked, self._able = state, can_share(self.model)
        return self._able

    def groups(
        self, prompts: Sequence[Sequence[int]], max_tokens: int
    ) -> Iterator[tuple[list[int], list[Level] | None]]:
        """Indices of the prompts that share a prefix, and its keys and values (None: nothing in common).

        Prefixes of at most `max_tokens` tokens together, or the one in use, are kept for later; the one that was
        not used for longest goes first.
        """
        if not self.able():
            yield list(range(len(prompts))), None
            return
        prefixes = self.prefixes or shared_prefixes(prompts)
        members: dict[Ids, list[int]] = {}
        for i, prompt in enumerate(prompts):
            members.setdefault(longest_match(prompt, prefixes), []).append(i)
        for prefix in sorted(members, key=lambda p: (len(p), p)):
            yield members[prefix], self._levels_of(prefix, max_tokens) if prefix else None

    def _levels_of(self, prefix: Ids, max_tokens: int) -> list[Level]:
        weights = _state_of(self.model)
        if weights != self._weights:  # trained since
            self._levels.clear()
            self._weights = weights
        if prefix in self._levels:
            self._levels[prefix] = self._levels.pop(prefix)  # used last
            return self._levels[prefix]
        if prefix not in self.prefixes:
            return prefix_levels(self.model, prefix)
        while self._levels and len(prefix) + sum(map(len, self._levels)) > max_tokens:
            del self._levels[next(iter(self._levels))]
        self._levels[prefix] = prefix_levels(self.model, prefix)
        return self._levels[prefix]


def _state_of(model: PreTrainedModel) -> int:
    """A number that changes with the weights and with the adapters that are applied, in a few milliseconds.

    A version alone misses what is written through `.data`, as DeepSpeed's steps and merging an adapter are.
    """
    parameters = list(model.parameters())
    sums = [p.detach().reshape(-1)[:: max(1, p.numel() // 8)][:8].float().sum() for p in parameters]
    samples = torch.stack([total.to(sums[0].device) for total in sums])
    kinds = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
    layers = [m for m in model.modules() if isinstance(getattr(type(m), "disable_adapters", None), property)]
    adapters = str([[getattr(layer, kind, None) for kind in kinds] for layer in layers])
    return hash((tuple((p.data_ptr(), p._version) for p in parameters), tuple(samples.tolist()), adapters))
