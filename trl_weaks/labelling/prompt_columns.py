"""The columns of a dataset of prompts, checked without models or their libraries."""

from datasets import Dataset

from ..columns import COMPLETION, EXAMPLE_ID, FINISHED, GENERATION, PROMPT, SCORE

UNREAD = ("tools", "chat_template_kwargs", "image", "images")  # TRL reads them in training, supervisors would not


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
    reserved = {*GENERATION, SCORE, FINISHED, COMPLETION} - {EXAMPLE_ID, PROMPT}
    for column in dataset.column_names:
        if column in reserved:
            raise ValueError(
                f"the dataset already has a column {column!r}, which labelling writes; rename or remove it."
            )
        if column in UNREAD:
            raise ValueError(f"column {column!r} is read by TRL in training but not by supervisors; remove it.")
