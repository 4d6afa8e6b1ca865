"""Numbers in a text that no reader wants."""

import re

_RAW = re.compile(r"(?<![\d.])(?!\d{4}\.\d{5}\b)\d+\.0*[1-9]\d{4,}")  # 2405.15116 is a paper of arXiv
_NO_NUMBER = re.compile(r"(?<![\w/.])[-+−]?(?:nan|inf|None|null)(?![\w/.])")


def unreadable(text: str) -> list[str]:
    """The lines of a report with `nan`, `inf`, `None`, or five or more digits after the point of a number."""
    return [
        line
        for line in text.splitlines()
        if _RAW.search(line) or (_NO_NUMBER.search(line) and "null stands for an infinity" not in line)
    ]
