"""ROVER: several word sequences are aligned into one network of slots, and each slot is put to a vote."""

import math
from collections.abc import Sequence

NOTHING = ""  # a vote for no word in a slot


def consensus(said: Sequence[Sequence[str]], weights: Sequence[float]) -> list[str]:
    r"""
    The words that most of the weight is for, one slot after another (after Fiscus, 1997: ROVER).

    The heaviest sequence makes the first network, a slot for each word. Every further one, by falling weight, is
    aligned to it with the fewest edits: a word costs nothing in a slot that holds it and 1 in another; to pass a slot
    by costs nothing where an earlier sequence did so and 1 elsewhere; a slot of its own costs 1. Of alignments of one
    cost the first is taken that puts a word in a slot, then one that passes a slot by, from the left (*ours*).
    In each slot, the word or the silence with the largest sum of weights wins,

    $$\hat w_s = \arg\max_w \sum_c c_c\, [w_{cs} = w]$$

    and of equal sums the one that came first. Fiscus adds a word's frequency and its confidence with a tuned balance,
    and gives silence a tuned confidence; here a sequence's weight is both, for its words and its silences (*ours*).

    Args:
        said: words of each sequence; their order in the list does not matter.
        weights: of the sequences, finite and at least 0, one at least above 0.

    Returns:
        The words; it need not be one of the sequences, and may be empty.

    Raises:
        ValueError: no sequence, another number of weights, or a weight that cannot be used (says which).

    Example:

    >>> given = "call ann now", "fall ann now", "call dan now"
    >>> " ".join(consensus([text.split() for text in given], [1.0, 1.0, 1.0]))
    'call ann now'
    """
    _check(said, weights)
    most = max(weights)
    weights = [weight / most for weight in weights]  # so that the rounding below is of shares
    order = sorted(range(len(said)), key=lambda place: (-weights[place], list(said[place])))
    slots: list[dict[str, list[float]]] = []
    before: list[float] = []
    for place in order:
        slots = _added(slots, said[place], weights[place], before)
        before.append(weights[place])
    # fsum and the rounding: sums of the same weights are equal in whatever order they came
    best = [max(slot, key=lambda word: round(math.fsum(slot[word]), 9)) for slot in slots]
    return [word for word in best if word != NOTHING]


def _added(
    slots: list[dict[str, list[float]]], words: Sequence[str], weight: float, before: Sequence[float]
) -> list[dict[str, list[float]]]:
    """The network with one more sequence in it; those `before` are silent in a slot that is new."""
    found, word = [], 0
    for step, slot in alignment([set(slot) for slot in slots], words):
        if step == "insert":
            held = {NOTHING: list(before)} if before else {}
        else:
            held = slots[slot]
        chosen = NOTHING if step == "skip" else words[word]
        word += step != "skip"
        held.setdefault(chosen, []).append(weight)
        found.append(held)
    return found


def alignment(slots: Sequence[set[str]], words: Sequence[str]) -> list[tuple[str, int]]:
    """The cheapest way of words through slots: `("put" | "skip" | "insert", slot)`, see [`consensus`]."""
    wide, long = len(slots), len(words)
    cost = [[0] * (long + 1) for _ in range(wide + 1)]  # of the slots and words from here on
    for slot in range(wide, -1, -1):
        for word in range(long, -1, -1):
            ways = [] if slot < wide or word < long else [0]
            if slot < wide and word < long:
                ways.append(cost[slot + 1][word + 1] + (words[word] not in slots[slot]))
            if slot < wide:
                ways.append(cost[slot + 1][word] + (NOTHING not in slots[slot]))
            if word < long:
                ways.append(cost[slot][word + 1] + 1)
            cost[slot][word] = min(ways)
    steps, slot, word = [], 0, 0
    while slot < wide or word < long:
        rest = cost[slot][word]
        if slot < wide and word < long and rest == cost[slot + 1][word + 1] + (words[word] not in slots[slot]):
            steps.append(("put", slot))
            slot, word = slot + 1, word + 1
        elif slot < wide and rest == cost[slot + 1][word] + (NOTHING not in slots[slot]):
            steps.append(("skip", slot))
            slot += 1
        else:
            steps.append(("insert", slot))
            word += 1
    return steps


def _check(said: Sequence[Sequence[str]], weights: Sequence[float]) -> None:
    if not said:
        raise ValueError("no sequence to vote; give at least one.")
    if len(weights) != len(said):
        raise ValueError(f"{len(said)} sequences have {len(weights)} weights; give one for each.")
    for place, (words, weight) in enumerate(zip(said, weights, strict=True)):
        if isinstance(words, str):
            raise ValueError(f"sequence {place} is a text, {words[:40]!r}; give its words (`text.split()`).")
        if NOTHING in words:
            raise ValueError(f"sequence {place} has an empty word, which stands for silence; leave it out.")
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of sequence {place} is {weight}; it must be finite and at least 0.")
    if not max(weights) > 0:
        raise ValueError("every sequence has weight 0, so nobody votes; give one more.")
