"""Which tokens end an answer: all that the checkpoint's settings and its tokenizer call so (Llama 3 has two)."""

import logging
from typing import Any

from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def end_ids(settings: Any, config: Any, tokenizer: PreTrainedTokenizerBase, name: str, rows: int) -> list[int]:
    """Ids of the tokens that end an answer, the tokenizer's own first.

    They are `eos_token_id` of the tokenizer, of the generation settings and of the model's configuration. A list of
    several is taken as it is. A single id counts where the tokenizer has it as a token added for such a purpose: the
    default that a configuration class brings along is often another, ordinary token of this tokenizer.

    Args:
        settings: the checkpoint's `GenerationConfig`, or None.
        config: the model's configuration.
        name: the supervisor's, for errors and warnings.
        rows: of the embedding; an id beyond cannot be generated.
    """
    found = [tokenizer.eos_token_id]
    places = ("generation_config", "config", "config")
    for where, value in zip(places, told_ends(settings, config), strict=True):
        for token in value:
            if token in found or not 0 <= token < rows:
                continue
            if len(value) > 1 or _is_mark(tokenizer, token):
                found.append(token)
            else:
                logger.warning(
                    "supervisor %r: %s.eos_token_id is %d, which is %r for its tokenizer and ends no answer here; "
                    "answers end with %r. Set it to the token that ends them (a list for several).",
                    name,
                    where,
                    token,
                    tokenizer.convert_ids_to_tokens(token),
                    tokenizer.eos_token,
                )
    return found


def told_ends(settings: Any, config: Any) -> list[list[int]]:
    """What the checkpoint's generation settings, its configuration and the configuration's text part say now."""
    return [_ids(holder) for holder in (settings, config, _text(config))]


def _ids(holder: Any) -> list[int]:
    value = getattr(holder, "eos_token_id", None)
    return [] if value is None else [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def _is_mark(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    other = {tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id} - {tokenizer.eos_token_id}
    return token not in other and token in tokenizer.added_tokens_decoder
