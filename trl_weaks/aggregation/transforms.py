"""Transforms of labels, `Dataset -> Dataset`: filter, keep the best, relabel, reweight, one after another; and the
surest of preference pairs.

Each takes what `label_completions`, `label_classes` or `labels_from_votes` give and leaves labels of the same kind:
the weights that remain sum to 1 again. A study's `Method(transform=...)` takes any of them, or a function of your own.

    >>> from datasets import Dataset
    >>> labels = Dataset.from_dict({
    ...     "text": ["a", "b", "c"], "weak_weights": [[1.0], [1.0], [1.0]],
    ...     "weak_probs": [[[0.9, 0.1]], [[0.5, 0.5]], [[0.3, 0.7]]],
    ... })
    >>> compose(Filter(0.6), KeepBest(0.5))(labels)["text"][:]
    ['a']
    >>> Relabel(lambda row: [1.0, 0.0] if row["text"] == "b" else None)(labels)["weak_probs"][:2]
    [[[0.9, 0.1]], [[1.0, 0.0]]]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .. import columns
from ..labelling.reliability.weights import renormalise_weights
from ..units import logps_of_text
from .base import NotComputable

Transform = Callable[[Dataset], Dataset]
Row = Mapping[str, Any]
RELABELLED = "relabelled"  # who gave a completion that `Relabel` put in


def confidence(row: Row) -> float:
    """How sure a row's label is, in [0, 1].

    Of class labels the largest probability of the weighted mean vote; of a completion `exp(weak_score)`, the geometric
    mean of its tokens' probabilities under the ensemble. Where there is no score, as of answers that came from
    elsewhere, the weighted mean of its supervisors' probabilities of all of it, which is what they stated. NaN where
    there is neither, a vote or the score is NaN, or no vote has weight; the transforms refuse such a row, and rows
    with a score beside others without: the two cannot be compared.

    Example:

    >>> row = {"weak_probs": [[0.9, 0.1], [0.2, 0.8]], "weak_weights": [0.5, 0.5]}
    >>> confidence(row)  # (0.9 + 0.2) / 2
    0.55

    See also: [`Filter`] and [`KeepBest`], which go by it, [`calibrator`], which makes it true.
    """
    if columns.WEAK_PROBS in row:
        votes = row[columns.WEAK_PROBS]
    elif row.get(columns.SCORE) is not None:
        return math.exp(row[columns.SCORE])
    else:
        given = row.get(columns.LOGPS) or ()
        offsets = row.get(columns.OFFSETS) or [()] * len(given)
        votes = [[math.exp(math.fsum(logps_of_text(*of)))] for of in zip(offsets, given, strict=False)]
    weights = row.get(columns.WEIGHTS) or [1.0] * len(votes)
    pooled = [math.fsum(w * p for w, p in zip(weights, of, strict=True)) for of in zip(*votes, strict=True)]
    total = math.fsum(weights)
    return max(pooled) / total if pooled and total > 0 else math.nan


@dataclass(frozen=True)
class Filter:
    """
    Keeps the rows that are sure enough.

    Args:
        min_confidence: in [0, 1], the least `confidence` of a row that stays. *ours*, as are all numbers here

    Example:

    >>> labels = Dataset.from_dict({"weak_probs": [[[0.9, 0.1]], [[0.4, 0.6]]], "weak_weights": [[1.0], [1.0]]})
    >>> Filter(0.7)(labels)["weak_probs"][:]
    [[[0.9, 0.1]]]

    See also: [`KeepBest`] for a share of the rows, [`confidence`] for how sure a row is.
    """

    min_confidence: float

    def __post_init__(self) -> None:
        """Raises ValueError for a number outside [0, 1]."""
        _share("min_confidence", self.min_confidence, 0 <= self.min_confidence <= 1)

    def __call__(self, labels: Dataset) -> Dataset:
        """Raises NotComputable where no row is that sure, ValueError for a row whose confidence is no number."""
        sure = _confidences(labels, self)
        kept = [number for number, value in enumerate(sure) if value >= self.min_confidence]
        return _left(labels, kept, f"{self}: the surest of {len(sure)} rows has {max(sure, default=0):.3g}")


@dataclass(frozen=True)
class KeepBest:
    """
    Keeps the share of the rows that are surest, in their order; of equally sure ones the first. At least one stays.

    Args:
        share: in (0, 1], rounded up to whole rows.

    Example:

    >>> labels = Dataset.from_dict({"weak_probs": [[[0.9, 0.1]], [[0.4, 0.6]]], "weak_weights": [[1.0], [1.0]]})
    >>> KeepBest(0.5)(labels)["weak_probs"][:]
    [[[0.9, 0.1]]]

    See also: [`Filter`] for a bound, [`KeepSurestPairs`] for preference pairs, [`confidence`].
    """

    share: float

    def __post_init__(self) -> None:
        """Raises ValueError for a number outside (0, 1]."""
        _share("share", self.share, 0 < self.share <= 1)

    def __call__(self, labels: Dataset) -> Dataset:
        """Raises NotComputable for labels without rows, ValueError for a row whose confidence is no number."""
        sure = _confidences(labels, self)
        best = sorted(range(len(sure)), key=lambda number: -sure[number])
        return _left(labels, sorted(best[: _rows_of_share(self.share, len(sure))]), f"{self}: there is none")


@dataclass(frozen=True)
class KeepSurestPairs:
    r"""
    Keeps the share of the pairs whose confidence $C_i = 1 - 2 \varepsilon_i$ is largest, in their order.

    $\varepsilon_i$ is the pair's flip probability, and $C_i = 2 (\sigma(s^+ - s^-) - 1/2)$ the confidence of CW-PO
    (arXiv 2603.04968). It reports that DPO on the 30 % of the weak labels that are surest beats DPO on human ones, in
    single runs without intervals, and that weighting all pairs by C (`preference_loss="cw"`) is better still.

    Args:
        share: in (0, 1], rounded up to whole pairs; of equally sure ones the first stay. 0.3: *paper*.

    Example:

    >>> pairs = Dataset.from_dict({"pair_epsilon": [0.4, 0.1, 0.3]})
    >>> KeepSurestPairs(0.5)(pairs)["pair_epsilon"][:]
    [0.1, 0.3]

    See also: [`KeepBest`] for labels, [`cw_loss`], which weights all pairs instead.
    """

    share: float = 0.3

    def __post_init__(self) -> None:
        """Raises ValueError for a number outside (0, 1]."""
        _share("share", self.share, 0 < self.share <= 1)

    def __call__(self, pairs: Dataset) -> Dataset:
        """The pairs that are left, their `pair_weight` with mean one again.

        Raises:
            ValueError: no column `pair_epsilon`, or a flip probability outside [0, 0.5] (row named).
            NotComputable: no pairs.
        """
        if columns.PAIR_EPSILON not in pairs.column_names:
            raise ValueError(f"the pairs have no column {columns.PAIR_EPSILON!r}; `build_preferences` writes it.")
        doubts = pairs[columns.PAIR_EPSILON][:]
        if not doubts:
            raise NotComputable("there are no pairs to choose from.")
        for row, doubt in enumerate(doubts):
            if not 0 <= doubt <= 0.5:
                raise ValueError(
                    f"row {row}: {columns.PAIR_EPSILON!r} is {doubt}; a flip probability lies in [0, 0.5]."
                )
        count = _rows_of_share(self.share, len(doubts))
        left = pairs.select(sorted(sorted(range(len(doubts)), key=doubts.__getitem__)[:count]))
        if columns.PAIR_WEIGHT not in pairs.column_names:
            return left
        weights = left[columns.PAIR_WEIGHT][:]
        mean = math.fsum(weights) / len(weights)
        if mean == 0:
            return left
        scaled = [weight / mean for weight in weights]
        return (
            left.remove_columns(columns.PAIR_WEIGHT)
            .add_column(columns.PAIR_WEIGHT, scaled)
            .select_columns(pairs.column_names)
        )


@dataclass(frozen=True)
class Relabel:
    """
    Replaces labels.

    Args:
        label: a row -> its new label, None to leave it. Of class labels a list of K probabilities, the one vote of the
            row from then on; of completions a text, taught as sure (`weak_supervisors` is then `["relabelled"]`).

    Example:

    >>> labels = Dataset.from_dict({"weak_probs": [[[0.9, 0.1]], [[0.4, 0.6]]], "weak_weights": [[1.0], [1.0]]})
    >>> Relabel(lambda row: [0.0, 1.0] if row["weak_probs"][0][1] > 0.5 else None)(labels)["weak_probs"][:]
    [[[0.9, 0.1]], [[0.0, 1.0]]]

    See also: [`Reweight`], which leaves the labels as they are, [`compose`] for one after another.
    """

    label: Callable[[Row], Sequence[float] | str | None]

    def __call__(self, labels: Dataset) -> Dataset:
        """Raises ValueError for a label of another kind, or probabilities that are none; names the row."""
        found = []
        for number, row in enumerate(_plain(labels)):
            new = self.label(row)
            found.append(row if new is None else row | _relabelled(row, new, number))
        return _weighted(Dataset.from_list(found, features=labels.features, info=labels.info))


@dataclass(frozen=True)
class Reweight:
    """
    Multiplies weights: of a completion against the other completions of its example, of votes against each other.

    Args:
        factor: a row -> a number, or a list with one for each of its supervisors; at least 0. Weights sum to 1 over an
            example's completions and over a row's votes, so a single number changes only the former.

    Example:

    >>> labels = Dataset.from_dict({"weak_probs": [[[0.9, 0.1], [0.4, 0.6]]], "weak_weights": [[0.5, 0.5]]})
    >>> Reweight(lambda row: [3.0, 1.0])(labels)["weak_weights"][:]
    [[0.75, 0.25]]

    See also: [`Filter`], which drops rows, [`Relabel`], which changes their labels.
    """

    factor: Callable[[Row], float | Sequence[float]]

    def __call__(self, labels: Dataset) -> Dataset:
        """Raises ValueError for a factor that is no number of at least 0, or of another length; names the row."""
        if columns.WEIGHTS not in labels.column_names:
            raise ValueError(
                f"Reweight: the labels have no column {columns.WEIGHTS!r}; they have {labels.column_names}."
            )
        weights = []
        for number, row in enumerate(_plain(labels)):
            old, factors = row[columns.WEIGHTS], self.factor(row)
            if not isinstance(factors, Sequence):
                if columns.WEAK_PROBS in row:
                    raise ValueError(
                        f"Reweight, row {number}: a row's votes have weights that sum to 1, so one factor for all "
                        "would change nothing. Give a list with one for each vote."
                    )
                factors = [factors] * len(old)
            if len(factors) != len(old) or not all(math.isfinite(f) and f >= 0 for f in factors):
                raise ValueError(
                    f"Reweight, row {number}: {factors!r} for {len(old)} weights; give numbers from 0 on."
                )
            weights.append([w * f for w, f in zip(old, factors, strict=True)])
        order = labels.column_names
        made = labels.remove_columns(columns.WEIGHTS).add_column(columns.WEIGHTS, weights)
        return _weighted(made.select_columns(order))


@dataclass(frozen=True)
class Composed:
    """Transforms one after another; see [`compose`]."""

    transforms: tuple[Transform, ...]

    def __call__(self, labels: Dataset) -> Dataset:
        for transform in self.transforms:
            labels = transform(labels)
        return labels


def compose(*transforms: Transform) -> Composed:
    """The transform that does these one after another, the first first.

    Example:

    >>> labels = Dataset.from_dict({"weak_probs": [[[0.9, 0.1]], [[0.4, 0.6]]], "weak_weights": [[1.0], [1.0]]})
    >>> compose(Filter(0.55), KeepBest(0.5))(labels)["weak_probs"][:]
    [[[0.9, 0.1]]]

    See also: [`Filter`], [`KeepBest`], [`Relabel`] and [`Reweight`].
    """
    return Composed(transforms)


def _plain(labels: Dataset) -> Dataset:
    return labels.with_format(None)


def _confidences(labels: Dataset, who: Filter | KeepBest) -> list[float]:
    _refuse_two_scales(labels, who)
    found = [confidence(row) for row in _plain(labels)]
    bad = next((number for number, value in enumerate(found) if math.isnan(value)), None)
    if bad is not None:
        example = labels[bad].get(columns.EXAMPLE_ID, bad)
        raise ValueError(
            f"{who}, row {bad} (example {example!r}): its confidence is no number, since a vote or the score is NaN, "
            f"all its weights are 0, or it has neither {columns.SCORE!r} nor {columns.LOGPS!r}. Drop the row, or "
            "label it again."
        )
    return found


def _refuse_two_scales(labels: Dataset, who: Filter | KeepBest) -> None:
    """A score is of a token, a stated confidence of a whole answer: no order holds among both."""
    if columns.SCORE not in labels.column_names or columns.WEAK_PROBS in labels.column_names:
        return
    scored = [score is not None for score in _plain(labels)[columns.SCORE]]
    if any(scored) and not all(scored):
        bad = scored.index(False)
        example = labels[bad].get(columns.EXAMPLE_ID, bad)
        raise ValueError(
            f"{who}, row {bad} (example {example!r}): column {columns.SCORE!r} is empty, as other rows' is not, and "
            "the confidence of a token cannot be compared with that of a whole answer. Choose among the rows of each "
            f"kind by itself, or remove {columns.SCORE!r}."
        )


def _rows_of_share(share: float, rows: int) -> int:
    """That share of the rows, rounded up; 0.55 of 100 are 55, though 0.55 * 100 is a little more in floats."""
    return min(rows, max(1, math.ceil(share * rows - 1e-9)))


def _share(name: str, value: float, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name}={value} is no share of 1.")


def _left(labels: Dataset, rows: list[int], problem: str) -> Dataset:
    if not rows:
        raise NotComputable(f"{problem}; no row is left to train on.")
    return _weighted(labels.select(rows))


def _weighted(labels: Dataset) -> Dataset:
    return renormalise_weights(labels) if columns.WEIGHTS in labels.column_names else labels


def _relabelled(row: Row, new: Sequence[float] | str, number: int) -> dict[str, Any]:
    one = {columns.WEIGHTS: [1.0], columns.SUPERVISORS: [RELABELLED], columns.TRUST: [1.0], columns.TRAIN_WEIGHT: 1.0}
    if columns.WEAK_PROBS in row:
        values = None if isinstance(new, str) else [float(p) for p in new]
        classes = len(row[columns.WEAK_PROBS][0])
        if values is None or len(values) != classes or min(values) < 0 or not abs(math.fsum(values) - 1) < 1e-3:
            raise ValueError(f"Relabel, row {number}: {new!r} holds no {classes} probabilities that sum to 1.")
        changed = one | {columns.WEAK_PROBS: [values], columns.VOTERS: [RELABELLED], columns.VOTES: [values]}
    else:
        if not isinstance(new, str) or not new or not isinstance(row[columns.COMPLETION], str):
            raise ValueError(
                f"Relabel, row {number}: {new!r} for {row[columns.COMPLETION]!r}; give a text for a text."
            )
        # one word that is sure, and its end: log-probability 0 for every token of any student
        spans = [[0, len(new)], [len(new), len(new)]]
        share = math.fsum(row.get(columns.WEIGHTS) or [1.0])
        changed = one | {columns.WEIGHTS: [share], columns.COMPLETION: new, columns.OFFSETS: [spans]}
        changed |= {columns.LOGPS: [[0.0, 0.0]], columns.SCORE: 0.0, columns.FINISHED: True}
        changed |= {columns.CONFIDENCE_SOURCE: [None], columns.TOP_LOGPS: [None]}
    return {name: value for name, value in changed.items() if name in row}
