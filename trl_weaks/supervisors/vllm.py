"""A weak supervisor that vLLM runs: quicker generation on GPUs, behind the same interface."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from ..fingerprint import digest
from ..inference.decoding import Decoding
from ..inference.generation_settings import honoured
from ..inference.scoring import Pair
from ..inference.shared_prefix import Sharing
from .reading.text import Encoder
from .supervisor import WeakSupervisor

# Arguments of vLLM that change how fast it answers and not what; all others are part of the key of kept labels.
RESOURCES = {"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "gpu_memory_utilization"}
RESOURCES |= {
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "max_logprobs",
    "swap_space",
    "cpu_offload_gb",
}
RESOURCES |= {"enforce_eager", "disable_log_stats", "enable_prefix_caching", "enable_chunked_prefill", "download_dir"}
RESOURCES |= {"distributed_executor_backend", "disable_custom_all_reduce", "kv_cache_memory_bytes", "block_size"}


class VllmSupervisor(WeakSupervisor):
    """A language model run by vLLM, as weak supervisor n of N; vLLM is not installed with this package.

    Beams are those of vLLM's own search, which need not be those of `model.generate`; they are ordered as there, by
    log-probability per token. Scoring is exact but pays the whole prompt for every completion: vLLM does not use its
    prefix cache where it returns log-probabilities of prompts. Draws are seeded one by one; vLLM's logits still depend
    a little on what else is in the batch.

    Args:
        source: Hub id or folder, with safetensors.
        tokenizer: its fast tokenizer, with `eos_token` and `pad_token`.
        name: unique in an ensemble; defaults to the last part of `source`.
        revision: of a Hub model.
        dtype: as in `vllm.LLM`.
        max_candidates: the most beams that will be asked for.
        engine: further arguments of `vllm.LLM`, e.g. `tensor_parallel_size`, `gpu_memory_utilization` (several
            supervisors share one GPU: give each its part), `max_model_len`.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: several processes (vLLM spreads a model by itself); an unfit tokenizer. When answers are asked for:
            a generation setting of the checkpoint; several end tokens and beams, which vLLM ends at `eos_token` alone.
    """

    def __init__(
        self,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        max_candidates: int = 32,
        **engine: Any,
    ):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("vLLM spreads a model over GPUs by itself: run one process, with tensor_parallel_size.")
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError(
                "the vLLM back-end needs vLLM, which is not installed: `pip install vllm` on a machine with a GPU, or "
                "leave out --backend vllm (WeakSupervisor needs nothing more)."
            ) from error
        self.name = name or PurePath(source).name
        self.model, self.sharing = None, Sharing(None)  # prefixes only order the work; vLLM caches by itself
        self.config, self.dtype = AutoConfig.from_pretrained(source, revision=revision), dtype
        self.generation_config, self.tokenizer = _generation_config(source, revision), tokenizer
        self.encoder = Encoder(tokenizer, self.name)
        self._read_ends()
        limits = [getattr(self.config.get_text_config(), "max_position_embeddings", None), engine.get("max_model_len")]
        self.context = min((n for n in limits if n), default=None)
        if self.context:
            self.context -= 1  # vLLM generates a token after every prompt, also after one that is only scored
        self.max_candidates = max_candidates
        self.identity = _identity(source, self.config, dtype, engine)
        options = {"enable_prefix_caching": True, "max_logprobs": 2 * max_candidates, **engine}
        self.llm = LLM(
            model=source,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            load_format="safetensors",
            trust_remote_code=False,
            **options,
        )

    def settings(
        self, num_candidates: int, max_new_tokens: int, drawn: bool = False, chat: bool = False
    ) -> GenerationConfig:
        """As for `WeakSupervisor`; settings that vLLM is not told are refused too."""
        if told := honoured(self.generation_config, self.name):
            name, value = next(iter(told.items()))
            raise ValueError(
                f"supervisor {self.name!r}: its checkpoint sets generation_config.{name}={value!r}, which the vLLM "
                "back-end does not follow; remove it from generation_config.json, or use WeakSupervisor."
            )
        return super().settings(num_candidates, max_new_tokens, drawn, chat)

    def _tokens(self, asked: Decoding) -> list[list[list[int]]]:
        made = self._beams(asked) if asked.sampling is None else self._draws(asked)
        asked.advance(len(asked.ids))
        return made

    def _beams(self, asked: Decoding) -> list[list[list[int]]]:
        from vllm.sampling_params import BeamSearchParams

        if asked.num_candidates > self.max_candidates:
            raise ValueError(
                f"supervisor {self.name!r}: num_candidates={asked.num_candidates}, but max_candidates="
                f"{self.max_candidates}."
            )
        ends = asked.config.eos_token_id
        if others := [token for token in ends if token != self.tokenizer.eos_token_id]:
            raise ValueError(
                f"supervisor {self.name!r}: its answers also end with {self.tokenizer.convert_ids_to_tokens(others)} "
                "(its chat template or eos_token_id says so), where vLLM's beam search would not stop; sample (a "
                "temperature), or use WeakSupervisor."
            )
        params = BeamSearchParams(beam_width=asked.num_candidates, max_tokens=asked.config.max_new_tokens)
        outputs = self.llm.beam_search([{"prompt_token_ids": ids} for ids in asked.ids], params)
        made = []
        for ids, output in zip(asked.ids, outputs, strict=True):
            beams = []
            for beam in output.sequences:
                new = _closed(beam.tokens[len(ids) :], beam.finish_reason, ends)
                beams.append((-beam.cum_logprob / len(new), new))
            made.append([new for _, new in sorted(beams)])
        return made

    def _draws(self, asked: Decoding) -> list[list[list[int]]]:
        from vllm import SamplingParams

        prompts, params = [], []
        for ids, key in zip(asked.ids, asked.keys, strict=True):
            for k in range(asked.num_candidates):
                prompts.append({"prompt_token_ids": ids})
                params.append(
                    SamplingParams(
                        temperature=asked.sampling.temperature,
                        top_p=asked.sampling.top_p,
                        seed=asked.sampling.stream(self.name, key, k),
                        max_tokens=asked.config.max_new_tokens,
                        stop_token_ids=list(asked.config.eos_token_id),
                        detokenize=False,
                    )
                )
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        drawn = [o.outputs[0] for o in outputs]
        rows = [_closed(d.token_ids, d.finish_reason, asked.config.eos_token_id, d.stop_reason) for d in drawn]
        return [rows[i : i + asked.num_candidates] for i in range(0, len(rows), asked.num_candidates)]

    def _read(self, pairs: list[Pair]) -> list[list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        prompts = [{"prompt_token_ids": [*prompt, *completion]} for prompt, completion in pairs]
        outputs = self.llm.generate(prompts, params, use_tqdm=False) if prompts else []
        return [
            [place[token].logprob for place, token in zip(output.prompt_logprobs[len(prompt) :], ids, strict=True)]
            for (prompt, ids), output in zip(pairs, outputs, strict=True)
        ]


def _closed(ids: Sequence[int], reason: str | None, ends: Sequence[int], which: int | str | None = None) -> list[int]:
    """Generated ids up to the token that ended them, which vLLM leaves out in some versions (`which`, where said)."""
    ids = list(ids)
    for i, token in enumerate(ids):
        if token in ends:
            return ids[: i + 1]
    return [*ids, which if which in ends else ends[0]] if reason == "stop" or not ids else ids


def _generation_config(source: str, revision: str | None) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(source, revision=revision)
    except OSError:  # a checkpoint need not have one
        return None


def _identity(source: str, config: Any, dtype: str, engine: dict[str, Any]) -> str:
    """What stands for the weights: every file's content, or the Hub's commit; and what else vLLM was told."""
    files = []
    for path in sorted(Path(source).glob("*.safetensors")):
        with path.open("rb") as file:
            files.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    told = {name: str(value) for name, value in engine.items() if name not in RESOURCES}
    return digest("vllm", dtype, files or getattr(config, "_commit_hash", None) or source, told)
