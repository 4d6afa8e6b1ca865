"""From text to the tokens that a stock TRL `SFTTrainer` trains on, and back to text with character offsets.

Training tokenises `prompt` and `prompt + completion + eos` and takes as completion what follows the prompt's tokens.
Generation and scoring do the same here, so that the beginning-of-sequence token (OPT's leading `</s>`, Llama's `<s>`)
is where training put it: in front of the prompt, never in front of the completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from .chat import around, place, rendered
from .messages import Prompt, as_completion

CONTEXT = 8  # prompt tokens decoded with a candidate: enough to know whether its first token begins with a space


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as one supervisor reads it: the text its tokenizer saw, the token ids, and the messages of a chat."""

    text: str
    ids: list[int]
    messages: list[dict] | None = None

    @property
    def chat(self) -> bool:
        return self.messages is not None


@dataclass(frozen=True)
class EncodedCompletion:
    """Token ids of completion and end of sequence, with [start, end) characters of the completion for each.

    Attributes:
        behind: whether the completion was read behind another text than its prompt, see `Encoder.completions`.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    behind: bool = False


class Encoder:
    """One tokenizer's view of prompts and completions.

    Args:
        tokenizer: a fast tokenizer with `eos_token` and `pad_token`.
        name: the supervisor's name, used in error messages.

    Raises:
        ValueError: slow tokenizer, no end-of-sequence token, no pad token, one that closes every text by itself, or
            that reads special tokens letter by letter.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str):
        check_tokenizer(tokenizer, name)
        self.tokenizer = tokenizer
        self.name = name
        self.eos_ids = {False: tokenizer.eos_token_id}  # by "is the prompt a chat?"; a chat template may have its own
        self._ends = [tokenizer.eos_token_id]
        self._read: object = None  # the state of the tokenizer in which its special tokens were read

    def prompts(self, prompts: Sequence[Prompt], names: Sequence[str] | None = None) -> list[EncodedPrompt]:
        """Tokenise prompts; messages go through the chat template with its generation prompt.

        Raises:
            ValueError: messages without a chat template, or that the template refuses; says which (`names`).
        """
        if not prompts:
            return []
        chat = not isinstance(prompts[0], str)
        if not chat:
            return [
                EncodedPrompt(p, ids)
                for p, ids in zip(prompts, self.tokenizer(list(prompts))["input_ids"], strict=True)
            ]
        names = names or [f"prompt {i}" for i in range(len(prompts))]
        asked = {"add_generation_prompt": True}
        texts = [rendered(self.tokenizer, p, self.name, name, **asked) for p, name in zip(prompts, names, strict=True)]
        if True not in self.eos_ids or self._template != self.tokenizer.chat_template:
            self.eos_ids[True], self._template = self._end_of_turn(prompts[0]), self.tokenizer.chat_template
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [EncodedPrompt(text, row, p) for text, row, p in zip(texts, ids, prompts, strict=True)]

    def completions(self, prompts: Sequence[EncodedPrompt], texts: Sequence[str]) -> list[EncodedCompletion]:
        """Tokenise completions after their prompts, end-of-sequence token included; chats as the template writes them.

        Where tokens would merge over the boundary, the completion is tokenised by itself instead, since a supervisor
        that answers has already read the whole prompt, or behind a line break, where the tokenizer would begin it with
        a space that it does not have. White space that a template trims belongs to the token beside it.
        """
        if not prompts:
            return []
        edges: dict[int, tuple[str, str]] = {}  # the candidates of a prompt share it
        written = [self._written(p, text, edges) for p, text in zip(prompts, texts, strict=True)]
        special = not prompts[0].chat
        batch = self.tokenizer([w for w, _, _ in written], add_special_tokens=special, return_offsets_mapping=True)
        eos_id = self.eos_id(prompts[0].chat)
        result = []
        for p, text, (_, shift, end), ids, spans in zip(
            prompts, texts, written, batch["input_ids"], batch["offset_mapping"], strict=True
        ):
            start, behind = len(p.ids), False
            if ids[:start] == p.ids and len(ids) > start:
                stop = next((i for i in range(start, len(ids)) if ids[i] == eos_id and spans[i][1] > end), len(ids))
                ids, spans = ids[start:stop], [(a - shift, b - shift) for a, b in spans[start:stop]]
            else:
                ids, spans, behind = self._apart(p, text)
            result.append(self._close(ids, spans, len(text), eos_id, behind))
        return result

    def begins_with_space(self) -> bool:
        """Whether the tokenizer puts a space before a text by itself, as SentencePiece does."""
        mark, alone = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (":", "a"))
        return self._plain([*mark, *alone]) != self._plain(mark) + "a"

    def decode(self, prompt: EncodedPrompt, ids: Sequence[int], finished: bool) -> str:
        """Text of generated ids, read after the prompt's last tokens so that leading spaces are right.

        Special tokens are removed, also when spelt with ordinary tokens (the text ends at a spelt-out end of
        sequence). A letter cut in the middle by `max_new_tokens` is dropped.
        """
        context, ids = prompt.ids[-CONTEXT:], ids[:-1] if finished else ids
        before, whole = self._plain(context), self._plain([*context, *ids])
        text = whole[len(before) :] if whole.startswith(before) else self._plain(ids)
        for end in self.ends(prompt.chat):
            if end in self._marks:
                text = text.split(self.tokenizer.convert_ids_to_tokens(end))[0]
        for token in self._special:  # those with a role, longest first
            text = text.replace(token, "")
        return text if finished else text.rstrip("\N{REPLACEMENT CHARACTER}")

    def offsets(self, prompt: EncodedPrompt, ids: Sequence[int], text: str, finished: bool) -> list[tuple[int, int]]:
        """Characters of `text` for each generated id, also where re-tokenising the text gives other tokens."""
        canonical = self.completions([prompt], [text])[0]
        body = list(ids[:-1]) if finished else list(ids)
        if canonical.ids[:-1] == body:
            return canonical.offsets[: len(ids)]
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
        """The token that ends an answer: the `eos_token`; for a chat, once read, its template's own end of turn."""
        return self.eos_ids[chat]

    def end_with(self, ids: Sequence[int]) -> None:
        """Tokens that end a generated answer besides those that the tokenizer and its template know, see `end_ids`."""
        self._ends = list(dict.fromkeys([self.tokenizer.eos_token_id, *ids]))

    def ends(self, chat: bool) -> list[int]:
        """All tokens that end a generated answer; the first is the one that `completions` closes a text with."""
        return list(dict.fromkeys([self.eos_id(chat), *self._ends])) if chat in self.eos_ids else list(self._ends)

    def closes(self, ids: Sequence[int], chat: bool) -> bool:
        """Whether generated ids came to an end before they were cut."""
        return ids[-1] in self.ends(chat)

    def _render(self, messages: list[dict], **options: bool) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _written(self, prompt: EncodedPrompt, text: str, edges: dict[int, tuple[str, str]]) -> tuple[str, int, int]:
        """Prompt and completion as in training; where the completion's character 0 would be in it; where it ends."""
        if prompt.chat:
            (answer,) = as_completion(prompt.messages, text)
            if id(prompt) not in edges:
                edges[id(prompt)] = around(self._render, prompt.messages, answer)
            if placed := place(self._render, prompt.messages, answer, edges[id(prompt)]):
                return placed.whole, placed.start - placed.skipped, placed.start + placed.kept
        start = len(prompt.text)
        eos = self.tokenizer.convert_ids_to_tokens(self.eos_id(prompt.chat))
        return prompt.text + text + eos, start, start + len(text)

    def _apart(self, prompt: EncodedPrompt, text: str) -> tuple[list[int], list[tuple[int, int]], bool]:
        """Tokens and spans of a completion that follow the prompt's tokens as text; whether they are those of the text
        behind a line break."""
        alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = alone["input_ids"], alone["offset_mapping"], False
        context = prompt.ids[-CONTEXT:]
        wanted = self._plain(context) + text
        if self._plain([*context, *found[0]]) == wanted:
            return found
        more = self.tokenizer(f"\n{text}", add_special_tokens=False, return_offsets_mapping=True)
        tokens = [(i, (a - 1, b - 1)) for i, (a, b) in zip(more["input_ids"], more["offset_mapping"], strict=True)]
        inside = [(i, span) for i, span in tokens if span[0] >= 0 and span[1] > 0]
        ids, spans = [i for i, _ in inside], [span for _, span in inside]
        return (ids, spans, True) if self._plain([*context, *ids]) == wanted else found

    def _end_of_turn(self, messages: list[dict]) -> int:
        if placed := place(self._render, messages, as_completion(messages, "answer")[0]):
            after = placed.whole[placed.start + placed.kept :].lstrip()
            tail = self.tokenizer(after, add_special_tokens=False)["input_ids"]
            if tail and tail[0] in self._marks:
                return tail[0]
        return self.tokenizer.eos_token_id

    @property
    def _marks(self) -> set[int]:
        """Tokens that are no part of a text: the special ones, whether the tokenizer gives them a role or not."""
        return self._reserved()[0]

    @property
    def _special(self) -> list[str]:
        return self._reserved()[1]

    def _reserved(self) -> tuple[set[int], list[str]]:
        """Ids of special tokens, and how those with a role are written; read anew where the tokenizer has changed.

        A word that only pads, as `!` is often told to, is a word all the same.
        """
        tokenizer = self.tokenizer
        state = (len(tokenizer), repr(tokenizer.special_tokens_map))
        if self._read != state:
            special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
            roles = {*tokenizer.all_special_ids, tokenizer.eos_token_id}
            if tokenizer.pad_token_id not in special | {tokenizer.eos_token_id}:
                roles -= {tokenizer.pad_token_id}
            written = {tokenizer.convert_ids_to_tokens(i) for i in roles}
            self._read, self._known = state, (special | roles, sorted(written, key=len, reverse=True))
        return self._known

    def _plain(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _covered(self, prompt: EncodedPrompt, ids: Sequence[int], text: str) -> int:
        part = self.decode(prompt, ids, finished=False)
        return next((i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b), min(len(part), len(text)))

    @staticmethod
    def _close(
        ids: list[int], spans: list[tuple[int, int]], length: int, eos_id: int, behind: bool
    ) -> EncodedCompletion:
        """Make the spans cover the text without gaps and put the end of sequence last, as an empty span."""
        covered, end = [], 0
        for i, (a, b) in enumerate(spans):
            start = min(max(a, 0), end)
            end = length if i == len(ids) - 1 else min(max(b, end), length)
            covered.append((start, end))
        return EncodedCompletion([*ids, eos_id], [*covered, (length, length)], behind)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that cannot supervise.

    Raises:
        ValueError: names the supervisor, the reason and the remedy.
    """
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
    refuse_split_special_tokens(tokenizer, name)
    alone, inside = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    if inside and alone[-len(inside) :] != inside:
        raise ValueError(
            f"{where} adds {tokenizer.convert_ids_to_tokens(alone[-1])!r} after every text, so a prompt would end "
            "before its answer; switch that off (add_eos_token=False, or the post-processor)."
        )


def refuse_split_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that reads `</s>` as the letters `<`, `/`, `s`, `>`: no text would end for it.

    Raises:
        ValueError: names the supervisor and the setting.
    """
    if getattr(tokenizer, "split_special_tokens", False):
        raise ValueError(
            f"supervisor {name!r}: the tokenizer has split_special_tokens=True and reads its special tokens letter by "
            "letter, so it sees neither the end of a text nor the marks of a chat; set "
            "tokenizer.split_special_tokens = False."
        )
