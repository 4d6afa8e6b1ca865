"""Votes of people, models and other programs on the class of a text, as labels for `WeakClassificationTrainer`."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ... import columns
from ...aggregation import Aggregator, aggregate, make_aggregator
from ...aggregation.answers.confidence import METHODS, calibrator
from ...supervisors.class_names import class_id, is_number, is_whole, numbered, plain_name, real_names, without_point
from ..reliability.gold import Gold, read_gold
from .annotation_tools import exported_votes
from .examples import read_examples
from .tables import Table, as_confidence, as_dataset, as_id, features_of, read_table, refuse_alike, refuse_broken_text

logger = logging.getLogger(__name__)
NEEDED = (columns.EXAMPLE_ID, "supervisor", columns.LABEL)
Vote = tuple[str, str, int, float | None]  # example, supervisor, class, confidence where one is stated


def labels_from_votes(
    examples: Table,
    votes: Table,
    aggregator: str | Aggregator | None = "mean",
    classes: Sequence[str] | None = None,
    gold: Gold | None = None,
    calibration: str = "temperature",
) -> Dataset:
    r"""Labels of texts that people, models or other programs voted on: what `label_classes` gives, without models.

    One row per example with a vote, in the order of the examples: `example_id`, `text`, `weak_probs` (the aggregated
    label, in the order of the classes), `weak_weights`, `weak_supervisors` (the aggregator's name) and `weak_classes`,
    which name the student's classes. Beside them `vote_supervisors` and `vote_probs`, who voted what, for
    [`supervisor_report`].

    A vote for class k with confidence c is the distribution with c at k and (1 - c) / (K - 1) elsewhere; without a
    confidence it is 1 at k. Several votes of one supervisor on an example count as one, their mean. Neither the order
    of the votes nor that of the examples changes anything.

    Args:
        examples: `example_id` (by default the row's number) and `text` (or `prompt`); other columns are carried.
        votes: one row a vote: `example_id`, `supervisor`, `label` (the name of a class, its case and white space at
            the ends aside, or its place among the classes, from 0, unless their names are numbers themselves, in text
            as "3" or "3.0"; None for an abstention), optionally `confidence` in (0, 1], the supervisor's own
            probability that its vote is right. Not everybody needs to vote on everything.
            Exports of Label Studio (JSON, JSON-MIN, CSV) and Argilla (records as JSON) are read as they are.
        aggregator: an [`Aggregator`], or a name of [`trl_weaks.aggregation.AGGREGATORS`], such as `"mean"`,
            `"majority"`, `"log_linear"` or `"dawid_skene"`. None keeps the votes apart, one in `weak_probs` for each
            supervisor, for losses and poolings that look at each.
        classes: their names in order. By default those of a `ClassLabel` column `label` of the votes or the examples,
            else the names that were voted for, sorted (numbers by their size).
        gold: classes of some examples; confidences are then calibrated against whether votes are right, for each
            supervisor by itself. Votes without a confidence get the share of them that is right (*ours*).
        calibration: of stated confidences: `"temperature"` or `"isotonic"`, see
            [`trl_weaks.aggregation.answers.confidence.calibrator`].

    Raises:
        ValueError: before any work: names the row, the column and the remedy.

    Example:

    >>> labels = labels_from_votes(
    ...     [{"example_id": "1", "text": "wake me up"}],
    ...     [
    ...         {"example_id": "1", "supervisor": "ann", "label": "alarm"},
    ...         {"example_id": "1", "supervisor": "model", "label": "music", "confidence": 0.75},
    ...     ],
    ... )
    >>> labels[0]["weak_classes"], labels[0]["weak_probs"]
    (['alarm', 'music'], [[0.625, 0.375]])
    """
    if isinstance(aggregator, str):
        make_aggregator(aggregator)  # what it refuses, before work
    if calibration not in METHODS:
        raise ValueError(f"calibration={calibration!r} is not one of {METHODS}.")
    texts = read_examples(examples, (columns.TEXT, columns.PROMPT), columns.WEAK)
    votes = exported_votes(votes)
    rows = _read(votes, texts)
    names = _names(classes, votes, examples, rows)
    cast = _cast(rows, names)
    if not cast:
        raise ValueError("votes: every vote is an abstention; there is nothing to train on.")
    if gold is not None:
        truth = {e: class_id(label, names, e) for e, label in read_gold(gold, texts).items()}
        cast = _calibrated(cast, truth, calibration)
    people = sorted({supervisor for _, supervisor, _, _ in cast})
    refuse_alike(people, "votes")
    voted = sorted({example for example, *_ in cast})  # sorted: sums do not depend on the order of the examples
    table = _table(cast, voted, people, len(names))
    labels = _labels(table, voted, people, names, aggregator)
    without = len(texts) - len(voted)
    if without:
        logger.warning("%d of %d examples have no vote and no row.", without, len(texts))
    return as_dataset([row | labels[example] for example, row in texts.items() if example in labels], examples)


def _read(votes: Table, texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table with ids as text, a confidence that is a number or None, and `where` they stand."""
    found = []
    for number, row in enumerate(read_table(votes, "votes", NEEDED, ("confidence",))):
        example = as_id(row[columns.EXAMPLE_ID], "votes", number, columns.EXAMPLE_ID)
        where = f"votes, row {number} (example_id {example!r})"
        if example not in texts:
            raise ValueError(f"{where}: no example has this id. Add the example, or drop the vote.")
        found.append(
            {
                "example": example,
                "supervisor": as_id(row["supervisor"], "votes", number, "supervisor"),
                "label": _label(row[columns.LABEL], where),
                "confidence": as_confidence(row.get("confidence"), where),
                "where": where,
            }
        )
    return found


def _label(label: Any, where: str) -> str | int | None:
    """A label as a name or a number; None for an abstention."""
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, float) and label.is_integer():  # pandas' column of whole numbers with gaps
        label = int(label)
    if isinstance(label, str | int) and not isinstance(label, bool):
        return label
    raise ValueError(
        f"{where}: column 'label' holds {label!r}; it must be the name of a class or its place among them (a whole "
        "number from 0), or None for an abstention."
    )


def _class_label(table: Table) -> list[str] | None:
    """The names of a table's `ClassLabel` column `label`."""
    feature = features_of(table).get(columns.LABEL)
    return real_names(feature.names) if isinstance(feature, ClassLabel) else None


def _names(
    classes: Sequence[str] | None, votes: Table, examples: Table, rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    """What the classes are called, in their order.

    Raises:
        ValueError: fewer than two, an empty name, or one that is there twice.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes={classes!r} is one text; give a list of names.")
    given = _class_label(votes) or _class_label(examples) if classes is None else [str(name) for name in classes]
    names = _voted_names(rows) if given is None else given
    plain = [plain_name(name) for name in names]
    wrong = [name for name, p in zip(names, plain, strict=True) if not p or plain.count(p) > 1]
    if wrong:
        raise ValueError(f"classes: {wrong[0]!r} is empty or there twice; give every class a name of its own.")
    refuse_broken_text(names, "classes: a name")
    if given is None and not names:
        raise ValueError("votes: every vote is an abstention; there is nothing to train on.")
    if len(names) < 2:
        raise ValueError(
            f"votes: all that are given are for the classes {names}; two or more are needed. If there are others that "
            "nobody voted for, name all in `classes`."
        )
    return names


def _voted_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names that were voted for, sorted, each in its most frequent spelling; numbers only where all are numbers.

    Raises:
        ValueError: a whole number below 0, which elsewhere stands for an abstention, or one of two possible meanings.
    """
    spelt: Counter[str] = Counter()
    voted = [row for row in rows if row["label"] is not None]
    whole = _all_with_point(voted)
    for row in voted:
        name = str(row["label"]).strip()
        number = without_point(name)
        if is_whole(number) and int(number) < 0:
            raise ValueError(
                f"{row['where']}: column 'label' holds {row['label']!r}. Leave it empty (None) for an abstention; "
                "where it is the name of a class, name all in `classes`."
            )
        spelt[number if whole else name] += 1
    if all(map(is_number, spelt)):
        return sorted(spelt, key=lambda name: (Decimal(name), name))
    named = {name: count for name, count in spelt.items() if not is_whole(name)}
    best: dict[str, str] = {}
    for name in sorted(named, key=lambda name: (-named[name], name)):
        best.setdefault(plain_name(name), name)
    return sorted(best.values())


def _all_with_point(voted: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every label is a whole number written with a point, as tables write them in a column with gaps.

    Raises:
        ValueError: a "3.0" beside a 3 or a name, where it may be 3, a place or a name of its own.
    """
    written = [(str(row["label"]).strip(), row) for row in voted]
    pointed = [row for name, row in written if without_point(name) != name]
    others = [row for name, row in written if not is_number(name) or is_whole(name)]
    if pointed and others:
        label, other = pointed[0]["label"], others[0]
        raise ValueError(
            f"{pointed[0]['where']}: column 'label' holds {label!r}, beside {other['label']!r} in {other['where']}; "
            f"it may be the number {without_point(label)} or a name. Write {without_point(label)} for the number; "
            f"where {label!r} is the name of a class, name all in `classes`."
        )
    return bool(pointed) and len(pointed) == len(voted)


def _cast(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[Vote]:
    """The votes that are no abstentions."""
    places = {plain_name(name): k for k, name in enumerate(names)}
    by_name = numbered(names)
    cast, abstained = [], 0
    for row in rows:
        if row["label"] is None:
            abstained += 1
            continue
        name = plain_name(str(row["label"]))
        name = name if name in places else without_point(name)
        k = places.get(name, int(name) if is_whole(name) and not by_name else -1)
        if not 0 <= k < len(names):
            place = "" if by_name else f" and no place from 0 to {len(names) - 1}"
            raise ValueError(
                f"{row['where']}: column 'label' holds {row['label']!r}, which is none of the classes {list(names)}"
                f"{place}. Correct it, or name all classes in `classes`."
            )
        cast.append((row["example"], row["supervisor"], k, row["confidence"]))
    if abstained:
        logger.info("%d of %d votes are abstentions.", abstained, abstained + len(cast))
    return cast


def _calibrated(cast: Iterable[Vote], truth: Mapping[str, int], method: str) -> list[Vote]:
    """The votes with calibrated confidences, by supervisor and by whether it stated one."""
    groups: dict[tuple[str, bool], list[Vote]] = {}
    for vote in cast:
        groups.setdefault((vote[1], vote[3] is not None), []).append(vote)
    found = []
    for (supervisor, stated), votes in groups.items():
        known = sorted((1.0 if c is None else c, float(k == truth[e])) for e, _, k, c in votes if e in truth)
        if not known:
            how = "with a stated confidence" if stated else "without a confidence"
            raise ValueError(
                f"gold has no example that supervisor {supervisor!r} voted on {how}; add one, or calibrate without it."
            )
        # votes that all say 1 have one share that is right, which no temperature need reach
        fitted = calibrator(*zip(*known, strict=True), method if stated else "isotonic")
        found += [(e, supervisor, k, fitted(1.0 if c is None else c)) for e, _, k, c in votes]
    return found


def _table(cast: Iterable[Vote], voted: Sequence[str], people: Sequence[str], count: int) -> np.ndarray:
    """(rows, supervisors, K) float64; NaN where a supervisor did not vote."""
    given: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for example, supervisor, k, confidence in cast:
        given.setdefault((example, supervisor), []).append((k, 1.0 if confidence is None else confidence))
    torn = sum(len({k for k, _ in votes}) > 1 for votes in given.values())
    if torn:
        logger.warning(
            "%d times a supervisor voted for several classes of one example; each vote has its share.", torn
        )
    row, column = {e: i for i, e in enumerate(voted)}, {s: i for i, s in enumerate(people)}
    table = np.full((len(voted), len(people), count), np.nan)
    for (example, supervisor), votes in given.items():
        made = [[c if j == k else (1 - c) / (count - 1) for j in range(count)] for k, c in sorted(votes)]
        table[row[example], column[supervisor]] = [math.fsum(p) / len(made) for p in zip(*made, strict=True)]
    return table


def _labels(
    table: np.ndarray,
    voted: Sequence[str],
    people: Sequence[str],
    names: Sequence[str],
    aggregator: str | Aggregator | None,
) -> dict[str, dict[str, Any]]:
    """The columns of each example."""
    pooled = None if aggregator is None else _pooled(table, voted, aggregator).tolist()
    name = aggregator if isinstance(aggregator, str) else type(aggregator).__name__
    labels = {}
    for i, example in enumerate(voted):
        present = np.flatnonzero(~np.isnan(table[i, :, 0]))
        who, what = [people[j] for j in present], table[i, present].tolist()
        if pooled is None:
            made = {columns.WEAK_PROBS: what, columns.WEIGHTS: [1 / len(who)] * len(who), columns.SUPERVISORS: who}
        else:
            made = {columns.WEAK_PROBS: [pooled[i]], columns.WEIGHTS: [1.0], columns.SUPERVISORS: [name]}
            made |= {columns.VOTERS: who, columns.VOTES: what}
        labels[example] = made | {columns.CLASSES: list(names)}
    return labels


def _pooled(table: np.ndarray, voted: Sequence[str], aggregator: str | Aggregator) -> np.ndarray:
    """(rows, supervisors, K) -> (rows, K)."""
    if aggregator == "log_linear":
        for example, row in zip(voted, np.nan_to_num(table, nan=1.0), strict=True):
            if not (row > 0).all(0).any():
                raise ValueError(
                    f"votes, example {example!r}: every class is ruled out by some supervisor, so their geometric "
                    "mean is empty. State confidences below 1, or choose another aggregator."
                )
    return aggregate(aggregator, table)
