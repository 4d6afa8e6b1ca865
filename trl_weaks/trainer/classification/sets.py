"""Datasets as the classifier's trainer reads them: plain Python rows with class ids, or refused by name."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedTokenizerBase

from ... import columns
from ...losses.base import WeakLoss
from ...supervisors.class_names import class_id, numbered
from .._compat import global_then_local_main_first
from ..common.label_paths import at_path
from ..weak_classification_config import WeakClassificationConfig
from .data import (
    BARE,
    INPUT_IDS,
    LABELS,
    ROWS,
    UNKNOWN,
    VOTE_WEIGHTS,
    VOTES,
    check_prepared_row,
    check_rows,
    dataset_classes,
    prepare_row,
)

logger = logging.getLogger(__name__)

# What gold is called elsewhere.
_GOLD = (
    "labels gold gold_label gold_labels true_label label_id label_ids target targets class class_id category y intent"
)
_LIKE_GOLD = frozenset(_GOLD.split())
_MARK = "\nPrepared for the classification trainer "


def plain_rows(dataset: Any, name: str) -> Dataset:
    """The dataset, or that at a path, with plain Python values, whatever format it was given.

    Raises:
        ValueError: a stream, which cannot be checked before training, or a dataset with a transform of the user's.
    """
    dataset = at_path(dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"The {name} dataset must be a `datasets.Dataset`, got {type(dataset).__name__}; all rows are checked "
            "before they are used. Read a stream with `Dataset.from_generator`."
        )
    if dataset.format["type"] == "custom":
        raise ValueError(
            f"The {name} dataset has a transform (`set_transform`), which hides its columns. Apply it with `map`."
        )
    return dataset if dataset.format["type"] is None else dataset.with_format(None)


def check_target(dataset: Dataset, name: str, predicting: bool, main_process: bool) -> None:
    """See that there is something to compare the student with, and say so where gold seems to have another name.

    Args:
        predicting: texts alone are enough.

    Raises:
        ValueError: neither votes nor gold; names the column that is likely gold.
    """
    if columns.LABEL in dataset.column_names:
        return
    like = next((c for c in dataset.column_names if c.strip().lower() in {columns.LABEL, *_LIKE_GOLD}), None)
    rename = f"`dataset.rename_column({like!r}, {columns.LABEL!r})`"
    if columns.WEAK_PROBS not in dataset.column_names and not predicting:
        raise ValueError(
            f"The {name} dataset has neither votes ('{columns.WEAK_PROBS}') nor gold ('{columns.LABEL}') to compare "
            f"the student with; its columns are {dataset.column_names}. "
            + (f"If '{like}' holds the gold: {rename}. " if like else f"Add a column '{columns.LABEL}' of class ids. ")
            + "Texts alone are for `predict` and `predict_classes`."
        )
    if like is not None and main_process:
        logger.warning(
            "The %s dataset has no column '%s', so that no accuracy is logged. If '%s' holds the gold: %s.",
            name, columns.LABEL, like, rename,
        )  # fmt: skip


def tokenised(
    dataset: Dataset,
    name: str,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    num_classes: int,
    args: WeakClassificationConfig,
) -> Dataset:
    """A checked set in the columns `PREPARED` and `ROWS`; its texts are in that column."""
    with global_then_local_main_first():
        prepared = dataset.map(
            prepare_row,
            fn_kwargs={
                "column": column,
                "tokenizer": tokenizer,
                "num_classes": num_classes,
                "max_length": args.max_length,
            },
            remove_columns=dataset.column_names,
            num_proc=args.dataset_num_proc,
            desc=f"Tokenizing {name} dataset",
        )
    if columns.WEAK_PROBS in dataset.column_names:
        return prepared.add_column(ROWS, list(range(len(prepared))))
    return prepared.add_column(ROWS, [UNKNOWN if columns.LABEL in dataset.column_names else BARE] * len(prepared))


def is_bare(dataset: Dataset) -> bool:
    """Whether a prepared set has texts alone."""
    return dataset[0].get(ROWS) == BARE


def refuse_aggregated(dataset: Dataset, name: str) -> None:
    """Raises ValueError for votes that became one label before, where the loss looks at each."""
    if columns.VOTES in dataset.column_names:
        raise ValueError(
            f"The {name} dataset, column '{columns.WEAK_PROBS}': its votes were aggregated into one label, and the "
            "loss reads each of them. Make the labels with `labels_from_votes(..., aggregator=None)`, or choose "
            "another loss."
        )


def check_for_loss(dataset: Dataset, name: str, loss: WeakLoss, places: list | None) -> list | None:
    """Check what a loss asks of its votes; gives the places of [`check_places`], where it tells supervisors apart.

    Raises:
        ValueError: votes that are one label already, or too few or too many of them in the training rows; or places
            that differ.
    """
    if loss.needs_votes:
        refuse_aggregated(dataset, name)
    if name == "train":
        _check_number(dataset, name, loss)
    return check_places(dataset, name, places) if loss.tells_supervisors_apart else places


def _check_number(dataset: Dataset, name: str, loss: WeakLoss) -> None:
    if loss.min_supervisors == 1 and loss.max_supervisors is None or columns.WEAK_PROBS not in dataset.column_names:
        return
    most = max(len(votes) for votes in dataset[columns.WEAK_PROBS])
    if loss.max_supervisors is not None and most > loss.max_supervisors:
        raise ValueError(
            f"The {name} dataset has {most} votes a row, and `{loss.title}` was given numbers for "
            f"{loss.max_supervisors}: give one for each supervisor, in the order of the votes."
        )
    if most < loss.min_supervisors:
        given = loss.window is None
        why = "was given one number for each supervisor" if given else "learns of supervisors by comparing them"
        raise ValueError(
            f"The {name} dataset has {most} vote{'s' * (most > 1)} a row, and `{loss.title}` {why}: "
            f"{loss.min_supervisors} or more are needed. Give the votes of more supervisors, or choose a loss that "
            "learns nothing of them ('realm' is 'realm_learned' without)."
        )


def check_places(dataset: Dataset, name: str, places: list | None) -> list | None:
    """The supervisors in the order of the votes (their number, where nobody names them), the same in every row.

    Args:
        places: those of the training rows, once they are known.

    Raises:
        ValueError: a row has others, or in another order; names it.
    """
    if columns.WEAK_PROBS not in dataset.column_names:
        return places
    named = columns.SUPERVISORS in dataset.column_names
    found = dataset[columns.SUPERVISORS] if named else ([len(votes)] for votes in dataset[columns.WEAK_PROBS])
    for row, here in enumerate(found):
        places = list(here) if places is None else places
        if list(here) != places:
            raise ValueError(
                f"The {name} dataset, row {row}: its votes are by {list(here)}, and those of the training rows by "
                f"{places}; the loss tells supervisors apart by their places. Bring the votes of all rows into one "
                "order, and drop rows that lack one."
            )
    return places


def gold_as_ids(dataset: Dataset, classes: Sequence[str] | None, name: str) -> Dataset:
    """Gold that is given as names of `classes` (case and white space at the ends aside) becomes class ids.

    Where classes have numbers for names, such as 1 to 5 stars, a number is a name.

    Raises:
        ValueError: a row's name is none of the classes.
    """
    feature = dataset.features.get(columns.LABEL)
    if classes is None or not isinstance(feature, Value) or feature.dtype == "bool":
        return dataset
    if feature.dtype not in ("string", "large_string") and not numbered(classes):
        return dataset
    gold = []
    for row, label in enumerate(dataset[columns.LABEL]):
        try:
            gold.append(class_id(label, list(classes), f"row {row}"))
        except ValueError:
            raise ValueError(
                f"The {name} dataset, row {row}, column '{columns.LABEL}' = {label!r} is none of the classes "
                f"{list(classes)}. Correct it, or drop the row."
            ) from None
    feature = ClassLabel(names=list(classes))  # so that nobody takes the ids for names
    return dataset.remove_columns(columns.LABEL).add_column(columns.LABEL, gold, feature=feature)


def as_places(dataset: Dataset, num_classes: int) -> Dataset:
    """Gold that is class ids already, said so that a number is not taken for the name of a class."""
    return dataset.cast_column(columns.LABEL, ClassLabel(num_classes=num_classes))


def gold_votes(dataset: Dataset, num_classes: int) -> Dataset:
    """Gold labels as the votes of one supervisor that is always sure: for supervisors, ceilings and plain training."""
    dataset = gold_as_ids(dataset, dataset_classes(dataset, "gold") if len(dataset) else None, "gold")
    check_rows(dataset, "gold", num_classes)
    return dataset.map(
        lambda row: {columns.WEAK_PROBS: [[float(k == row[columns.LABEL]) for k in range(num_classes)]]},
        remove_columns=[c for c in (columns.WEAK_PROBS, columns.WEIGHTS) if c in dataset.column_names],
    )


def new_mark() -> str:
    """What a trainer adds to the descriptions of the sets that it prepares; goes along with selections of the rows."""
    return f"{_MARK}{uuid4().hex}."


def check_prepared(dataset: Dataset, name: str, num_classes: int, mark: str, aggregator: str | None = None) -> None:
    """See that rows which come with the prepared columns are rows that the trainer of that mark could have prepared.

    Args:
        aggregator: that pools the votes when they are prepared, if one does.

    Raises:
        ValueError: names dataset, row, column and problem; or another trainer prepared them.
    """
    description = dataset.info.description or ""
    if _MARK in description and mark not in description:
        raise ValueError(
            f"The {name} dataset has the column '{INPUT_IDS}': another trainer prepared its rows, for its own "
            "tokenizer and lengths. Pass the rows as they were before."
        )
    if aggregator is not None and mark not in description:
        raise ValueError(
            f"The {name} dataset has the column '{INPUT_IDS}', prepared before `pooling={aggregator!r}` could pool "
            "its votes. Pass the rows as they were before."
        )
    for number, row in enumerate(dataset.select_columns([VOTES, VOTE_WEIGHTS, LABELS])):
        try:
            check_prepared_row(row, num_classes)
        except ValueError as error:
            raise ValueError(f"The {name} dataset, row {number}, {error}") from None
