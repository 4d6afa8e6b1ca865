"""What every source of slot-filling data yields: examples, and four splits of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT
from trl_weaks.study.data.prompts import Prompt
from trl_weaks.study.data.targets import Slot, encode_slots


@dataclass(frozen=True)
class Utterance:
    """An utterance and its gold slots, in the order of the utterance; its intent, where the source gives one."""

    id: str
    text: str
    slots: tuple[Slot, ...]
    intent: str = field(default="", repr=False)


@dataclass(frozen=True)
class Splits:
    """Four sets of examples; no normalised text stands in two of them.

    `half_a` is gold for the weak supervisors. Of `half_b` the weak-to-strong methods see the text only; its gold is
    for the ceiling.
    """

    half_a: tuple[Utterance, ...]
    half_b: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    def sizes(self) -> dict[str, int]:
        return {field.name: len(getattr(self, field.name)) for field in fields(self)}


def normalise(text: str) -> str:
    """The letters and digits of a text, case folded: what two texts share that differ in spacing or marks only."""
    return "".join(character for character in text.casefold() if character.isalnum())


def distinct(examples: Iterable[Utterance], seen: Iterable[str] = ()) -> Iterator[Utterance]:
    """The examples whose normalised text is neither in `seen` nor that of an earlier one."""
    known = set(seen)
    for example in examples:
        key = normalise(example.text)
        if key not in known:
            known.add(key)
            yield example


def take(examples: Sequence[Utterance], size: int | None, name: str) -> tuple[Utterance, ...]:
    """The first `size` examples, all of them for `None`.

    Raises:
        ValueError: a size below 1, or more examples asked for than there are.
    """
    if size is None:
        return tuple(examples)
    if size < 1:
        raise ValueError(f"{name}: size {size} is not a positive number of examples")
    if size > len(examples):
        raise ValueError(f"{name}: {size} examples asked for, {len(examples)} distinct ones there; ask for fewer")
    return tuple(examples[:size])


def task_rows(examples: Iterable[Utterance], prompt: Prompt, lead: str = "") -> list[dict[str, str]]:
    """TRL prompt-completion rows with the example's id; the completion is the gold JSON, `lead` before each value."""
    return [
        {EXAMPLE_ID: example.id, PROMPT: prompt(example.text), COMPLETION: encode_slots(example.slots, lead)}
        for example in examples
    ]
