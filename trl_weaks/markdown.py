"""Markdown tables, for cards, reports and the console."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, without a line break at its end; a `|` or a line break within a cell cannot break it.

    >>> print(table(["supervisor", "weight"], [["a|b", 0.5]]))
    | supervisor | weight |
    | --- | --- |
    | a\\|b | 0.5 |
    """
    return "\n".join(_row(cells) for cells in (head, ["---"] * len(head), *rows))


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
