"""How a command says what is wrong: every message behind one prefix, with the nearest name that there is."""

import argparse
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

PREFIX = "trl-weaks: error: "  # as argparse writes it, whichever command it was


def stop(problem: object) -> NoReturn:
    """End with the message, and with status 1."""
    sys.exit(f"{PREFIX}{problem}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name that is nearest, or nothing where none is near.

    Example:

    >>> did_you_mean("slurb", ["tiny", "slurp"])
    " Did you mean 'slurp'?"
    """
    near = get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Parser(argparse.ArgumentParser):
    """A parser whose own errors look like all the others: usage, then one line; status 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{PREFIX}{message}\n")
