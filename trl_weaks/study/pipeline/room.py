"""Whether prompts and answers fit into a model, asked before anything is trained."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT, TEXT
from trl_weaks.study.pipeline.models import Reader

Rows = Sequence[Mapping[str, Any]]
REMEDY = "raise `max_length` in `tiny_models`, shorten what the task gives, or choose a model with more positions."


def check_room(
    who: str, reader: Reader, prompts: Mapping[str, Rows], gold: Mapping[str, Rows], max_new_tokens: int
) -> None:
    """
    Args:
        who: whose reader it is, for messages.
        prompts: by split, rows that are answered, in `max_new_tokens` at most.
        gold: by split, rows with an answer.

    Raises:
        ValueError: a prompt and its answer are longer than the model; names split, example, lengths and the remedy.
            Prompts are messages, and the tokenizer has no chat template.

    Warns:
        where gold answers are longer than `max_new_tokens`, so that no model could give them.
    """
    for split, rows in prompts.items():
        lengths = _lengths(who, reader, split, rows)
        longest = max(range(len(rows)), key=lengths.__getitem__, default=0)
        if rows and lengths[longest] + max_new_tokens > reader.positions:
            raise ValueError(
                f"`{split}`, example {rows[longest][EXAMPLE_ID]!r}: its prompt has {lengths[longest]} tokens for {who}"
                f", its answer may have {max_new_tokens}: more than the {reader.positions} positions of {reader.kind}"
                f". Lower `max_new_tokens`, {REMEDY}"
            )
    for split, rows in gold.items():
        _check_gold(who, reader, split, rows, max_new_tokens)


def _check_gold(who: str, reader: Reader, split: str, rows: Rows, max_new_tokens: int) -> None:
    before = _lengths(who, reader, split, rows)
    texts = [_text(row[COMPLETION]) for row in rows]
    after = _counts(reader.tokenizer(texts, add_special_tokens=False)["input_ids"]) if rows else []
    for row, prompt, answer in zip(rows, before, after, strict=True):
        if prompt + answer + 1 > reader.positions:
            raise ValueError(
                f"`{split}`, example {row[EXAMPLE_ID]!r}: it has {prompt} tokens of prompt and {answer} of completion "
                f"(and an end) for {who}: more than the {reader.positions} positions of {reader.kind}. Leave the "
                f"example out, {REMEDY}"
            )
    cut = sum(answer > max_new_tokens for answer in after)
    if cut:
        warnings.warn(
            f"`{split}`: {cut} of {len(after)} gold completions have more than `max_new_tokens`, {max_new_tokens}, "
            f"tokens of {reader.kind}: no model can give them in full. Raise `max_new_tokens`.",
            stacklevel=3,
        )


def check_texts(who: str, reader: Reader, parts: Mapping[str, Rows]) -> None:
    """
    Args:
        parts: by split, the texts that a classifier reads.

    Raises:
        ValueError: a text is longer than the classifier; names split, example, lengths and the remedy.
    """
    limit = min(reader.positions, reader.tokenizer.model_max_length)
    for split, rows in parts.items():
        for row, length in zip(rows, _lengths(who, reader, split, rows, TEXT), strict=True):
            if length > limit:
                raise ValueError(
                    f"`{split}`, example {row[EXAMPLE_ID]!r}: its text has {length} tokens for {who}: more than the "
                    f"{limit} that {reader.kind} reads. Leave the example out, {REMEDY}"
                )


def _lengths(who: str, reader: Reader, split: str, rows: Rows, column: str = PROMPT) -> list[int]:
    """Tokens of each prompt, or text."""
    if not rows:
        return []
    texts, tokenizer = [row[column] for row in rows], reader.tokenizer
    if not isinstance(texts[0], str):
        if tokenizer.chat_template is None:
            raise ValueError(
                f"`{split}`: the {column} of example {rows[0][EXAMPLE_ID]!r} is messages, and the tokenizer of "
                f"{tokenizer.name_or_path or 'a tiny model'} ({who}) has no chat template. Give text, or name models "
                "with one."
            )
        ask = column == PROMPT
        texts = [tokenizer.apply_chat_template(one, add_generation_prompt=ask, tokenize=False) for one in texts]
    return _counts(tokenizer(texts)["input_ids"])


def _counts(rows: Iterable[Sequence[int]]) -> list[int]:
    return [len(row) for row in rows]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
