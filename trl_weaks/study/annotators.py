"""Simulated annotators: voters with planted confusion matrices, against which what a study finds can be held."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trl_weaks.columns import EXAMPLE_ID, LABEL

ANNOTATORS = "annotators"
# Five that differ, and a third of the votes missing. Habits below 1 give each annotator a few classes that it takes
# a class for, as people have, instead of even errors, which a mean averages away. *ours*
PLAN: Mapping[str, Any] = {"accuracies": (0.9, 0.8, 0.7, 0.6, 0.5), "gaps": 0.3, "habits": 0.1}


@dataclass(frozen=True)
class Annotator:
    """One simulated annotator.

    Args:
        name: `annotator_1` and so on.
        confusion: `(K, K)`, the planted probability of a vote (last) given the class.
        gaps: how often it does not vote.
        stream: of its votes; nobody else draws from it.
    """

    name: str
    confusion: np.ndarray
    gaps: float
    stream: np.random.Generator

    def votes(self, gold: Sequence[int]) -> list[int | None]:
        """Its votes on texts of these classes, in their order; None where it does not vote."""
        draws = self.stream.random((len(gold), 2))
        bounds = self.confusion.cumsum(-1)
        last = self.confusion.shape[1] - 1  # a sum of probabilities may end a rounding below 1
        return [
            None if skip < self.gaps else min(int(np.searchsorted(bounds[y], draw, side="right")), last)
            for y, (skip, draw) in zip(gold, draws, strict=True)
        ]


def check_plan(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    """A plan with what it leaves out: `accuracies`, one an annotator; `gaps`, the share of votes that are missing;
    `habits`, the concentration of each annotator's errors on few classes (small) or many (large).

    Raises:
        ValueError: an unknown entry, fewer than two annotators, or a number out of range.
    """
    plan = dict(plan or {})
    unknown = sorted(set(plan) - set(PLAN))
    if unknown:
        raise ValueError(f"`annotators` has an unknown entry {unknown[0]!r}; it may have {', '.join(PLAN)}.")
    found = dict(PLAN) | plan
    accuracies = found["accuracies"]
    if isinstance(accuracies, str) or not isinstance(accuracies, Sequence) or len(accuracies) < 2:
        raise ValueError(f"`annotators`: accuracies is {accuracies!r}; give a list of two or more, one an annotator.")
    for name, values in (("accuracies", accuracies), ("gaps", [found["gaps"]]), ("habits", [found["habits"]])):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"`annotators`: {name} holds {value!r}, which is no number.")
    if not all(0 <= accuracy <= 1 for accuracy in accuracies) or not 0 <= found["gaps"] < 1:
        raise ValueError(
            f"`annotators`: accuracies {list(accuracies)} lie in [0, 1], and gaps ({found['gaps']}) in [0, 1)."
        )
    if not found["habits"] > 0:
        raise ValueError(f"`annotators`: habits={found['habits']} must be above 0.")
    return found | {"accuracies": [float(accuracy) for accuracy in accuracies]}


def annotators(num_classes: int, seed: int, plan: Mapping[str, Any] | None = None) -> list[Annotator]:
    """The annotators of a plan.

    Each has a stream of its own, made from the seed and its number: its confusion matrix comes from it first (the
    accuracy on the diagonal, the rest spread over the other classes by a Dirichlet draw for every class), then two
    numbers a text, for whether and how it votes. So another annotator, or more texts at the end, change no vote.

    Example:

    >>> first, second = annotators(3, seed=0, plan={"accuracies": [0.9, 0.5], "gaps": 0.0})
    >>> first.name, first.confusion.diagonal().tolist(), first.votes([0, 1, 2, 2])
    ('annotator_1', [0.9, 0.9, 0.9], [0, 1, 2, 2])
    """
    plan, found = check_plan(plan), []
    for number, accuracy in enumerate(plan["accuracies"], 1):
        stream = np.random.default_rng([seed, number])
        confusion = np.diag(np.full(num_classes, accuracy))
        for y in range(num_classes):
            others = [k for k in range(num_classes) if k != y]
            confusion[y, others] = (1 - accuracy) * stream.dirichlet(np.full(len(others), plan["habits"]))
        found.append(Annotator(f"annotator_{number}", confusion, plan["gaps"], stream))
    return found


def simulated_votes(
    gold: Mapping[str, int], classes: Sequence[str], seed: int, plan: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One row a vote, as `labels_from_votes` reads them, of the plan's annotators on all examples.

    Args:
        gold: example id -> class.
        classes: their names.
    """
    rows = []
    for annotator in annotators(len(classes), seed, plan):
        for example, k in zip(gold, annotator.votes(list(gold.values())), strict=True):
            label = None if k is None else classes[k]
            rows.append({EXAMPLE_ID: example, "supervisor": annotator.name, LABEL: label})
    return rows
