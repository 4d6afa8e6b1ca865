"""A stand-in for vLLM with the signatures and outputs of its offline API (0.10 to 0.22), run by a tiny model.

`BeamSearchSequence.tokens` includes the prompt; an end of sequence is in `tokens` (older releases) or only in
`finish_reason` (newer ones). `prompt_logprobs` has None first, then for every prompt token a dict that contains it.
Arguments that vLLM does not know are refused, as there.
"""

import sys
import types
from dataclasses import dataclass, field

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


@dataclass(kw_only=True)
class BeamSearchParams:
    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list | None
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class BeamSearchSequence:
    tokens: list[int]
    logprobs: list = field(default_factory=list)
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    sequences: list[BeamSearchSequence]


class LLM:
    made: list["LLM"] = []
    tokens_keep_eos = True  # as in older releases

    def __init__(
        self, model: str, *, tokenizer=None, revision=None, tokenizer_revision=None, dtype="auto", seed=None,
        trust_remote_code=False, load_format="auto", tensor_parallel_size=1, gpu_memory_utilization=0.9,
        max_model_len=None, enable_prefix_caching=None, max_logprobs=20,
    ):  # fmt: skip
        assert not trust_remote_code and load_format == "safetensors"
        self.arguments = {"gpu_memory_utilization": gpu_memory_utilization, "max_logprobs": max_logprobs}
        self.arguments |= {"tensor_parallel_size": tensor_parallel_size, "dtype": dtype, "revision": revision}
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.longest = max_model_len or self.model.config.max_position_embeddings
        self.max_logprobs, self.calls = max_logprobs, []
        LLM.made.append(self)

    def _logps(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        many = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        assert len(many) == len(prompts)
        self.calls.append(len(prompts))
        return [self._request(str(i), p["prompt_token_ids"], s) for i, (p, s) in enumerate(zip(prompts, many))]  # noqa: B905

    def _request(self, name, ids, params):
        assert isinstance(params, SamplingParams) and params.n == 1
        assert len(ids) + 1 <= self.longest, "vLLM refuses prompts that leave no room for a token"
        read = None
        if params.prompt_logprobs is not None:
            logps = self._logps(ids)
            read = [None]
            for place, token in enumerate(ids[1:]):
                best = int(logps[place].argmax())
                read.append({t: Logprob(logps[place, t].item()) for t in {best, token}})
        new, reason, stops = [], "length", {self.tokenizer.eos_token_id, *(params.stop_token_ids or ())}
        noise = torch.Generator().manual_seed(params.seed or 0)
        while len(new) < params.max_tokens and reason == "length":
            p = (self._logps(ids + new)[-1] / max(params.temperature, 1e-5)).softmax(-1)
            new.append(int(torch.multinomial(p, 1, generator=noise)))
            reason = "stop" if new[-1] in stops else "length"
        return RequestOutput(name, None, ids, read, [CompletionOutput(0, "", new, None, None, reason)], True)

    def beam_search(self, prompts, params, lora_request=None, use_tqdm=False):
        assert isinstance(params, BeamSearchParams) and 2 * params.beam_width <= self.max_logprobs
        return [self._beams(prompt["prompt_token_ids"], params) for prompt in prompts]

    def _beams(self, ids, params):
        eos = self.tokenizer.eos_token_id

        def rank(beam):
            return beam.cum_logprob / (len(beam.tokens) - (beam.tokens[-1] == eos))

        beams, completed = [BeamSearchSequence(ids)], []
        for _ in range(params.max_tokens):
            grown = []
            for beam in beams:
                top = self._logps(beam.tokens)[-1].topk(2 * params.beam_width)
                for value, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                    longer = BeamSearchSequence([*beam.tokens, token], cum_logprob=beam.cum_logprob + value)
                    if token != eos:
                        grown.append(longer)
                        continue
                    longer.finish_reason = "stop"
                    longer.tokens = longer.tokens if LLM.tokens_keep_eos else beam.tokens
                    completed.append(longer)
            beams = sorted(grown, key=rank, reverse=True)[: params.beam_width]
        return BeamSearchOutput(sorted(completed + beams, key=rank, reverse=True)[: params.beam_width])


def install(monkeypatch) -> type[LLM]:
    """Make `import vllm` find this."""
    package, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    package.LLM, package.SamplingParams = LLM, SamplingParams
    params.SamplingParams, params.BeamSearchParams = SamplingParams, BeamSearchParams
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    LLM.made = []
    return LLM
