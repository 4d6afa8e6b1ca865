"""From text to the tokens that a stock TRL `SFTTrainer` trains on, and back to text with character offsets.

Training tokenises `prompt` and `prompt + completion + eos` and takes as completion what follows the prompt's tokens.
Generation and scoring do the same here, so that the beginning-of-sequence token (OPT's leading `</s>`, Llama's `<s>`)
is where training put it: in front of the prompt, never in front of the completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from .messages import Prompt

CONTEXT = 8  # prompt tokens decoded with a candidate: enough to know whether its first token begins with a space


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as one supervisor reads it: the text its tokenizer saw, and the token ids."""

    text: str
    ids: list[int]
    chat: bool


@dataclass(frozen=True)
class EncodedCompletion:
    """Token ids of completion and end of sequence, with [start, end) characters of the completion for each."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """One tokenizer's view of prompts and completions.

    Args:
        tokenizer: a fast tokenizer with `eos_token` and `pad_token`.
        name: the supervisor's name, used in error messages.

    Raises:
        ValueError: slow tokenizer, no end-of-sequence token, no pad token, or one that closes every text by itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str):
        _check_tokenizer(tokenizer, name)
        self.tokenizer = tokenizer
        self.name = name
        self.eos_ids = {False: tokenizer.eos_token_id}  # by "is the prompt a chat?"; a chat template may have its own
        self._special = sorted({*tokenizer.all_special_tokens, tokenizer.eos_token}, key=len, reverse=True)

    def prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
        """Tokenise prompts; messages go through the chat template with its generation prompt."""
        if not prompts:
            return []
        chat = not isinstance(prompts[0], str)
        texts = [self._render(prompt) for prompt in prompts] if chat else list(prompts)
        ids = self.tokenizer(texts, add_special_tokens=not chat)["input_ids"]
        return [EncodedPrompt(text, row, chat) for text, row in zip(texts, ids, strict=True)]

    def completions(self, prompts: Sequence[EncodedPrompt], texts: Sequence[str]) -> list[EncodedCompletion]:
        """Tokenise completions after their prompts, end-of-sequence token included.

        Where tokens would merge over the boundary, the completion is tokenised by itself instead, since a supervisor
        that answers has already read the whole prompt.
        """
        if not prompts:
            return []
        chat = prompts[0].chat
        eos = self.tokenizer.convert_ids_to_tokens(self.eos_id(chat))
        joined = [p.text + text + eos for p, text in zip(prompts, texts, strict=True)]
        batch = self.tokenizer(joined, add_special_tokens=not chat, return_offsets_mapping=True)
        result = []
        for p, text, ids, spans in zip(prompts, texts, batch["input_ids"], batch["offset_mapping"], strict=True):
            start, shift = len(p.ids), len(p.text)
            if ids[:start] == p.ids and len(ids) > start:
                ids, spans = ids[start:], [(a - shift, b - shift) for a, b in spans[start:]]
            else:
                alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
                ids, spans = alone["input_ids"], alone["offset_mapping"]
            result.append(self._close(ids, spans, len(text), self.eos_id(chat)))
        return result

    def decode(self, prompt: EncodedPrompt, ids: Sequence[int], finished: bool) -> str:
        """Text of generated ids, read after the prompt's last tokens so that leading spaces are right.

        Special tokens are removed, also when spelt with ordinary tokens (the text ends at a spelt-out end of
        sequence). A letter cut in the middle by `max_new_tokens` is dropped.
        """
        context = prompt.ids[-CONTEXT:]
        before, whole = self._plain(context), self._plain([*context, *ids])
        text = whole[len(before) :] if whole.startswith(before) else self._plain(ids)
        text = text.split(self.tokenizer.eos_token)[0]
        for token in self._special:
            text = text.replace(token, "")
        return text if finished else text.rstrip("\N{REPLACEMENT CHARACTER}")

    def offsets(self, prompt: EncodedPrompt, ids: Sequence[int], text: str, finished: bool) -> list[tuple[int, int]]:
        """Characters of `text` for each generated id, also where re-tokenising the text gives other tokens."""
        canonical = self.completions([prompt], [text])[0]
        if canonical.ids[: len(ids)] == list(ids) and len(canonical.ids) == len(ids) + (not finished):
            return canonical.offsets[: len(ids)]
        body = list(ids[:-1]) if finished else list(ids)
        ends = [self._covered(prompt, body[: i + 1], text) for i in range(len(body))]
        spans, start = [], 0
        for i in range(len(body)):
            end = next((e for e in ends[i:] if e > start), len(text) if i == len(body) - 1 else start)
            spans.append((start, end))
            if ends[i] > start:
                start = ends[i]
        if spans:
            spans[-1] = (spans[-1][0], len(text))
        return [*spans, (len(text), len(text))] if finished else spans

    def eos_id(self, chat: bool) -> int:
        """The token that ends an answer: the chat template's own end of turn, else the tokenizer's `eos_token`."""
        if chat not in self.eos_ids:
            self.eos_ids[chat] = self._end_of_turn()
        return self.eos_ids[chat]

    def _render(self, messages: list[dict]) -> str:
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"supervisor {self.name!r}: the prompts are messages but the tokenizer has no chat template; set "
                "tokenizer.chat_template, or label text prompts."
            )
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _end_of_turn(self) -> int:
        question = [{"role": "user", "content": "question"}]
        answer = [*question, {"role": "assistant", "content": "answer"}]
        prompt, whole = self._render(question), self.tokenizer.apply_chat_template(answer, tokenize=False)
        if whole.startswith(prompt + "answer"):
            tail = self.tokenizer(whole[len(prompt) + 6 :].lstrip(), add_special_tokens=False)["input_ids"]
            if tail and tail[0] in self.tokenizer.all_special_ids:
                return tail[0]
        return self.tokenizer.eos_token_id

    def _plain(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _covered(self, prompt: EncodedPrompt, ids: Sequence[int], text: str) -> int:
        part = self.decode(prompt, ids, finished=False)
        return next((i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b), min(len(part), len(text)))

    @staticmethod
    def _close(ids: list[int], spans: list[tuple[int, int]], length: int, eos_id: int) -> EncodedCompletion:
        """Make the spans cover the text without gaps and put the end of sequence last, as an empty span."""
        body = ids[:-1] if ids and ids[-1] == eos_id else ids
        covered, end = [], 0
        for i, (a, b) in enumerate(spans[: len(body)]):
            start = min(max(a, 0), end)
            end = length if i == len(body) - 1 else min(max(b, end), length)
            covered.append((start, end))
        return EncodedCompletion([*body, eos_id], [*covered, (length, length)])


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    where = f"supervisor {name!r}: the tokenizer"
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{where} is slow and gives no character offsets; load a fast one (use_fast=True).")
    if tokenizer.eos_token is None or tokenizer.eos_token_id is None:
        raise ValueError(f"{where} has no eos token, so no completion can end; set tokenizer.eos_token.")
    if tokenizer.pad_token is None or tokenizer.pad_token_id is None:
        raise ValueError(
            f"{where} has no pad token; set tokenizer.pad_token, for instance to tokenizer.eos_token (padding is "
            "masked, so any token will do)."
        )
    alone, inside = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    if inside and alone[-len(inside) :] != inside:
        raise ValueError(
            f"{where} adds {tokenizer.convert_ids_to_tokens(alone[-1])!r} after every text, so a prompt would end "
            "before its answer; switch that off (add_eos_token=False, or the post-processor)."
        )
