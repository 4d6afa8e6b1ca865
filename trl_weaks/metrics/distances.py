"""Distances between texts: the two of SLU-F1 between a gold and a predicted filler, and one of a committee.

Source of the two: the evaluation of SLURP (Bastianelli et al., 2020, arXiv 2011.13205). All are case-sensitive.
"""

import re
from collections.abc import Sequence

_WHITE_SPACE_RUN = re.compile(r"\s\s+")


def levenshtein(first: Sequence, second: Sequence) -> int:
    """Fewest insertions, deletions and substitutions (1 each) that turn `first` into `second`."""
    if first == second:
        return 0
    if len(first) < len(second):
        first, second = second, first
    previous = list(range(len(second) + 1))
    for row, item in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            substituted = previous[column - 1] + (item != other)
            current.append(min(substituted, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def words(text: str) -> list[str]:
    """Words as the word error rate of SLURP's script sees them: a *single* tab or newline does not split."""
    return [word for word in _WHITE_SPACE_RUN.sub(" ", text).strip().split(" ") if word]


def word_distance(gold: str, predicted: str) -> float:
    """Word error rate: edits over the number of *gold* words, hence not capped at 1. `gold` needs a word."""
    gold_words = words(gold)
    if not gold_words:
        raise ValueError(f"the gold filler {gold!r} has no word; drop the slot or fill it")
    return levenshtein(gold_words, words(predicted)) / len(gold_words)


def char_distance(gold: str, predicted: str) -> float:
    """Edits over the length of the longer string, in [0, 1]; 1 when both are empty."""
    longest = max(len(gold), len(predicted))
    return levenshtein(gold, predicted) / longest if longest else 1.0


def pairwise_word_distance(answers: Sequence[Sequence[str]]) -> list[list[float]]:
    """How unlike supervisors' answers are: mean word edits over the words of the longer of two answers, in [0, 1].

    A symmetric word error rate; that it divides by the longer answer, and that two empty ones are alike, is *ours*.

    Args:
        answers: one sequence of texts for each supervisor, of the same prompts.

    Returns:
        Supervisors x supervisors, 0 on the diagonal.

    Raises:
        ValueError: no answers, or unequal numbers of them.

    Example:

    >>> pairwise_word_distance([["turn it on", "stop"], ["turn it off", "stop"]])
    [[0.0, 0.16666666666666666], [0.16666666666666666, 0.0]]
    """
    lengths = {len(given) for given in answers}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"numbers of answers {[len(given) for given in answers]}: give one for each prompt, all alike."
        )
    split = [[words(text) for text in given] for given in answers]
    table = [[0.0] * len(split) for _ in split]
    for i, first in enumerate(split):
        for j in range(i):
            found = (levenshtein(a, b) / max(len(a), len(b), 1) for a, b in zip(first, split[j], strict=True))
            table[i][j] = table[j][i] = sum(found) / len(first)
    return table
