"""An id stands for one prompt: rows that share it are merged, so two prompts would be taken for one example."""

import json
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from ... import columns

SHOWN = 40  # characters of a prompt in an error
REMEDY = (
    "Give every labelling ids of its own before they are concatenated, such as "
    '`labels.map(lambda row: {"example_id": f"a/{row[\'example_id\']}"})`; of rows of one example, with '
    "`renormalise_weights` after it."
)


class PromptsById:
    """Sees rows one after another, and keeps the row and a hash of the prompt of each id, not the prompt."""

    def __init__(self, column: str = columns.PROMPT):
        self.column = column
        self._first: dict[Any, tuple[int, int]] = {}

    def see(self, number: int, row: Mapping[str, Any]) -> int | None:
        """The earlier row of this id and prompt, or None.

        Raises:
            ValueError: an earlier row has this id and another prompt; names both rows, the id and the remedy.
        """
        example, prompt = row[columns.EXAMPLE_ID], row[self.column]
        told = hash(prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr))
        earlier, same = self._first.setdefault(example, (number, told))
        if told != same:
            raise ValueError(
                f"Row {number} (example {example!r}), column '{self.column}': {_shown(prompt)} is another "
                f"{self.column} than that of row {earlier}, which has the same '{columns.EXAMPLE_ID}', so the two "
                f"would be taken for one example. {REMEDY}"
            )
        return None if earlier == number else earlier


def refuse_shared_ids(labels: Dataset, one_row: bool = False) -> None:
    """Refuse labels in which an id stands for two prompts (or texts); without a column of them nothing can be seen.

    Args:
        one_row: whether an id may not be repeated at all, as in labels of classes.

    Raises:
        ValueError: there is such an id; names it, its rows and the remedy.
    """
    classes = one_row or columns.WEAK_PROBS in labels.column_names
    names = (columns.TEXT, columns.PROMPT) if classes else (columns.PROMPT,)
    column = next((name for name in names if name in labels.column_names), columns.EXAMPLE_ID)
    if column == columns.EXAMPLE_ID and not one_row:
        return
    seen = PromptsById(column)
    for number, row in enumerate(labels.with_format(None).select_columns(sorted({columns.EXAMPLE_ID, column}))):
        earlier = seen.see(number, row)
        if one_row and earlier is not None:
            raise ValueError(
                f"Row {number}: column '{columns.EXAMPLE_ID}' repeats {row[columns.EXAMPLE_ID]!r} of row {earlier}; "
                "give every example one row, with the votes of all its supervisors, and an id of its own."
            )


def _shown(prompt: Any) -> str:
    text = repr(prompt)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
