"""A supervisor's prefixes: which ones its prompts share, and their keys and values while the weights stay the same."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from .cascade_attention import Level
from .packed_scoring import prefix_levels
from .padding import forward_state
from .prefixes import Ids, longest_match, shared_prefixes
from .probe import can_share


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
