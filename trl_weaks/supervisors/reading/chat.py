"""What a chat template makes of an answer: where it writes it, and the white space that it trims (Llama 3, Gemma)."""

from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

MARK = "\ue000"  # stands for an answer that no template knows


@dataclass(frozen=True)
class Placed:
    """An answer in its conversation.

    Attributes:
        whole: the conversation as the template writes it, answer included.
        start: where the answer's characters begin in it.
        skipped: characters at the beginning of the answer that the template leaves out.
        kept: characters of the answer that it writes.
    """

    whole: str
    start: int
    skipped: int
    kept: int


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], supervisor: str, name: str, **options: bool
) -> str:
    """Messages as the tokenizer's chat template writes them.

    Args:
        supervisor, name: whose tokenizer it is and which messages they are, for errors.
        options: of `apply_chat_template`.

    Raises:
        ValueError: no chat template, or one that refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"{name}: messages, but the tokenizer of supervisor {supervisor!r} has no chat template; set "
            "tokenizer.chat_template, or give text."
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise ValueError(
            f"{name}: the chat template of supervisor {supervisor!r} refuses these messages: {error}. Change them "
            "(their roles and order, say), or remove the row."
        ) from error


def around(render: Callable[[list[dict]], str], prompt: list[dict], answer: dict) -> tuple[str, str]:
    """What the template writes before an answer to the prompt, and after it.

    Args:
        render: applies the template to messages.
        answer: the message that follows the prompt; its content is not looked at.
    """
    before, _, after = render([*prompt, {**answer, "content": MARK}]).rpartition(MARK)
    return before, after


def place(
    render: Callable[[list[dict]], str], prompt: list[dict], answer: dict, edges: tuple[str, str] | None = None
) -> Placed | None:
    """Find an answer in its conversation, or None where the template changes more than the white space around it.

    Args:
        edges: what `around` gives for this prompt, where it is known.
    """
    before, after = edges or around(render, prompt, answer)
    whole, text = render([*prompt, answer]), answer["content"]
    kept = whole[len(before) : len(whole) - len(after)]
    if whole != before + kept + after or kept.strip() != text.strip() or kept not in text:
        return None
    return Placed(whole, len(before), text.index(kept), len(kept))
