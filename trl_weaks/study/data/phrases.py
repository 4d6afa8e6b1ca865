"""A small notation for phrases: `one | two`, `(a|b|)`, `<rule>`, `{slot}`; and their random expansion.

A new line is a choice too, and choices are equally likely; white space around a choice does not count. Pieces stand
side by side as written, so that `<a><b>` is one word; runs of white space become one space in the expansion.
"""

import random
import re
from collections.abc import Callable, Mapping

_TOKEN = re.compile(r"[<{]\w+[>}]|[(|)]|[^<>{}(|)]+")

Piece = str | tuple[str, str] | list["Phrase"]  # words | ("<" or "{", name) | choices
Phrase = list[Piece]


def parse(text: str) -> list[Phrase]:
    """The choices of a text. Raises ValueError for an unbalanced parenthesis or a stray bracket."""
    tokens = _TOKEN.findall(text.strip().replace("\n", "|"))
    if "".join(tokens) != text.strip().replace("\n", "|"):
        raise ValueError(f"phrase {text!r}: a '<' or '{{' without its name and end")
    choices = _choices(tokens)
    if tokens:
        raise ValueError(f"phrase {text!r}: a ')' without its '('")
    return choices


def _choices(tokens: list[str]) -> list[Phrase]:
    """Takes one level of choices off the tokens, up to its ")" or the end."""
    choices: list[Phrase] = [[]]
    while tokens and tokens[0] != ")":
        token = tokens.pop(0)
        if token == "|":
            choices.append([])
        elif token == "(":
            choices[-1].append(_choices(tokens))
            if not tokens:
                raise ValueError("phrase: a '(' without its ')'")
            tokens.pop(0)
        else:
            choices[-1].append((token[0], token[1:-1]) if token[0] in "<{" else token)
    return [_stripped(choice) for choice in choices]


def _stripped(phrase: Phrase) -> Phrase:
    phrase = list(phrase)
    if phrase and isinstance(phrase[0], str):
        phrase[0] = phrase[0].lstrip()
    if phrase and isinstance(phrase[-1], str):
        phrase[-1] = phrase[-1].rstrip()
    return phrase


def expand(
    choices: list[Phrase], rules: Mapping[str, list[Phrase]], slot: Callable[[str], str], rng: random.Random
) -> tuple[str, list[tuple[str, str]]]:
    """One random expansion: its text and its (slot type, filler) pairs in order; `slot` gives the filler of a type."""
    parts, slots = [], []

    def walk(options: list[Phrase]) -> None:
        # random() alone is promised to give the same numbers in every Python version
        for piece in options[int(rng.random() * len(options))]:
            if isinstance(piece, str):
                parts.append(piece)
            elif isinstance(piece, list):
                walk(piece)
            elif piece[0] == "<":
                walk(rules[piece[1]])
            else:
                filler = slot(piece[1])
                slots.append((piece[1], filler))
                parts.append(filler)

    walk(choices)
    return " ".join("".join(parts).split()), slots
