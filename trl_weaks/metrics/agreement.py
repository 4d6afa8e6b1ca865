"""What weak supervisors say, and how often they say the same."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

TOLERANCE = 1e-9  # of a tie: float64 sums of the same numbers in another order differ by less


def top_shares(probabilities: Any) -> np.ndarray:
    """What a vote counts for each class: 1 for the most probable, in equal parts where several tie: (..., K).

    So no result depends on which class is listed first. A NaN vote stays NaN.

    Example:

    >>> top_shares([[0.2, 0.8], [0.5, 0.5]]).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """
    table = np.asarray(probabilities, dtype=float)
    top = np.where(np.isnan(table), np.nan, table >= table.max(-1, keepdims=True) - TOLERANCE)
    return top / top.sum(-1, keepdims=True)


def right(probabilities: Any, labels: Any) -> np.ndarray:
    """Share of the most probable classes (..., K) that are the label: 1 or 0, a fraction where classes tie: (...).

    Args:
        labels: class ids, (...) or what broadcasts to it.

    Example:

    >>> right([[0.2, 0.8], [0.5, 0.5]], [0, 0]).tolist()
    [0.0, 0.5]
    """
    counted = top_shares(probabilities)
    labels = np.broadcast_to(np.asarray(labels, dtype=int), counted.shape[:-1])
    return np.take_along_axis(counted, labels[..., None], -1)[..., 0]


def label_agreement(labels: Mapping[str, Sequence[Hashable]]) -> dict:
    """Share of the examples on which two supervisors give the same label.

    Returns:
        `pairs`: list of `{"first", "second", "exact_match"}`; `exact_match`: mean over pairs; `all_agree`: share of
        the examples on which all give the same.

    Raises:
        ValueError: fewer than two supervisors, no example, or lengths differ.
    """
    _check(labels)
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(labels, 2):
        same = sum(a == b for a, b in zip(labels[first], labels[second], strict=True))
        pairs.append({"first": first, "second": second, "exact_match": same / len(labels[first])})
    everyone = [len(set(votes)) == 1 for votes in zip(*labels.values(), strict=True)]
    return {
        "pairs": pairs,
        "exact_match": sum(pair["exact_match"] for pair in pairs) / len(pairs),
        "all_agree": sum(everyone) / len(everyone),
    }


def slot_agreement(slots: Mapping[str, Sequence[Sequence[tuple[str, str]]]]) -> dict:
    """Agreement on slots: `exact_match` of whole outputs, the order of slots aside, and `span_f1` of single slots.

    `span_f1` of a pair is 2 · shared / (slots of one + slots of the other), summed over examples: symmetric, unlike
    SLU-F1. Two empty outputs match and add no slot; a pair without any slot has `span_f1` 1.

    Returns:
        as [`label_agreement`], with `span_f1` in each pair and as mean over pairs.
    """
    _check(slots)
    bags = {name: [Counter(tuple(slot) for slot in row) for row in rows] for name, rows in slots.items()}
    result = label_agreement({name: [frozenset(bag.items()) for bag in rows] for name, rows in bags.items()})
    for pair in result["pairs"]:
        both = list(zip(bags[pair["first"]], bags[pair["second"]], strict=True))
        shared, said = sum((a & b).total() for a, b in both), sum(a.total() + b.total() for a, b in both)
        pair["span_f1"] = 2 * shared / said if said else 1.0
    result["span_f1"] = sum(pair["span_f1"] for pair in result["pairs"]) / len(result["pairs"])
    return result


def _check(outputs: Mapping[str, Sequence]) -> None:
    lengths = {name: len(rows) for name, rows in outputs.items()}
    if len(lengths) < 2:
        raise ValueError(f"agreement needs two supervisors, got {list(lengths)}")
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"supervisors must have labelled the same examples, at least one: {lengths}")
