"""A hook of mkdocs: every notebook is a page too, with a link to the file itself."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

NOTEBOOK = re.compile(r"\]\(((?:\.\./)*notebooks/\w+)\.ipynb\)")


def on_files(files: Any, config: Any) -> Any:
    """A page beside each notebook of `docs/notebooks`."""
    for path in sorted((Path(config["docs_dir"]) / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to notebooks, which open where the sources are read, lead to their pages on the site."""
    return NOTEBOOK.sub(r"](\1.md)", markdown)


def page(path: Path) -> str:
    """The cells of a notebook as Markdown."""
    title, *rest = json.loads(path.read_text(encoding="utf-8"))["cells"]
    blocks = ["".join(title["source"]), f"[The notebook itself]({path.name}), to open in Jupyter."]
    for cell in rest:
        text = "".join(cell["source"])
        blocks.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(blocks) + "\n"
