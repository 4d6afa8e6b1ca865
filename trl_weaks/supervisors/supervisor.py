"""One weak supervisor: a causal language model with its own tokenizer, which answers prompts and reads answers."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..inference.as_found import borrowed_tokenizer, inference, untouched
from ..inference.decoding import Decoding, decode
from ..inference.finite_logits import not_finite
from ..inference.generation_settings import check_model_config, decoding_config
from ..inference.padding import MAX_TOKENS
from ..inference.sampling import Sampling
from ..inference.scoring import Pair, packed_logps, plain_logps
from ..inference.shared_prefix import Sharing
from .adapters import Adapters, base_of
from .eligible import check_model, check_room, has_room
from .hidden_states import last_states
from .loading import load, name_of
from .reading.ends import end_ids, told_ends
from .reading.messages import Completion, Prompt, check_prompts, completion_text
from .reading.text import EncodedCompletion, EncodedPrompt, Encoder, check_tokenizer
from .scores import Candidate, Scored


def _ignore(_: int) -> None:
    """No-op progress callback."""


class WeakSupervisor:
    """A language model and its tokenizer, as weak supervisor n of N.

    Args:
        model: a decoder-only language model; used without dropout and left as it was found.
        tokenizer: its fast tokenizer, with `eos_token` and `pad_token`.
        name: unique in an ensemble; defaults to the last part of the model's path.
        max_tokens_in_flight: tokens (beams included) of one batch, which bounds the memory: at least one prompt with
            its beams is held, and 4,096 logits for each token of the budget (see `budget.py`). Prefixes that are kept
            take at most as many tokens again, or one prefix. *ours*
        adapter: which of the model's adapters (LoRA) answers, by name, or several; an empty list for the base model
            alone. Several supervisors may share one model in this way; every call chooses, and puts the found choice
            back. None for the active one.
        variant: what else decides its answers and stands neither in weights, configurations nor tokenizer, such as the
            steering that a forward hook does: any text, part of the key under which labels are kept.

    Raises:
        ValueError: encoder-decoder model; slow tokenizer; missing eos or pad token; token ids without embedding; a
            budget below one token.
    """

    adapters: Adapters | None = None  # where something else runs the model
    variant: str | None = None
    _told: list[list[int]] | None = None  # the end tokens that `encoder` knows of

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        max_tokens_in_flight: int = MAX_TOKENS,
        adapter: str | Sequence[str] | None = None,
        variant: str | None = None,
    ):
        self.name = name or PurePath(model.config._name_or_path or model.config.model_type).name
        check_model(model, tokenizer, self.name)
        if max_tokens_in_flight < 1:
            raise ValueError(
                f"supervisor {self.name!r}: max_tokens_in_flight={max_tokens_in_flight} must be at least 1."
            )
        self.model, self.adapters, self.variant = base_of(model), Adapters(model, adapter, self.name), variant
        self.config = self.model.config
        self.context = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self.tokenizer = tokenizer
        with untouched(tokenizer):
            self.encoder = Encoder(tokenizer, self.name)
        self._read_ends()
        self.sharing = Sharing(self.model)
        self.max_tokens_in_flight = max_tokens_in_flight

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        name: str | None = None,
        device: str | torch.device | None = None,
        max_tokens_in_flight: int = MAX_TOKENS,
        **kwargs: Any,
    ) -> "WeakSupervisor":
        """A supervisor from the Hub or a folder, its pad token set and on the accelerator if there is one.

        Args:
            path: a causal language model, or a LoRA adapter of one.
            device: by default this process's accelerator, or the CPU.
            kwargs: for `AutoModelForCausalLM.from_pretrained`, such as `dtype` or `revision`.
        """
        model, tokenizer = load(path, AutoModelForCausalLM, device, **kwargs)
        return cls(model, tokenizer, name or name_of(path), max_tokens_in_flight)

    @borrowed_tokenizer
    def generate(
        self,
        prompts: Sequence[Prompt],
        num_candidates: int = 5,
        max_new_tokens: int = 64,
        names: Sequence[str] | None = None,
        advance: Callable[[int], object] = _ignore,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[list[Candidate]]:
        """The best `num_candidates` answers of an exact beam search with as many beams, best first; or as many draws.

        Same beams as `model.generate(num_beams=num_candidates, num_return_sequences=num_candidates)`, under the
        checkpoint's generation settings as `inference.generation_settings` lists them; every end token that the
        checkpoint or its tokenizer names ends an answer, and stands in its `token_ids` as it was generated. `score`
        closes any text with one of them: the tokenizer's `eos_token`, or after a chat its template's end of turn.

        Args:
            prompts: text, or lists of messages; not both.
            num_candidates: beams, all returned. Default 5: *paper* (M = 5, 64 tokens).
            names: what to call each prompt in error messages.
            advance: called with the number of prompts just done.
            sampling: draw the candidates instead of searching for them, in the order of the draws. *ours*
            keys: an id for each prompt; seed, name, key and number of the candidate decide a draw, and nothing else
                does. By default the prompt's place in the list.

        Raises:
            ValueError: empty or mixed prompts, a prompt without room for the answer, non-finite log-probabilities, a
                generation setting of the checkpoint that labelling does not follow.
        """
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded, beams = self._decode(prompts, num_candidates, max_new_tokens, names, advance, sampling, keys)
        flat = [(p, ids, name) for p, rows, name in zip(encoded, beams, names, strict=True) for ids in rows]
        logps = self.logps([(tuple(p.ids), tuple(ids)) for p, ids, _ in flat], [name for *_, name in flat])
        made = iter(self._candidate(p, ids, row) for (p, ids, _), row in zip(flat, logps, strict=True))
        return [[next(made) for _ in rows] for rows in beams]

    @borrowed_tokenizer
    def answer(
        self,
        prompts: Sequence[Prompt],
        num_candidates: int = 5,
        max_new_tokens: int = 64,
        names: Sequence[str] | None = None,
        advance: Callable[[int], object] = _ignore,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[list[tuple[str, bool]]]:
        """The candidates of `generate` as (text, whether finished) alone: for answers that are scored later anyway."""
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded, beams = self._decode(prompts, num_candidates, max_new_tokens, names, advance, sampling, keys)
        answers = []
        for prompt, rows in zip(encoded, beams, strict=True):
            ends = [self.encoder.closes(ids, prompt.chat) for ids in rows]
            answers.append([(self.encoder.decode(prompt, ids, e), e) for ids, e in zip(rows, ends, strict=True)])
        return answers

    @borrowed_tokenizer
    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], names: Sequence[str] | None = None
    ) -> list[Scored]:
        """Read each completion after its prompt: tokens, offsets and log-probabilities, end of sequence included.

        Raises:
            ValueError: unequal lengths, empty or mixed prompts, a pair longer than the model's context, non-finite
                log-probabilities.
        """
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded, read = self._tokenise(prompts, completions, names)
        for p, c, name in zip(encoded, read, names, strict=True):
            check_room(self.context, self.name, len(p.ids), len(c.ids), name, "the completion")
        return self._scored(encoded, read, names)

    @borrowed_tokenizer
    def score_fitting(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], names: Sequence[str] | None = None
    ) -> list[Scored | None]:
        """As `score`, but None for a pair longer than the model's context.

        Another supervisor's answer may have more tokens here than there.
        """
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded, read = self._tokenise(prompts, completions, names)
        fit = [i for i, (p, c) in enumerate(zip(encoded, read, strict=True)) if self._holds(p, c)]
        made = self._scored(*([values[i] for i in fit] for values in (encoded, read, names)))
        found = dict(zip(fit, made, strict=True))
        return [found.get(i) for i in range(len(encoded))]

    @borrowed_tokenizer
    def hidden_states(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], names: Sequence[str] | None = None
    ) -> torch.Tensor:
        """The last layer's state at each completion's last token, its end, (n, d) float32 on the CPU.

        Raises:
            ValueError: as `score`; or something else runs the model and does not show its states.
        """
        if self.adapters is None:
            raise ValueError(f"supervisor {self.name!r} is run elsewhere, and its hidden states are not to be had.")
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        encoded, read = self._tokenise(prompts, completions, names)
        rows: list[list[int]] = []
        for p, c, name in zip(encoded, read, names, strict=True):
            check_room(self.context, self.name, len(p.ids), len(c.ids), name, "the completion")
            rows.append([*p.ids, *c.ids])
        return last_states(self.model, self.adapters, rows, self.max_tokens_in_flight)

    @borrowed_tokenizer
    def encode(self, prompts: Sequence[Prompt], names: Sequence[str], room: int = 0) -> list[EncodedPrompt]:
        """Tokenise prompts and check that each leaves `room` tokens in the model's context."""
        check_prompts(prompts, names)
        if self.tokenizer.eos_token_id != self.encoder.eos_id(False):
            raise ValueError(
                f"supervisor {self.name!r}: its tokenizer's eos_token is another one since the supervisor was made; "
                "make the supervisor again."
            )
        check_tokenizer(self.tokenizer, self.name)  # its settings may be others since
        encoded = self.encoder.prompts(prompts, names)
        for p, name in zip(encoded, names, strict=True):
            if not p.ids:
                raise ValueError(f"{name}: supervisor {self.name!r} reads the prompt as no token at all.")
            check_room(self.context, self.name, len(p.ids), room, name, f"max_new_tokens={room}")
        return encoded

    def logps(self, pairs: Sequence[Pair], names: Sequence[str]) -> list[list[float]]:
        """Log-probability of every completion token; equal pairs are computed once.

        Raises:
            ValueError: a log-probability is not finite; names the supervisor and the example.
        """
        distinct = list(dict.fromkeys(pairs))
        found = dict(zip(distinct, self._read(distinct), strict=True))
        for pair, name in zip(pairs, names, strict=True):
            if not all(map(math.isfinite, found[pair])):
                raise ValueError(not_finite(name, self.name))
        return [found[pair] for pair in pairs]

    def _tokenise(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], names: Sequence[str]
    ) -> tuple[list[EncodedPrompt], list[EncodedCompletion]]:
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions; give one prompt for each.")
        new = [i for i, prompt in enumerate(prompts) if i == 0 or prompt != prompts[i - 1]]  # candidates lie together
        distinct = iter(self.encode([prompts[i] for i in new], [names[i] for i in new]))
        encoded: list[EncodedPrompt] = []
        starts = set(new)
        for i in range(len(prompts)):
            encoded.append(next(distinct) if i in starts else encoded[-1])
        texts = [completion_text(c, name) for c, name in zip(completions, names, strict=True)]
        return encoded, self.encoder.completions(encoded, texts)

    def _holds(self, prompt: EncodedPrompt, completion: EncodedCompletion) -> bool:
        return has_room(self.context, len(prompt.ids), len(completion.ids))

    def _scored(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[EncodedCompletion], names: Sequence[str]
    ) -> list[Scored]:
        pairs = [(tuple(p.ids), tuple(c.ids)) for p, c in zip(prompts, completions, strict=True)]
        logps = self.logps(pairs, names)
        return [Scored(c.ids, row, c.offsets) for c, row in zip(completions, logps, strict=True)]

    def _decode(
        self,
        prompts: Sequence[Prompt],
        num_candidates: int,
        max_new_tokens: int,
        names: Sequence[str],
        advance: Callable[[int], object],
        sampling: Sampling | None,
        keys: Sequence[str] | None,
    ) -> tuple[list[EncodedPrompt], list[list[list[int]]]]:
        if num_candidates < 1 or max_new_tokens < 1:
            raise ValueError(
                f"num_candidates={num_candidates} and max_new_tokens={max_new_tokens} must be at least 1."
            )
        self.settings(num_candidates, max_new_tokens, sampling is not None)  # refusals come before work
        encoded = self.encode(prompts, names, max_new_tokens)
        if not encoded:
            return encoded, []
        drawn = sampling is not None
        asked = Decoding(
            ids=[p.ids for p in encoded],
            names=names,
            keys=keys or [str(i) for i in range(len(encoded))],
            config=self.settings(num_candidates, max_new_tokens, drawn, encoded[0].chat),
            num_candidates=num_candidates,
            advance=advance,
            sampling=sampling,
        )
        return encoded, self._tokens(asked)

    def settings(
        self, num_candidates: int, max_new_tokens: int, drawn: bool = False, chat: bool = False
    ) -> GenerationConfig:
        """What decides the answers: the checkpoint's generation settings that are followed, and these arguments.

        Raises:
            ValueError: a setting that labelling does not follow; says which, why, and what to do.
        """
        check_model_config(self.config, self.name)
        self._read_ends()
        own, pad_id = getattr(self.model, "generation_config", None), self.tokenizer.pad_token_id
        return decoding_config(own, self.name, num_candidates, max_new_tokens, self.encoder.ends(chat), pad_id, drawn)

    def _read_ends(self) -> None:
        """Which tokens end an answer, read again where somebody has set others since."""
        own = getattr(self if self.model is None else self.model, "generation_config", None)
        told = told_ends(own, self.config)
        if told != self._told:
            rows = self.model.get_input_embeddings().weight.shape[0] if self.model is not None else None
            rows = self.config.get_text_config().vocab_size if rows is None else rows
            self.encoder.end_with(end_ids(own, self.config, self.tokenizer, self.name, rows))
            self._told = told

    def _tokens(self, asked: Decoding) -> list[list[list[int]]]:
        """Token ids of every prompt's candidates, the token that ended one included."""
        with self.adapters.in_use():
            return decode(self.model, self.name, self.sharing, self.max_tokens_in_flight, asked)

    def _read(self, pairs: list[Pair]) -> list[list[float]]:
        """Log-probabilities of distinct pairs' completion tokens."""
        logps: list[list[float]] = [[] for _ in pairs]
        with self.adapters.in_use(), inference(self.model):
            if not self.sharing.able():
                return plain_logps(self.model, pairs, self.tokenizer.pad_token_id, self.max_tokens_in_flight, _ignore)
            for members, prefix in self.sharing.groups([prompt for prompt, _ in pairs], self.max_tokens_in_flight):
                found = packed_logps(self.model, [pairs[i] for i in members], prefix, self.max_tokens_in_flight)
                for i, row in zip(members, found, strict=True):
                    logps[i] = row
        return logps

    def _candidate(self, prompt: EncodedPrompt, ids: list[int], logps: list[float]) -> Candidate:
        finished = self.encoder.closes(ids, prompt.chat)
        text = self.encoder.decode(prompt, ids, finished)
        return Candidate(text, ids, logps, self.encoder.offsets(prompt, ids, text, finished), finished)
