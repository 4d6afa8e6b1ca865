"""Prompts and completions as text or as messages: which is which, and what is refused."""

from collections.abc import Sequence

Prompt = str | list[dict]
Completion = str | list[dict]


def is_messages(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(m, dict) and "role" in m and "content" in m for m in value)


def check_prompts(prompts: Sequence[Prompt], names: Sequence[str], what: str = "column 'prompt'") -> None:
    """Refuse empty prompts, prompts of another type, and text mixed with messages.

    Args:
        what: what messages call a prompt.

    Raises:
        ValueError: names the first offending prompt.
    """
    kinds = set()
    for prompt, name in zip(prompts, names, strict=True):
        if isinstance(prompt, str):
            kinds.add("text")
            empty = prompt == ""
        elif is_messages(prompt):
            kinds.add("messages")
            empty = not prompt
            wrong = next((m["content"] for m in prompt if not isinstance(m["content"], str)), "")
            if wrong != "":
                raise ValueError(
                    f"{name}: {what} has a message whose content is {wrong!r}, which is no text; write it as "
                    "text, or drop the row."
                )
            if prompt and prompt[-1]["role"] == "assistant":
                raise ValueError(
                    f"{name}: {what} ends with an assistant message, so there is nothing to answer; move "
                    "that message to the completion."
                )
        else:
            raise ValueError(
                f"{name}: {what} holds a {type(prompt).__name__}; it must be a string or a list of messages "
                "with 'role' and 'content'."
            )
        if empty:
            raise ValueError(f"{name}: {what} is empty; remove the row or write a prompt.")
        if len(kinds) > 1:
            raise ValueError(
                f"{name}: {what} mixes text and messages; label conversational and text prompts in two runs."
            )


def before_last_answer(messages: object, name: str) -> list[dict]:
    """What a whole conversation asks for: all before its last message, where that is the assistant's; else all of it.

    Raises:
        ValueError: no messages, or nothing before the assistant's.
    """
    if not is_messages(messages) or not messages:
        raise ValueError(
            f"{name}: column 'messages' holds {messages!r}, not a list of messages with role and content."
        )
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not asked:
        raise ValueError(f"{name}: column 'messages' has nothing before the assistant's message, so nothing is asked.")
    return asked


def completion_text(completion: Completion, name: str) -> str:
    """The text of a completion: itself, or the content of its single assistant message."""
    if isinstance(completion, str):
        return completion
    if is_messages(completion) and len(completion) == 1 and isinstance(completion[0]["content"], str):
        return completion[0]["content"]
    raise ValueError(f"{name}: column 'completion' must be a string or a list of one message with text content.")


def as_completion(prompt: Prompt, text: str) -> Completion:
    """The completion in the prompt's own form, as TRL expects it."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
