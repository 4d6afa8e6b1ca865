"""Answers that nobody trained a student for: the supervisors' joint one, and a student's that reads examples in its
prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT

Row = Mapping[str, Any]
SEPARATOR = "\n\n"  # between examples in a prompt of text; *ours*


def with_shots(prompt: Any, shots: Sequence[Row]) -> Any:
    """A prompt behind examples of prompt and completion, as text or as turns of a conversation.

    >>> with_shots("3+4=", [{"prompt": "1+1=", "completion": "2"}])
    '1+1=2\\n\\n3+4='
    """
    if isinstance(prompt, str):
        return SEPARATOR.join([*(shot[PROMPT] + shot[COMPLETION] for shot in shots), prompt])
    turns = [message for shot in shots for message in (*shot[PROMPT], *shot[COMPLETION])]
    system = prompt[0] if prompt and prompt[0]["role"] == "system" else None
    if system is not None:  # once, in front: templates refuse it elsewhere
        turns = [system, *(turn for turn in turns if turn["role"] != "system")]
        prompt = prompt[1:]
    return [*turns, *prompt]


def first_answer(text: str, shots: Sequence[Row]) -> str:
    """An answer up to where a model that reads examples would go on with one of its own.

    >>> first_answer("7\\n\\n5+5=10", [{"prompt": "1+1=", "completion": "2"}])
    '7'
    """
    answers = [shot[COMPLETION] for shot in shots]
    if not shots or any(not isinstance(one, str) or SEPARATOR in one for one in answers):
        return text  # nothing to go on with; turns end by themselves; an answer may hold the separator
    return text.split(SEPARATOR)[0]


def joint_answers(labels: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The completion of every row among labels of mode `joint`; "" where all supervisors said nothing."""
    found = {row[EXAMPLE_ID]: _text(row[COMPLETION]) for row in labels}
    return [found.get(row[EXAMPLE_ID], "") for row in rows]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)
