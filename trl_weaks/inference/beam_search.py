"""Exact beam search: `model.generate`, on a cache in which beams share their prompt and prompts their prefix."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import Cache

from .cascade_attention import NAME, Level, attention, cascade_cache
from .generation_settings import reads_the_prompt, these_alone
from .padding import at_once, forget_lengths, leading_of_one_length, left_pad
from .scoring import logits_made


def search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    max_tokens: int,
    advance: Callable[[int], object],
    prefix: list[Level] | None = None,
    sharing: bool = False,
    copies: int = 1,
    processors: Callable[[Sequence[int]], list[LogitsProcessor]] | None = None,
) -> list[list[list[int]]]:
    """The returned sequences of every prompt, best first, cut after the token that ended them.

    Args:
        config: all that decides the search, see `decoding_config`; the model's own settings are not looked at.
        max_tokens: tokens held at once, prompts and beams together.
        prefix: keys and values of a beginning that all prompts share and go beyond; needs `sharing`.
        sharing: whether the model can use a cascade cache (see `probe`); plain `generate` otherwise.
        copies: decode every prompt this many times (they differ by their processors).
        processors: makes the logits processors of a batch, given as indices into the prompts.
    """
    skip = prefix[0][0].shape[-2] if prefix else 0
    rows, new = copies * config.num_return_sequences, config.max_new_tokens
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
    result: list[list[list[int]]] = [[] for _ in prompts]
    start, alike = 0, reads_the_prompt(config)  # such a rule must not meet padding
    while start < len(order):
        length = len(prompts[order[start]])
        each = length - skip + rows * new if sharing else rows * (length + new)
        batch = order[start : start + at_once(model, max_tokens, each, logits_made(model, rows * length, rows))]
        batch = batch[: leading_of_one_length(model, [len(prompts[i]) for i in batch])]
        if alike:
            batch = [i for i in batch if len(prompts[i]) == length]
        forget_lengths(model)
        extra = processors(batch) if processors else []
        with attention(model, NAME) if sharing else nullcontext():
            made = _generate(model, [prompts[i] for i in batch], config, skip, prefix, sharing, copies, extra)
        for row, i in enumerate(batch):
            result[i] = [_until(ids, set(config.eos_token_id)) for ids in made[row * rows : (row + 1) * rows]]
        start += len(batch)
        advance(len(batch))
    return result


def prefill(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_id: int, skip: int, prefix: list[Level] | None
) -> tuple[Tensor, Tensor, Cache]:
    """Read all but the last token of every prompt once, for any number of beams.

    Padding lies between prefix and prompt: `[prefix | pad | prompt]`.

    Returns:
        `input_ids` and `attention_mask` of the whole prompts (B, L), and a fresh cache of L - 1 tokens.
    """
    inputs = left_pad([row[skip:] for row in rows], pad_id, model.device)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    mask = torch.cat([mask.new_ones(len(mask), skip), mask], dim=-1)
    cache = cascade_cache(prefix, model.config.get_text_config().num_hidden_layers)
    if ids.shape[1] > 1:
        model.base_model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=inputs["position_ids"][:, :-1] + skip,
            past_key_values=cache,
            use_cache=True,
        )
        for layer in cache.layers:
            layer.share()
    before = torch.tensor(rows[0][:skip], dtype=ids.dtype, device=ids.device).expand(len(ids), skip)
    return torch.cat([before, ids], dim=-1), mask, cache


def _generate(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    config: GenerationConfig,
    skip: int,
    prefix: list[Level] | None,
    sharing: bool,
    copies: int,
    processors: list[LogitsProcessor],
) -> list[list[int]]:
    if sharing:
        ids, mask, cache = prefill(model, rows, config.pad_token_id, skip, prefix)
    else:
        inputs = left_pad(rows, config.pad_token_id, model.device)  # generate derives positions from the mask
        ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], None
    inputs = {"input_ids": ids.repeat_interleave(copies, 0), "attention_mask": mask.repeat_interleave(copies, 0)}
    if cache is not None:
        inputs["past_key_values"] = cache
    # Never synced: where ZeRO-3 settings live, `generate` would make each process wait for the others' steps, and they
    # have other work. The model is whole (`refuse_pieces`).
    with these_alone(model, config):
        output = model.generate(
            **inputs, generation_config=config, logits_processor=LogitsProcessorList(processors), synced_gpus=False
        )
    return output[:, ids.shape[1] :].tolist()


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in ends), ids)
