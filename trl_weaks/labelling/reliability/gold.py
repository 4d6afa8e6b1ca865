"""Gold labels of some examples, joined to weak ones by id."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ...columns import CLASSES, COMPLETION, EXAMPLE_ID, LABEL
from ...supervisors.class_names import real_names, without_point
from ..sources.tables import Table, read_table, refuse_broken_text

logger = logging.getLogger(__name__)
Gold = Mapping[str, Any] | Table


def read_gold(gold: Gold, known: Collection[str]) -> dict[str, Any]:
    """Gold labels by id: class ids or names, or texts.

    Args:
        gold: a table of `example_id` and `label` (or `completion`), or a mapping from ids to them.
        known: the ids that weak labels have.

    Raises:
        ValueError: no gold, missing columns, an id that no weak label has, two labels of one id, or text that is no
            Unicode (named).
    """
    if not isinstance(gold, Mapping):
        gold = _rows(gold) if not hasattr(gold, "__len__") or len(gold) else {}
    if not gold:
        raise ValueError("gold is empty; give labels of a random sample of the examples.")
    written = [_as_written(example, known) for example in gold]
    if len(set(written)) < len(written):
        raise ValueError(
            f"gold has the id {next(e for e in written if written.count(e) > 1)!r} as text and as a number."
        )
    gold = dict(zip(written, gold.values(), strict=True))
    for example, label in gold.items():
        refuse_broken_text(example, "gold: an id")
        refuse_broken_text(label, f"gold: the label of {example!r}")
    unknown = [example for example in gold if example not in known]
    if unknown:
        raise ValueError(f"gold has the id {unknown[0]!r}, which no label has ({len(unknown)} such ids).")
    return {example: _text(label) for example, label in gold.items()}


def gold_texts(gold: Gold, known: Collection[str]) -> dict[str, str]:
    """Gold answers by id, where labels are completions; a whole number stands for its digits.

    Text is compared as written. Where all of it looks as tables with gaps write whole numbers, a warning says so.

    Raises:
        ValueError: as [`read_gold`], or an answer that is no text (named).
    """
    found = read_gold(gold, known)
    for example, answer in found.items():
        if isinstance(answer, int | np.integer) and not isinstance(answer, bool):
            found[example] = str(answer)
        elif not isinstance(answer, str):
            raise ValueError(f"gold answer {answer!r} of {example!r} is no text; correct it, or drop it.")
    if all(without_point(answer) != answer for answer in found.values()):
        example, answer = next(iter(found.items()))
        logger.warning(
            "Every gold answer is a whole number with a point, as tables with gaps write it: %r of %r is not %s. "
            "Where whole numbers are meant, write them without a point.",
            answer,
            example,
            without_point(answer),
        )
    return found


def _as_written(example: Any, known: Collection[str]) -> Any:
    """A whole number as labels write it, in digits."""
    if isinstance(example, float | np.floating) and float(example).is_integer():  # pandas' whole numbers with gaps
        example = int(example)
    number = isinstance(example, int | np.integer) and not isinstance(example, bool)
    return str(example) if number and example not in known else example


def class_names(labels: Dataset, count: int) -> list[Any]:
    """Names of the classes in the order of the votes: of the column `weak_classes`, or of `label`; else their ids."""
    if CLASSES in labels.column_names and len(labels) and labels[0][CLASSES]:
        return list(labels[0][CLASSES])
    feature = labels.features.get(LABEL)
    named = isinstance(feature, ClassLabel) and real_names(feature.names)
    return list(feature.names) if named else list(range(count))


def _rows(gold: Table) -> dict[str, Any]:
    rows = read_table(gold, "gold", ())
    column = next((name for name in (LABEL, COMPLETION) if name in rows[0]), None)
    if column is None or EXAMPLE_ID not in rows[0]:
        raise ValueError(
            f"gold has the columns {list(rows[0])}; it needs {EXAMPLE_ID!r} and {LABEL!r} or {COMPLETION!r}."
        )
    found: dict[str, Any] = {}
    for row, (example, label) in enumerate((row.get(EXAMPLE_ID), row.get(column)) for row in rows):
        if found.setdefault(example, label) != label:
            raise ValueError(f"gold row {row}: {example!r} is {label!r} here and {found[example]!r} before.")
    return found


def _text(label: Any) -> Any:
    """Messages stand for the text of their last one."""
    return label[-1]["content"] if isinstance(label, list) else label
