"""Prompts of the slot-filling task.

Every prompt ends with a newline. A byte-level BPE cuts its text into runs of letters, digits, marks and white space
before it merges, so a prompt that ends in ":" would put ':{"' into one run: the first token of the answer would then
depend on the prompt's last character, and tokens of prompt and completion could not be told apart. A newline is a run
of its own (or closes the run before it), so that the answer always starts on a token of its own.
"""

from collections.abc import Callable, Sequence
from typing import Literal

Prompt = Callable[[str], str]

# A byte-level BPE writes a word in the middle of a sentence with its space in front, and a word after a quotation mark
# without it: other tokens for the same word, so that copying is no longer copying. A small model learns it only where
# the value, too, begins with a space. Large models need no help; the paper's format has none.
FILLER_LEAD = {"paper": "", "short": " "}

_PAPER = """USER: Consider the following list of slot types provided to you:
{types}
Now consider the following sentence(s) containing one or more of the above slot types. Can you extract slots \
belonging to that slot list and their values in json format i.e. {{"slot type": "value"}}? ONLY print out the json, \
or only print {{}} if no slot.
"{utterance}"
ASSISTANT:
"""


def build_prompt(style: Literal["paper", "short"], slot_types: Sequence[str]) -> Prompt:
    """A function from an utterance to its prompt.

    Args:
        style: `"paper"`, the prompt of Cui et al. (arXiv 2406.03199, Appendix F), which lists the slot types as quoted
            keys; `"short"`, the utterance alone behind a space (see `FILLER_LEAD`), for models trained from
            scratch on a few thousand rows (ours).
        slot_types: the task's slot types in the order to list them.

    Raises:
        ValueError: an unknown style, or slot types that are empty, repeated or hold a quotation mark.
    """
    if not slot_types or len(set(slot_types)) < len(slot_types) or any(not t or '"' in t for t in slot_types):
        raise ValueError(f"slot types must be distinct, not empty and without quotation marks, not {list(slot_types)}")
    if style == "short":
        return lambda utterance: f" {utterance}\n"
    if style == "paper":
        types = ", ".join(f'"{slot_type}"' for slot_type in slot_types)
        return lambda utterance: _PAPER.format(types=types, utterance=utterance)
    raise ValueError(f"prompt style {style!r}: choose 'paper' or 'short'")
