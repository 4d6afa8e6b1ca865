"""Beginnings that prompts have in common, found without being told. Plain lists; no model."""

from collections.abc import Sequence

SHORTEST = 16  # tokens: a shorter prefix saves less than its own forward pass costs
SAMPLE = 512  # prompts looked at
FEWEST = 0.04  # share of the sample that must begin with a prefix
MOST = 8  # prefixes kept at a time

Ids = tuple[int, ...]


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[Ids]:
    """Prefixes worth computing once, longest first: of all prompts, and of large groups of them.

    Every prefix is shorter than each of its prompts, so that a last prompt token is left to answer from.
    """
    step = max(1, -(-len(prompts) // SAMPLE))
    rows = sorted(tuple(p) for p in prompts[::step])
    found: list[tuple[int, Ids]] = []
    _split(rows, 0, max(2, int(FEWEST * len(rows))), found)
    best = sorted(found, reverse=True)[:MOST]
    return sorted((prefix for _, prefix in best), key=lambda p: (-len(p), p))


def longest_match(prompt: Sequence[int], prefixes: Sequence[Ids]) -> Ids:
    """The longest of the prefixes (longest first) that the prompt begins with and goes beyond; else ()."""
    for prefix in prefixes:
        if len(prompt) > len(prefix) and tuple(prompt[: len(prefix)]) == prefix:
            return prefix
    return ()


def common_length(first: Sequence[int], last: Sequence[int]) -> int:
    """Tokens that two sequences begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _split(rows: list[Ids], known: int, fewest: int, found: list[tuple[int, Ids]]) -> None:
    """Record the common beginning of sorted rows beyond `known` tokens, then look into its branches."""
    if len(rows) < fewest:
        return
    length = common_length(rows[0], rows[-1])
    usable = min(length, min(map(len, rows)) - 1)
    if usable - known >= SHORTEST:
        found.append(((usable - known) * (len(rows) - 1), rows[0][:usable]))
        known = usable
    branch: list[Ids] = []
    for row in rows:
        if branch and (len(row) <= length or row[length] != branch[0][length]):
            _split(branch, known, fewest, found)
            branch = []
        if len(row) > length:
            branch.append(row)
    if branch and len(branch) < len(rows):
        _split(branch, known, fewest, found)
