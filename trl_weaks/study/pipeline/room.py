"""Whether prompts and answers fit into a model, asked before anything is trained."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT


def check_room(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Mapping[str, Any]],
    gold: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
) -> None:
    """
    Args:
        model: its config tells the number of positions; one without a limit has room for everything.
        tokenizer: the model's.
        prompts: rows that are answered, in `max_new_tokens` at most.
        gold: rows with an answer.

    Raises:
        ValueError: a prompt and its answer are longer than the model; names the example and the remedy. Prompts are
            messages, and the tokenizer has no chat template.

    Warns:
        where gold answers are longer than `max_new_tokens`, so that no model could give them.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or float("inf")
    lengths = _lengths(tokenizer, prompts)
    if lengths and max(lengths.values()) + max_new_tokens > positions:
        longest = max(lengths, key=lengths.__getitem__)
        raise ValueError(
            f"The prompt of example {longest!r} has {lengths[longest]} tokens, its answer may have {max_new_tokens}: "
            f"more than the {positions} positions of {model.config.model_type}. Lower `max_new_tokens`, raise "
            "`max_length` in `tiny_models`, shorten the prompts, or choose a model with more positions."
        )
    _check_gold(model.config.model_type, positions, tokenizer, gold, max_new_tokens)


def _check_gold(
    kind: str,
    positions: float,
    tokenizer: PreTrainedTokenizerBase,
    gold: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
) -> None:
    before = _lengths(tokenizer, gold)
    answers = (
        tokenizer([_text(row[COMPLETION]) for row in gold], add_special_tokens=False)["input_ids"] if gold else []
    )
    for row, ids in zip(gold, answers, strict=True):
        name = row[EXAMPLE_ID]
        if before[name] + len(ids) + 1 > positions:
            raise ValueError(
                f"Example {name!r} has {before[name]} tokens of prompt and {len(ids)} of completion: more than the "
                f"{positions} positions of {kind}. Raise `max_length` in `tiny_models`, choose a "
                "model with more positions, or leave the example out."
            )

    cut = sum(len(ids) > max_new_tokens for ids in answers)
    if cut:
        warnings.warn(
            f"{cut} of {len(answers)} gold completions have more than `max_new_tokens`, {max_new_tokens}, tokens of "
            f"{kind}: no model can give them in full. Raise `max_new_tokens`.",
            stacklevel=3,
        )


def _lengths(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Id of an example -> number of tokens of its prompt."""
    if not rows:
        return {}
    texts = [row[PROMPT] for row in rows]
    if not isinstance(texts[0], str):
        if tokenizer.chat_template is None:
            raise ValueError(
                f"The prompt of example {rows[0][EXAMPLE_ID]!r} is messages, and the tokenizer of "
                f"{tokenizer.name_or_path or 'a tiny model'} has no chat template. Give text, or name models with one."
            )
        texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in texts]
    ids = tokenizer(texts)["input_ids"]
    return {row[EXAMPLE_ID]: len(one) for row, one in zip(rows, ids, strict=True)}


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
