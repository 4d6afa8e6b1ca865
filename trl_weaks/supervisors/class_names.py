"""Classes by name: the order in which a model, a dataset or gold labels list them, and one order for all.

Names are compared without regard to case, white space at their ends and the way accents are encoded. A checkpoint
without names of its own (`LABEL_0`, `LABEL_1`, ...) is taken to list its classes as the others do.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

_UNNAMED = re.compile(r"LABEL_\d+")
_WHOLE, _WITH_POINT, _NUMBER = (re.compile(form) for form in (r"[+-]?\d+", r"([+-]?\d+)\.0+", r"[+-]?\d+(\.\d+)?"))


def names_of(id2label: dict[int, str] | None, count: int) -> list[str] | None:
    """The names of a configuration's classes in their order; None where it has only `LABEL_n`, or not one for each."""
    if not id2label or len(id2label) != count:
        return None
    return real_names([str(id2label[k]) for k in sorted(id2label)])


def real_names(names: Sequence[str]) -> list[str] | None:
    """The names, or None where they only number the classes (`LABEL_0`, or `0` as in `ClassLabel(num_classes=2)`)."""
    numbers = [str(k) for k in range(len(names))]
    return None if list(names) == numbers or all(_UNNAMED.fullmatch(name) for name in names) else list(names)


def order_like(names: Sequence[str], wanted: Sequence[str], who: str, whose: str) -> list[int]:
    """For each wanted class, its place among `names`.

    Args:
        who: whose names these are; `whose`: whose order is wanted, both for messages.

    Raises:
        ValueError: the names are not the same, or one is there twice; says which.

    Example:

    >>> order_like(["No", "yes "], ["yes", "no"], "supervisor 'a'", "supervisor 'b'")
    [1, 0]
    """
    ours, theirs = [plain_name(name) for name in names], [plain_name(name) for name in wanted]
    for listed, owner in ((ours, who), (theirs, whose)):
        twice = [name for name in listed if listed.count(name) > 1]
        if twice:
            raise ValueError(f"{owner} names the class {twice[0]!r} twice; give every class a name of its own.")
    if set(ours) != set(theirs):
        only, missing = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        raise ValueError(
            f"{who} and {whose} name their classes differently: {list(names)} and {list(wanted)} (only the first: "
            f"{only}, only the second: {missing}). Set `config.id2label` to the same names, or to LABEL_0, ... "
            "where the order is known to be the same."
        )
    return [ours.index(name) for name in theirs]


def plain_name(name: str) -> str:
    """The name as it is compared."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def is_whole(name: str) -> bool:
    """Whether the name is a whole number in digits, such as "3" or "-1"."""
    return _WHOLE.fullmatch(name.strip()) is not None


def is_number(name: str) -> bool:
    """Whether the name is a number in digits, with a point or without."""
    return _NUMBER.fullmatch(name.strip()) is not None


def without_point(name: str) -> str:
    """The digits of a whole number that is written with a point; other names as they are.

    pandas holds a column of whole numbers with a gap as floats, and writes 3 as `3.0` to a CSV file.

    Example:

    >>> [without_point(name) for name in ("3.0", "3", "3.5", "yes")]
    ['3', '3', '3.5', 'yes']
    """
    found = _WITH_POINT.fullmatch(name.strip())
    return name if found is None else str(int(found[1]))


def class_id(label: Any, classes: list[Any], example: str) -> int:
    """The place of a gold label among the classes: given by name, or by the place itself.

    Where names are numbers, such as 1 to 5 stars, a number is a name, as it is among votes; "3.0" is then "3", unless
    a class is called "3.0".

    Raises:
        ValueError: it is no class; names the example.
    """
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, float) and label.is_integer():  # pandas' column of whole numbers with gaps
        label = int(label)
    if isinstance(label, str | int) and not isinstance(label, bool):
        written = [plain_name(str(name)) for name in classes]
        given = plain_name(str(label))
        for name in (given, without_point(given)):
            if written.count(name) == 1:
                return written.index(name)
        if isinstance(label, int) and 0 <= label < len(classes) and not numbered(classes):
            return label
    raise ValueError(f"gold label {label!r} of {example!r} is not a class; the classes are {classes}.")


def numbered(classes: Collection[Any]) -> bool:
    """Whether a class has a number for its name, so that a number cannot stand for the place of another one."""
    return any(is_number(str(name)) for name in classes)
