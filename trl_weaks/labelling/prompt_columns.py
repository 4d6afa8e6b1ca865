"""The columns of a dataset of prompts, checked without models or their libraries."""

import logging

from datasets import Dataset, Value

from ..columns import COMPLETION, EXAMPLE_ID, PROMPT, TRAIN_WEIGHT, WEAK
from ..supervisors.reading.messages import before_last_answer

logger = logging.getLogger(__name__)
MESSAGES = "messages"  # TRL's whole conversations
UNREAD = ("tools", "chat_template_kwargs", "image", "images")  # TRL reads them in training, supervisors would not


def as_prompts(dataset: Dataset) -> Dataset:
    """The dataset with ids and prompts, made where they are not there yet; what cannot be made stays as it is.

    Raises:
        ValueError: messages in which nothing is asked (row named).
    """
    if not isinstance(dataset, Dataset) or len(dataset) == 0:
        return dataset
    if TRAIN_WEIGHT in dataset.column_names:  # it judged other labels than those to come
        dataset = dataset.remove_columns(TRAIN_WEIGHT)
    return with_prompts(with_ids(dataset))


def with_prompts(dataset: Dataset) -> Dataset:
    """Where there are `messages` and no `prompt`, the last turn of the assistant is what is asked for.

    The messages before it become the prompt, and the column goes: a stock `SFTTrainer` would train on it instead of
    the labels.

    Raises:
        ValueError: messages in which nothing is asked (row named).
    """
    if MESSAGES not in dataset.column_names or PROMPT in dataset.column_names:
        return dataset
    logger.info("Column 'messages': the last turn of the assistant is what is asked for, and is left out.")
    rows, kind = dataset.with_format(None)[MESSAGES], dataset.features[MESSAGES]
    asked = [before_last_answer(row, f"row {number}") for number, row in enumerate(rows)]
    return dataset.remove_columns(MESSAGES).add_column(PROMPT, asked, feature=kind)


def with_ids(dataset: Dataset) -> Dataset:
    """The dataset with ids that are text: the row's number where there is no `example_id`; whole numbers in digits."""
    if EXAMPLE_ID not in dataset.column_names:
        ids = [str(row) for row in range(len(dataset))]
        return dataset.add_column(EXAMPLE_ID, ids).select_columns([EXAMPLE_ID, *dataset.column_names])
    kind = dataset.features[EXAMPLE_ID]
    if isinstance(kind, Value) and kind.dtype.startswith(("int", "uint")):
        return dataset.cast_column(EXAMPLE_ID, Value("string"))
    return dataset


def check_columns(dataset: Dataset) -> None:
    """Refuse what is no dataset of prompts, by its columns alone.

    Raises:
        ValueError: not a `Dataset`, no rows, or a missing, reserved or unsupported column.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"label a datasets.Dataset, not a {type(dataset).__name__}; choose one split of a DatasetDict."
        )
    if len(dataset) == 0:
        raise ValueError("the dataset has no rows; nothing to label.")
    for column in (EXAMPLE_ID, PROMPT):
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column {column!r}, only {dataset.column_names}; add or rename it.")
    reserved = {*WEAK, COMPLETION}
    for column in dataset.column_names:
        if column in reserved:
            raise ValueError(
                f"the dataset already has a column {column!r}, which labelling writes; rename or remove it."
            )
        if column in UNREAD:
            raise ValueError(f"column {column!r} is read by TRL in training but not by supervisors; remove it.")
