"""A hook of mkdocs: beside every page its Markdown, and `llms.txt`, which lists them for readers that are programs."""

import re
from pathlib import Path
from typing import Any

INCLUDED = re.compile(r'^--8<-- "(.*)"$', re.M)  # of pymdownx.snippets, from the folder of mkdocs.yml
_PAGES: list[tuple[str, str, str]] = []


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Note the page, and leave its text as it is."""
    _PAGES.append((page.file.src_uri, page.title or page.file.src_uri, markdown))
    return markdown


def on_post_build(config: Any) -> None:
    """Write the twins and their list."""
    site = Path(config["site_dir"])
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}", "", "## Pages", ""]
    for name, title, markdown in _PAGES:
        target = site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = INCLUDED.sub(lambda found: Path(found[1]).read_text("utf-8"), markdown)
        target.write_text(text, encoding="utf-8")
        lines.append(f"- [{title}]({name})")
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _PAGES.clear()
