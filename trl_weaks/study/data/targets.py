"""Slots and the JSON text a model writes for them.

One object, one key per slot type, keys in the order in which the types first occur; the fillers of a repeated type are
joined by " & " (Cui et al., arXiv 2406.03199, Appendix F; the join is the authors' code). A filler that itself holds a
stand-alone "&" is kept apart by lengthening the mark: every white-space-delimited run of k ampersands in a filler is
written with k + 1 and read back with k. "at&t" has no stand-alone mark and stays as it is.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

Slot = tuple[str, str]

JOIN = " & "
_SEPARATOR = re.compile(r"(?<!\S)&(?!\S)")
_MARKS = re.compile(r"(?<!\S)&+(?!\S)")
_ESCAPED = re.compile(r"(?<!\S)&(&+)(?!\S)")


class _Object(list):
    """The (key, value) pairs of a JSON object: keeps duplicate keys, and tells an object from a list."""


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=lambda constant: None
)


def encode_slots(slots: Iterable[Slot], lead: str = "") -> str:
    """The completion for a list of (type, filler) slots; `{}` when there is none.

    Fillers are stripped. Reading back gives the same slots, those of one type side by side.

    Args:
        slots: in the order of the utterance.
        lead: white space in front of every value, see `prompts.FILLER_LEAD`; reading strips it.

    Raises:
        ValueError: an empty type, or a filler that is empty or only white space.
    """
    values: dict[str, str] = {}
    for slot_type, filler in slots:
        if not slot_type or not filler.strip():
            raise ValueError(f"slot ({slot_type!r}, {filler!r}): a type and a filler must have text; drop empty slots")
        escaped = _MARKS.sub(r"\g<0>&", filler.strip())
        values[slot_type] = values[slot_type] + JOIN + escaped if slot_type in values else escaped
    return json.dumps({slot_type: lead + value for slot_type, value in values.items()}, ensure_ascii=False)


def decode_slots(completion: str) -> tuple[list[Slot], bool]:
    """The slots a completion states, and whether it could be read.

    The completion must begin with a JSON object, white space aside; anything after the object is ignored (a model that
    did not stop). Otherwise the answer is `([], False)`, an empty prediction which the caller counts. In the object:

    - a string is split at stand-alone "&", the pieces are stripped, empty pieces are dropped;
    - a number stands for its own spelling;
    - a list, nested or not, stands for its members in order;
    - `true`, `false`, `null`, `NaN`, `Infinity` and an object as a value say nothing and are dropped;
    - a duplicate key adds its fillers to the earlier ones;
    - types are taken as they are: an unknown one is an error of the model, for the metric to count.
    """
    try:
        value, _ = _DECODER.raw_decode(completion.lstrip())
    except (ValueError, RecursionError):
        return [], False
    if not isinstance(value, _Object):
        return [], False
    return [(_utf8(slot_type), filler) for slot_type, entry in value for filler in _fillers(entry)], True


def _fillers(entry: Any) -> Iterable[str]:
    if isinstance(entry, str):
        pieces = (piece.strip() for piece in _SEPARATOR.split(entry))
        yield from (_ESCAPED.sub(r"\1", _utf8(piece)) for piece in pieces if piece)
    elif isinstance(entry, list) and not isinstance(entry, _Object):
        for member in entry:
            yield from _fillers(member)


def _utf8(text: str) -> str:
    """A lone surrogate, which JSON can spell, cannot be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")
