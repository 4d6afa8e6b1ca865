"""A hook of mkdocs: tables of what is registered, made of the registries themselves."""

import inspect
import re
from typing import Any

PLACE = re.compile(r"^<!-- registry: (\w+) -->$", re.M)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put a table where a page asks for one."""
    return PLACE.sub(lambda found: table(found[1]), markdown)


def table(name: str) -> str:
    """Names and first sentences of a registry, or of the settings of all trainers."""
    from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS
    from trl_weaks.losses import LOSSES

    registry = {"losses": LOSSES, "aggregators": AGGREGATORS, "completion_aggregators": COMPLETION_AGGREGATORS}[name]
    rows = [f"| `{key}` | {first_sentence(registry[key])} |" for key in registry.names()]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def first_sentence(entry: Any) -> str:
    """Of an entry's documentation, or of the function that it wraps; on one line."""
    wrapped = [value for value in vars(entry).values() if inspect.isfunction(value)] if not callable(entry) else []
    text = " ".join((inspect.getdoc((wrapped or [entry])[0]) or "").partition("\n\n")[0].split())
    found = re.match(r".*?(?<!App)[.](?= [A-Z]|$)", text)
    return (found[0] if found else text).replace("|", "\\|").replace("[`", "`").replace("`]", "`")
