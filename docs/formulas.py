"""A hook of mkdocs: formulas become MathML when the site is built, so that a page needs no script for them."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
FUNCTION = re.compile(r"(<mi>(?:log|exp|max|min)</mi>)(?!<mo[^>]*>&#x00028;)")


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """The page with its formulas drawn by the browser.

    Raises:
        ValueError: a formula was left as it is written.
    """
    found = FORMULA.sub(lambda match: mathml(html.unescape(match[2]), match[1] == "div"), content)
    if "arithmatex" in found:
        raise ValueError(f"{page.file.src_uri}: a formula is not between \\( and \\), or \\[ and \\].")
    return found


def mathml(latex: str, block: bool) -> str:
    """A formula; a function's name stands apart from its argument."""
    made = convert(latex.strip(), display="block" if block else "inline")
    return FUNCTION.sub(r'\1<mspace width="0.167em" />', made)
