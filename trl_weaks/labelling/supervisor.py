"""One weak supervisor: a causal language model with its own tokenizer, which answers prompts and reads answers."""

import math
from collections.abc import Callable, Sequence
from pathlib import PurePath

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .beams import beam_config, inference, search
from .encoding import EncodedPrompt, Encoder
from .forward import Pair, plain_logps
from .messages import Completion, Prompt, check_prompts, completion_text
from .packed import packed_logps
from .records import Candidate, Scored
from .sharing import Sharing

MAX_TOKENS = 16_384


def _ignore(_: int) -> None:
    """Nobody is watching the progress."""


class WeakSupervisor:
    """A language model and its tokenizer, as weak supervisor n of N.

    Args:
        model: a decoder-only language model; used without dropout and left as it was found.
        tokenizer: its fast tokenizer, with `eos_token` and `pad_token`.
        name: unique in an ensemble; defaults to the last part of the model's path.
        max_tokens_in_flight: tokens (beams included) of one batch, which bounds the memory. *ours*

    Raises:
        ValueError: encoder-decoder model; slow tokenizer; missing eos or pad token; token ids without embedding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        max_tokens_in_flight: int = MAX_TOKENS,
    ):
        self.name = name or PurePath(model.config._name_or_path or model.config.model_type).name
        _check_model(model, tokenizer, self.name)
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters stay active
        self.encoder = Encoder(tokenizer, self.name)
        self.tokenizer = tokenizer
        self.sharing = Sharing(self.model)
        self.max_tokens_in_flight = max_tokens_in_flight

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_candidates: int = 5,
        max_new_tokens: int = 64,
        names: Sequence[str] | None = None,
        advance: Callable[[int], object] = _ignore,
    ) -> list[list[Candidate]]:
        """The best `num_candidates` answers of an exact beam search with as many beams, best first.

        Same beams as `model.generate(num_beams=num_candidates, num_return_sequences=num_candidates)`.

        Args:
            prompts: text, or lists of messages; not both.
            num_candidates: beams, all returned. Default 5: *paper* (M = 5, 64 tokens).
            names: what to call each prompt in error messages.
            advance: called with the number of prompts just done.

        Raises:
            ValueError: empty or mixed prompts, a prompt without room for the answer, non-finite log-probabilities.
        """
        if num_candidates < 1 or max_new_tokens < 1:
            raise ValueError(
                f"num_candidates={num_candidates} and max_new_tokens={max_new_tokens} must be at least 1."
            )
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded = self.encode(prompts, names, max_new_tokens)
        if not encoded:
            return []
        eos_id = self.encoder.eos_id(encoded[0].chat)
        config = beam_config(num_candidates, max_new_tokens, eos_id, self.tokenizer.pad_token_id)
        with inference(self.model):
            beams = self._search([p.ids for p in encoded], config, advance)
        flat = [(p, ids, name) for p, rows, name in zip(encoded, beams, names, strict=True) for ids in rows]
        logps = self.logps([(tuple(p.ids), tuple(ids)) for p, ids, _ in flat], [name for *_, name in flat])
        made = iter(self._candidate(p, ids, row, eos_id) for (p, ids, _), row in zip(flat, logps, strict=True))
        return [[next(made) for _ in rows] for rows in beams]

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], names: Sequence[str] | None = None
    ) -> list[Scored]:
        """Read each completion after its prompt: tokens, offsets and log-probabilities, end of sequence included.

        Raises:
            ValueError: unequal lengths, empty or mixed prompts, a pair longer than the model's context, non-finite
                log-probabilities.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions; give one prompt for each.")
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded = self.encode(prompts, names)
        texts = [completion_text(c, name) for c, name in zip(completions, names, strict=True)]
        read = self.encoder.completions(encoded, texts)
        for p, c, name in zip(encoded, read, names, strict=True):
            self._check_room(len(p.ids), len(c.ids), name, "the completion")
        logps = self.logps([(tuple(p.ids), tuple(c.ids)) for p, c in zip(encoded, read, strict=True)], names)
        return [Scored(c.ids, row, c.offsets) for c, row in zip(read, logps, strict=True)]

    def encode(self, prompts: Sequence[Prompt], names: Sequence[str], room: int = 0) -> list[EncodedPrompt]:
        """Tokenise prompts and check that each leaves `room` tokens in the model's context."""
        check_prompts(prompts, names)
        encoded = self.encoder.prompts(prompts)
        for p, name in zip(encoded, names, strict=True):
            if not p.ids:
                raise ValueError(f"{name}: supervisor {self.name!r} reads the prompt as no token at all.")
            self._check_room(len(p.ids), room, name, f"max_new_tokens={room}")
        return encoded

    def logps(self, pairs: Sequence[Pair], names: Sequence[str]) -> list[list[float]]:
        """Log-probability of every completion token; equal pairs are computed once.

        Raises:
            ValueError: a log-probability is not finite; names the supervisor and the example.
        """
        distinct = list(dict.fromkeys(pairs))
        with inference(self.model):
            rows = self._read(distinct)
        found = dict(zip(distinct, rows, strict=True))
        for pair, name in zip(pairs, names, strict=True):
            if not all(map(math.isfinite, found[pair])):
                raise ValueError(
                    f"{name}: supervisor {self.name!r} gives a log-probability that is not finite (NaN or infinite); "
                    "check its weights, or load it in float32."
                )
        return [found[pair] for pair in pairs]

    def _search(
        self, prompts: list[list[int]], config: GenerationConfig, advance: Callable[[int], object]
    ) -> list[list[list[int]]]:
        beams: list[list[list[int]]] = [[] for _ in prompts]
        for members, prefix in self.sharing.groups(prompts):
            rows, able = [prompts[i] for i in members], self.sharing.able()
            found = search(self.model, rows, config, self.max_tokens_in_flight, advance, prefix, able)
            for i, row in zip(members, found, strict=True):
                beams[i] = row
        return beams

    def _read(self, pairs: list[Pair]) -> list[list[float]]:
        if not self.sharing.able():
            return plain_logps(self.model, pairs, self.tokenizer.pad_token_id, self.max_tokens_in_flight, _ignore)
        logps: list[list[float]] = [[] for _ in pairs]
        for members, prefix in self.sharing.groups([prompt for prompt, _ in pairs]):
            found = packed_logps(self.model, [pairs[i] for i in members], prefix, self.max_tokens_in_flight)
            for i, row in zip(members, found, strict=True):
                logps[i] = row
        return logps

    def _candidate(self, prompt: EncodedPrompt, ids: list[int], logps: list[float], eos_id: int) -> Candidate:
        finished = ids[-1] == eos_id
        text = self.encoder.decode(prompt, ids, finished)
        return Candidate(text, ids, logps, self.encoder.offsets(prompt, ids, text, finished), finished)

    def _check_room(self, prompt: int, answer: int, name: str, what: str) -> None:
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and prompt + max(answer, 1) > context:
            raise ValueError(
                f"{name}: the prompt has {prompt} tokens for supervisor {self.name!r}, whose context holds {context}; "
                f"there is no room for {what}. Shorten or remove the row, or ask for fewer tokens."
            )


def _check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if model.config.is_encoder_decoder:
        raise ValueError(f"supervisor {name!r}: encoder-decoder models are not supported; use a decoder-only model.")
    if any(c.is_prompt_learning for c in getattr(model, "peft_config", {}).values()):
        raise ValueError(f"supervisor {name!r}: prompt-learning adapters are not supported; merge or use LoRA.")
    rows, ids = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if ids > rows:
        raise ValueError(
            f"supervisor {name!r}: the tokenizer has {ids} tokens but the model only {rows} embeddings; they do not "
            "belong together, or model.resize_token_embeddings was forgotten."
        )
