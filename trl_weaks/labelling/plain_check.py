"""Labels of one prompt made again the slow way: whole forward passes of single rows, and nothing of the quick paths.

No batch, padding, cache, shared prefix, packed tree or cascade attention is used here, so that a fault in any of them
shows where a second run of the same code would repeat it. Tokenisation and the checkpoint's generation settings are
those of labelling.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..inference.as_found import inference, untouched
from ..inference.generation_settings import these_alone
from ..inference.padding import COARSE, ROUNDING, forget_lengths, positions_follow_length
from ..inference.sampling import Sampling
from ..supervisors.reading.messages import Prompt
from ..supervisors.supervisor import WeakSupervisor

NUDGES = 8  # searches that are tried before labels count as wrong. *ours*
NUDGE = 0.1  # of what rounding may change, see `rounding`: the size of a nudge. *ours*


def rounding(supervisor: WeakSupervisor) -> float:
    """What two ways to compute one log-probability may differ by in the model's dtype, nats."""
    return ROUNDING.get(supervisor.model.dtype, COARSE)


def plain_logps(supervisor: WeakSupervisor, prompt: Prompt, text: str, name: str) -> list[float]:
    """Log-probability of each of a completion's tokens, end of sequence included, by one forward pass; nats."""
    with untouched(supervisor.tokenizer):
        (encoded,) = supervisor.encode([prompt], [name])
        ids = supervisor.encoder.completions([encoded], [text])[0].ids
    model = supervisor.model
    with supervisor.adapters.in_use(), inference(model):
        forget_lengths(model)
        row = torch.tensor([[*encoded.ids, *ids]], device=model.device)
        logits = model(input_ids=row, use_cache=False).logits[0, len(encoded.ids) - 1 : -1].double()
    logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids, device=logits.device)[:, None])
    return logps.squeeze(-1).tolist()


def other_answers(
    supervisor: WeakSupervisor,
    prompt: Prompt,
    stored: Sequence[tuple[str, bool]],
    name: str,
    key: str,
    num_candidates: int,
    max_new_tokens: int,
    sampling: Sampling | None,
) -> bool:
    """Whether plain searches (or draws) give other candidates than those stored, (text, whether finished), best first.

    Where nudges of the log-probabilities within their rounding give several lists, some beams are nearly equal and any
    of these lists is right; where most nudges give one of their own, rounding decides and nothing can be said.
    Positions that follow the length are different ones without a cache, and are not asked.
    """
    if positions_follow_length(supervisor.model):
        return False
    with untouched(supervisor.tokenizer):
        (encoded,) = supervisor.encode([prompt], [name], max_new_tokens)
    config = supervisor.settings(num_candidates, max_new_tokens, sampling is not None, encoded.chat)

    def answers(seed: int) -> list[tuple[str, bool]]:
        beams = _search(
            supervisor, encoded.ids, config, seed, lambda: _draws(supervisor, key, num_candidates, sampling)
        )
        ends = [supervisor.encoder.closes(ids, encoded.chat) for ids in beams]
        return [(supervisor.encoder.decode(encoded, ids, end), end) for ids, end in zip(beams, ends, strict=True)]

    wanted = list(stored)
    seen = [answers(0)]
    if wanted in seen:
        return False
    seen += [answers(seed) for seed in range(1, NUDGES + 1)]
    distinct = [row for i, row in enumerate(seen) if row not in seen[:i]]
    return wanted not in distinct and len(distinct) <= NUDGES / 2


def _draws(supervisor: WeakSupervisor, key: str, count: int, sampling: Sampling | None) -> list[list[LogitsProcessor]]:
    """The processors of each search: of one beam search, or of every draw by itself."""
    if sampling is None:
        return [[]]
    device = supervisor.model.device
    return [sampling.processors(supervisor.name, [key], [k], device) for k in range(count)]


def _search(
    supervisor: WeakSupervisor,
    prompt: list[int],
    config: GenerationConfig,
    seed: int,
    processors: Callable[[], list[list[LogitsProcessor]]],
) -> list[list[int]]:
    model, found = supervisor.model, []
    config.use_cache = False
    row = torch.tensor([prompt], device=model.device)
    nudge = [_Nudge(seed, NUDGE * rounding(supervisor))] if seed else []
    with supervisor.adapters.in_use(), inference(model), these_alone(model, config):
        for own in processors():
            made = model.generate(
                input_ids=row,
                attention_mask=torch.ones_like(row),
                generation_config=config,
                logits_processor=LogitsProcessorList([*nudge, *own]),
                synced_gpus=False,
            )
            found += made[:, len(prompt) :].tolist()
    ends = set(config.eos_token_id)
    return [next((ids[: i + 1] for i, token in enumerate(ids) if token in ends), ids) for ids in found]


class _Nudge(LogitsProcessor):
    """Moves every log-probability by at most `size`, at random."""

    def __init__(self, seed: int, size: float):
        self.stream, self.size = torch.Generator().manual_seed(seed), size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        moved = torch.rand(scores.shape, generator=self.stream, dtype=torch.float32) * 2 - 1
        return scores + self.size * moved.to(scores)
