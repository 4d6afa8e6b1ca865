"""A hook of mkdocs: bracketed names in docstrings lead to what is on the same page, and are plain code elsewhere."""

import re
from typing import Any

BRACKETED = re.compile(r"\[(<code>~?(?:[\w.]+\.)?(\w+)</code>)\](?![\[(])")
PLACE = re.compile(r'id="((?:[\w.]+\.)?(\w+))"')


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """The page without the brackets."""
    places = {name: identifier for identifier, name in PLACE.findall(content) if identifier.startswith("trl_weaks.")}

    def link(found: re.Match[str]) -> str:
        shown = f"<code>{found[2]}</code>"
        return f'<a href="#{places[found[2]]}">{shown}</a>' if found[2] in places else shown

    return BRACKETED.sub(link, content)
