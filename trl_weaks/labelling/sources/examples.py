"""The examples that votes, answers and comparisons are about: one row each, with an id that joins them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ... import columns
from ...supervisors.reading.messages import before_last_answer, check_prompts
from ..prompt_columns import MESSAGES
from .tables import Table, as_id, read_table

WRITTEN = {*columns.WEAK, columns.COMPLETION}


def read_examples(
    examples: Table, texts: Sequence[str] = (columns.PROMPT,), written: Collection[str] = WRITTEN
) -> dict[str, dict[str, Any]]:
    """The rows by id, in their order.

    Where the table has no column `example_id`, the row's number is its id. Where it has `messages` and no prompt,
    the last turn of the assistant is what is asked for, and what stands before it becomes the prompt.

    Args:
        texts: columns that may hold the text; every row needs the first of them that the table has.
        written: columns that labels write, which the examples must not have.

    Raises:
        ValueError: no rows, an id that is there twice or is none, a text that is missing or empty, or a taken column.
    """
    rows = read_table(examples, "examples", ())
    if columns.PROMPT in texts and not any(name in row for row in rows for name in texts):
        rows = [_asked(row, number) for number, row in enumerate(rows)]
    have_ids = any(columns.EXAMPLE_ID in row for row in rows)
    text = next((name for name in texts if any(name in row for row in rows)), texts[0])
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        for name in ([columns.EXAMPLE_ID] if have_ids else []) + [text]:
            if name not in row:
                raise ValueError(
                    f"examples, row {number}: there is no column {name!r}; it needs {' or '.join(texts)}, and may "
                    f"have {columns.EXAMPLE_ID} (in all rows or in none), and has {', '.join(map(str, row))}."
                )
        example = str(number)
        if have_ids:
            example = as_id(row[columns.EXAMPLE_ID], "examples", number, columns.EXAMPLE_ID)
        if example in found:
            raise ValueError(f"examples, row {number}: {example!r} is there twice; give every example its own id.")
        if not row[text]:
            raise ValueError(
                f"examples, row {number} (example_id {example!r}): column {text!r} is empty. Write a text, or drop "
                "the row."
            )
        if isinstance(row[text], bytes) or not isinstance(row[text], Iterable):
            raise ValueError(
                f"examples, row {number} (example_id {example!r}): column {text!r} holds {row[text]!r}, which is no "
                "text. Write it as text."
            )
        taken = sorted(set(row) & set(written))
        if taken:
            raise ValueError(f"examples have a column {taken[0]!r}, which labels write; rename or remove it.")
        found[example] = {columns.EXAMPLE_ID: example} | row | {columns.EXAMPLE_ID: example}
        found[example].pop(columns.TRAIN_WEIGHT, None)  # judged other labels than those to come
    return found


def read_prompts(examples: Table) -> dict[str, dict[str, Any]]:
    """As `read_examples`, with prompts that can be asked: all text, or all messages.

    Raises:
        ValueError: as `read_examples`, or a prompt that is neither, or already answered (row and id).
    """
    found = read_examples(examples)
    names = [f"examples, row {number} (example_id {example!r})" for number, example in enumerate(found)]
    check_prompts([row[columns.PROMPT] for row in found.values()], names)
    return found


def _asked(row: dict[str, Any], number: int) -> dict[str, Any]:
    if MESSAGES not in row:
        return row
    asked = before_last_answer(row[MESSAGES], f"examples, row {number}")
    return {name: value for name, value in row.items() if name != MESSAGES} | {columns.PROMPT: asked}
