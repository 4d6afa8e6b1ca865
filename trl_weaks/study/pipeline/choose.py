"""Methods by name, as a command line gives them."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

Method = TypeVar("Method")


def choose_methods(
    names: Sequence[str], known: Mapping[str, Method], headline: Sequence[str], always: Collection[str] = ()
) -> list[Method]:
    """Methods by name, each once; `all` and `headline` stand for their lists.

    Args:
        names: what the user asked for.
        known: every method by name.
        headline: names of the rows a first run shows.
        always: names of rows that are there anyway; naming them is allowed and changes nothing.

    Raises:
        ValueError: a name is unknown; lists the known ones.
    """
    wanted: dict[str, Method] = {}
    for name in names:
        group = known if name == "all" else headline if name == "headline" else [name]
        for one in group:
            if one in known:
                wanted[one] = known[one]
            elif one not in always:
                raise ValueError(f"Unknown method {one!r}. Known: headline, all, {', '.join([*known, *always])}.")
    return list(wanted.values())
