r"""Cut a text into units that hold every token of several tokenizations whole (Cui et al., arXiv 2406.03199, §4.2).

Units, by name:

- `"word"` (*paper*): maximal runs without white space. White space and empty spans before a word belong to it, those
  after the last word to the last one; so the end-of-sequence token is glued to the last word (*authors' code*).
- `"span"` (*ours*): the finest spans at whose ends all tokenizations have a boundary. The end-of-sequence token is
  a unit of its own. For texts without spaces and for JSON, where a word can be most of the completion.

Units that share a token are merged (`▁a`, byte tokens of one character, tokens over several words), and so are units
in which one of the tokenizations has no token (dropped white space, an end-of-sequence token that only one side has).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

Offsets = Sequence[Sequence[int]]


def assign_units(
    source_offsets: Sequence[Offsets], target_offsets: Offsets, text: str | None = None, unit: str = "word"
) -> tuple[list[int], list[list[int]]]:
    """Units common to the target's and all supervisors' tokens.

    Args:
        source_offsets: for each supervisor, the (S, 2) spans of its tokens.
        target_offsets: (T, 2) spans of the student's tokens.
        text: the completion; needed by `unit="word"`. With `"span"` it only serves to check the range.
        unit: `"word"` or `"span"`.

    Returns:
        The unit of each target token, and for each supervisor the unit of each of its tokens. Ids are 0 ... U-1,
        never decrease along a tokenization, and each occurs in every tokenization.

    Raises:
        ValueError: spans that run backwards or leave the text, a tokenization without tokens beside one with tokens.
    """
    names = [f"source_offsets[{i}]" for i in range(len(source_offsets))] + ["target_offsets"]
    tokenizations = [[(int(start), int(end)) for start, end in spans] for spans in (*source_offsets, target_offsets)]
    for name, spans in zip(names, tokenizations, strict=True):
        _check_offsets(name, spans, None if text is None else len(text))
    if not any(tokenizations):
        return [], [[] for _ in source_offsets]
    for name, spans in zip(names, tokenizations, strict=True):
        if not spans:
            raise ValueError(f"{name} is empty while another tokenization of the same text has tokens.")
    if unit == "word":
        if text is None:
            raise ValueError('unit="word" splits at white space and needs `text`; pass it or use unit="span".')
        atoms_of, num_atoms = _word_atoms(text)
    elif unit == "span":
        atoms_of, num_atoms = _character_atoms(max(spans[-1][1] for spans in tokenizations))
    else:
        raise ValueError(f'unit must be "word" or "span", got {unit!r}.')
    ranges = [[atoms_of(start, end) for start, end in spans] for spans in tokenizations]
    unit_of = _merge(ranges, num_atoms)
    ids = [[unit_of[first] for first, _ in tokens] for tokens in ranges]
    return ids[-1], ids[:-1]


def _check_offsets(name: str, spans: list[tuple[int, int]], length: int | None) -> None:
    """Starts and ends may not decrease. Overlap is allowed: byte tokens can share a character."""
    last_start = last_end = 0
    for where, (start, end) in enumerate(spans):
        if not 0 <= start <= end or (length is not None and end > length):
            limit = "" if length is None else f" of a text of {length} characters"
            raise ValueError(f"{name}[{where}] = ({start}, {end}) is not a span{limit}.")
        if start < last_start or end < last_end:
            raise ValueError(f"{name}[{where}] = ({start}, {end}) runs back behind ({last_start}, {last_end}).")
        last_start, last_end = start, end


def _character_atoms(length: int) -> tuple[Callable[[int, int], tuple[int, int]], int]:
    """Atoms are the characters and, last, the end of the text; an empty span belongs to the character after it."""
    return lambda start, end: (start, max(start, end - 1)), length + 1


def _word_atoms(text: str) -> tuple[Callable[[int, int], tuple[int, int]], int]:
    """Atoms are the words; a span without a word character belongs to the next word, or to the last."""
    starts = [not c.isspace() and (i == 0 or text[i - 1].isspace()) for i, c in enumerate(text)]
    begun = [0, *accumulate(starts)]  # words that begin before each position
    num_words = begun[-1]
    inside = [i < len(text) and not text[i].isspace() and not starts[i] for i in range(len(text) + 1)]

    def atoms_of(start: int, end: int) -> tuple[int, int]:
        first = begun[start] - 1 if inside[start] else begun[start]  # the word at `start`, or the next one
        first = max(0, min(first, num_words - 1))
        return first, max(first, begun[end] - 1)

    return atoms_of, max(1, num_words)


def _merge(ranges: list[list[tuple[int, int]]], num_atoms: int) -> list[int]:
    """The unit of each atom: atoms that share a token are one, and every unit has a token of each tokenization."""
    glued = [False] * num_atoms  # to the atom before
    present: list[set[int]] = [set() for _ in range(num_atoms)]
    for which, tokens in enumerate(ranges):
        for first, last in tokens:
            glued[first + 1 : last + 1] = [True] * (last - first)
            present[first].add(which)
    unit_of: list[int] = []
    seen: set[int] = set()
    unit = 0
    for atom in range(num_atoms):
        if not glued[atom] and len(seen) == len(ranges):
            unit, seen = unit + 1, set()
        seen |= present[atom]
        unit_of.append(unit)
    if len(seen) < len(ranges):  # the tail lacks a tokenization: it joins the unit before
        unit_of = [min(u, unit - 1) for u in unit_of] if unit else unit_of
    return unit_of


def before_text(offsets: Offsets) -> int:
    """How many tokens a chat template wrote before the text, such as an empty block of thoughts: their span is (0, 0).

    What a model thinks of them is no doubt about the text. Where there is nothing else they count as the text.
    """
    return next((i for i, (start, end) in enumerate(offsets) if start or end), 0)


def logps_of_text(offsets: Offsets, logps: Sequence[float]) -> Sequence[float]:
    """Without what a chat template wrote [before the text][`before_text`]: what an answer is judged by.

    Of an empty answer, all of whose spans are (0, 0), the last is left: its end.

    Example:

    >>> logps_of_text([(0, 0), (0, 4), (4, 4)], [-9.0, -0.1, -0.2])  # an empty block of thoughts, a word, the end
    [-0.1, -0.2]
    """
    empty = not any(start or end for start, end in offsets)
    return logps[max(0, len(offsets) - 1) if empty else before_text(offsets) :]
