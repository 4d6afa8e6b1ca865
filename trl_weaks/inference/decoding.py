"""Beams and draws of a `transformers` model, behind the prefixes that prompts share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedModel

from .as_found import inference
from .beam_search import search
from .finite_logits import FiniteLogitsCheck
from .sampling import Sampling
from .shared_prefix import Sharing


@dataclass(frozen=True)
class Decoding:
    """What a supervisor is asked for.

    Attributes:
        ids: token ids of each prompt.
        names: what to call each prompt in error messages.
        keys: an id for each prompt, for its random stream.
        config: everything that `generate` is asked for, see `decoding_config`.
        advance: called with the number of prompts just done.
        sampling: how to draw; None searches beams.
    """

    ids: list[list[int]]
    names: Sequence[str]
    keys: Sequence[str]
    config: GenerationConfig
    num_candidates: int
    advance: Callable[[int], object]
    sampling: Sampling | None


def decode(
    model: PreTrainedModel, supervisor: str, sharing: Sharing, max_tokens: int, asked: Decoding
) -> list[list[list[int]]]:
    """Token ids of every prompt's candidates, the token that ended it included where there is one.

    Args:
        supervisor: its name, for errors and random streams.
        max_tokens: tokens of one batch, all candidates included.
    """
    drawn, candidates = asked.sampling is not None, asked.num_candidates
    copies = candidates if drawn else 1

    def processors(batch: Sequence[int]) -> list:
        check = FiniteLogitsCheck(supervisor, [asked.names[i] for i in batch], candidates)
        keys = [asked.keys[i] for i in batch]
        return [
            check,
            *(asked.sampling.processors(supervisor, keys, range(candidates), model.device) if drawn else ()),
        ]

    made: list[list[list[int]]] = [[] for _ in asked.ids]
    with inference(model):
        able = sharing.able()
        for members, prefix in sharing.groups(asked.ids, max_tokens):

            def inner(batch: Sequence[int], members: list[int] = members) -> list:
                return processors([members[i] for i in batch])

            rows = [asked.ids[i] for i in members]
            found = search(model, rows, asked.config, max_tokens, asked.advance, prefix, able, copies, inner)
            for i, row in zip(members, found, strict=True):
                made[i] = row
    return made
