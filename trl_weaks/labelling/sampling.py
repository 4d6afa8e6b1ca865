"""Candidates drawn from a model instead of searched for."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from .beams import inference
from .fingerprint import digest
from .forward import left_pad
from .messages import Prompt
from .supervisor import WeakSupervisor


def sample(
    supervisor: WeakSupervisor,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    num_candidates: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[list[tuple[str, bool]]]:
    """`num_candidates` answers of each prompt, drawn at `temperature` from the whole distribution.

    The same prompts, names and seed give the same answers; the caller's random state is left alone.

    Returns:
        For each prompt, its answers as (text, whether the end of sequence was reached).
    """
    encoded = supervisor.encode(prompts, names, max_new_tokens)
    eos_id = supervisor.encoder.eos_id(encoded[0].chat)
    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=num_candidates,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_id,
        pad_token_id=supervisor.tokenizer.pad_token_id,
    )
    longest = max(len(p.ids) for p in encoded) + max_new_tokens
    at_once = max(1, supervisor.max_tokens_in_flight // (longest * num_candidates))
    answers = []
    with inference(supervisor.model), torch.random.fork_rng():
        torch.manual_seed(int(digest(seed, list(names)), 16) % 2**63)
        for start in range(0, len(encoded), at_once):
            batch = encoded[start : start + at_once]
            inputs = left_pad([p.ids for p in batch], supervisor.tokenizer.pad_token_id, supervisor.model.device)
            del inputs["position_ids"]  # generate derives them from the mask
            output = supervisor.model.generate(**inputs, generation_config=config)
            new = output[:, inputs["input_ids"].shape[1] :].tolist()
            for row, prompt in enumerate(batch):
                drawn = new[row * num_candidates : (row + 1) * num_candidates]
                answers.append([_answer(supervisor, prompt, ids, eos_id) for ids in drawn])
    return answers


def _answer(supervisor: WeakSupervisor, prompt: object, ids: list[int], eos_id: int) -> tuple[str, bool]:
    finished = eos_id in ids
    ids = ids[: ids.index(eos_id) + 1] if finished else ids
    return supervisor.encoder.decode(prompt, ids, finished), finished
