"""A hook of mkdocs: bracketed names in docstrings lead to what is on the same page, and are plain code elsewhere."""

import re
from typing import Any

BRACKETED = re.compile(r"\[(<code>~?(?:[\w.]+\.)?(\w+)</code>)\](?![\[(])")
PLACE = re.compile(r'id="((?:[\w.]+\.)?(\w+))"')
TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")  # of an argument, in transformers' way of writing it
NAME = re.compile(r"\[?`~?(?:[\w.]+\.(?=\w+`\]))?([^`]+)`\]?")


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """The page without the brackets."""
    places = {name: identifier for identifier, name in PLACE.findall(content) if identifier.startswith("trl_weaks.")}

    def link(found: re.Match[str]) -> str:
        shown = f"<code>{found[2]}</code>"
        return f'<a href="#{places[found[2]]}">{shown}</a>' if found[2] in places else shown

    def plain(found: re.Match[str]) -> str:
        words = NAME.sub(r"\1", found[1]).replace("*optional*", "optional")
        return f"<code>{words}</code>"

    return BRACKETED.sub(link, TYPE.sub(plain, content))
