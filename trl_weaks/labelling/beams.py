"""Beam search as `model.generate` runs it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from .forward import left_pad


def search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    num_candidates: int,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    max_tokens: int,
    advance: Callable[[int], object],
) -> list[list[list[int]]]:
    """The best `num_candidates` beams of every prompt, best first (log-probability divided by length, as generate).

    Returns:
        For each prompt, lists of token ids; a beam ends with `eos_id` if it finished within `max_new_tokens`.
    """
    config = GenerationConfig(
        num_beams=num_candidates,
        num_return_sequences=num_candidates,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
    result: list[list[list[int]]] = [[] for _ in prompts]
    start = 0
    while start < len(order):
        longest = len(prompts[order[start]]) + max_new_tokens
        batch = order[start : start + max(1, max_tokens // (longest * num_candidates))]
        inputs = left_pad([prompts[i] for i in batch], pad_id, model.device)
        del inputs["position_ids"]  # generate derives them from the mask
        output = model.generate(**inputs, generation_config=config)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        for row, i in enumerate(batch):
            beams = new[row * num_candidates : (row + 1) * num_candidates]
            result[i] = [_until(beam, eos_id) for beam in beams]
        start += len(batch)
        advance(len(batch))
    return result


def _until(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradients; the model is left in the mode it was found in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
