"""Classification rows: checked before any long work, then tokenised."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from ... import columns
from ...aggregation.base import NotComputable
from ...supervisors.class_names import order_like, real_names

# Prepared columns
INPUT_IDS = "input_ids"
VOTES = "weak_votes"  # [N][K] class probabilities of each supervisor
VOTE_WEIGHTS = "weak_vote_weights"  # [N], sums to 1
LABELS = "labels"  # gold class, UNKNOWN where there is none; the trainer also counts rows by this column
PREPARED = (INPUT_IDS, VOTES, VOTE_WEIGHTS, LABELS)
ROWS = "weak_rows"  # the row's number in its set; UNKNOWN where gold stands for votes, or BARE. Not in rows of others
ROW_WEIGHTS = "weak_row_weights"  # how much a row teaches, 1 on average over its set. Not in rows prepared elsewhere

UNKNOWN = -1
BARE = -2  # in ROWS: neither votes nor gold, so that nothing is compared; in what is predicted alone
_NO_LISTS = (
    "is not one list of class probabilities per supervisor, such as [[0.9, 0.1], [0.4, 0.6]]. A class id k is the "
    "vote that is 1 at k and 0 elsewhere; one supervisor's probabilities need a list around them."
)
TOLERANCE = 1e-3  # of a vote's sum: half-precision probabilities of some dozen classes are this far from 1


def count_classes(dataset: Dataset, name: str) -> int:
    """Number of classes K of a weakly labelled dataset, every row checked.

    Raises:
        ValueError: a column is missing or a row is malformed; names row, column and remedy.
    """
    if columns.WEAK_PROBS not in dataset.column_names:
        raise ValueError(
            f"The {name} dataset lacks the column '{columns.WEAK_PROBS}' (one list of class probabilities per "
            "supervisor). Make it with `label_classes`, or turn gold labels into it with `gold_votes`."
        )
    first = dataset[0][columns.WEAK_PROBS] if len(dataset) else None
    if first is not None and not (
        isinstance(first, list) and all(isinstance(v, list) for v in first if v is not None)
    ):
        raise ValueError(f"The {name} dataset, row 0, column '{columns.WEAK_PROBS}' = {first!r} {_NO_LISTS}")
    if not first or not first[0]:
        raise ValueError(f"The {name} dataset is empty, or row 0, column '{columns.WEAK_PROBS}', holds no vote.")
    num_classes = len(first[0])
    if num_classes < 2:
        raise ValueError(f"The {name} dataset, row 0, column '{columns.WEAK_PROBS}': at least two classes are needed.")
    check_rows(dataset, name, num_classes)
    return num_classes


def dataset_classes(dataset: Dataset, name: str) -> list[str] | None:
    """What a dataset calls its classes, in their order: its column `weak_classes`, or a `ClassLabel` column `label`.

    Raises:
        ValueError: two rows, or the two columns, list the classes differently.
    """
    listed = None
    if columns.CLASSES in dataset.column_names:
        listed = dataset[0][columns.CLASSES]
        for number, row in enumerate(dataset.select_columns([columns.CLASSES])):
            if row[columns.CLASSES] != listed:
                raise ValueError(
                    f"The {name} dataset, row {number}, column '{columns.CLASSES}' lists {row[columns.CLASSES]}, row "
                    f"0 {listed}. Bring the votes of all rows into one order of classes."
                )
    feature = dataset.features.get(columns.LABEL)
    if not isinstance(feature, ClassLabel) or not real_names(feature.names):
        return listed
    if listed is not None:
        _same_order(
            feature.names, listed, f"The {name} dataset's column '{columns.LABEL}'", f"its '{columns.CLASSES}'"
        )
    return list(listed or feature.names)


def check_class_count(classes: Sequence[str] | None, num_classes: int, who: str) -> None:
    """Raises ValueError for names of more or fewer classes than the votes have: the student would be named after them,
    and could not be loaded."""
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"{who} names {len(classes)} classes, {list(classes)}, and votes (column '{columns.WEAK_PROBS}') are "
            f"probabilities of {num_classes}. Give every vote a probability of each class, in this order and 0 where "
            "it knows none, or name those of the votes."
        )


def check_same_classes(names: list[str] | None, wanted: list[str] | None, who: str, whose: str) -> None:
    """Refuse classes of the same names in another order, or of other names; nothing to compare is fine.

    Raises:
        ValueError: they differ; says how.
    """
    if names is not None and wanted is not None:
        _same_order(names, wanted, who, whose)


def _same_order(names: Sequence[str], wanted: Sequence[str], who: str, whose: str) -> None:
    if order_like(names, wanted, who, whose) != list(range(len(wanted))):
        raise ValueError(
            f"{who} lists the classes as {list(names)}, {whose} as {list(wanted)}: the same names in another order, "
            "and class ids would be mixed up. Bring one of them into the order of the other."
        )


def check_rows(dataset: Dataset, name: str, num_classes: int) -> None:
    """Check texts, votes, weights and gold labels, whichever columns are there.

    Raises:
        ValueError: names dataset, row, column, problem and remedy.
    """
    known = [c for c in (columns.WEAK_PROBS, columns.WEIGHTS, columns.LABEL) if c in dataset.column_names]
    text = text_column(dataset.column_names, name)
    for number, row in enumerate(dataset.select_columns([text, *known])):
        try:
            if not row[text]:
                raise ValueError(f"column '{text}' is empty. Drop the row.")
            if columns.WEAK_PROBS in row:
                _check_votes(row[columns.WEAK_PROBS], num_classes)
                _check_weights(row.get(columns.WEIGHTS), len(row[columns.WEAK_PROBS]))
            if columns.LABEL in row:
                _check_label(row[columns.LABEL], num_classes)
        except ValueError as error:
            raise ValueError(f"The {name} dataset, row {number}, {error}") from None


def check_geometric_pool(dataset: Dataset, name: str) -> None:
    """Refuse rows in which every class has probability 0 under some supervisor: their geometric mean is empty.

    Raises:
        NotComputable: names the row and the remedy.
    """
    if columns.WEAK_PROBS not in dataset.column_names:
        return
    weights = dataset[columns.WEIGHTS] if columns.WEIGHTS in dataset.column_names else [None] * len(dataset)
    for number, (votes, given) in enumerate(zip(dataset[columns.WEAK_PROBS], weights, strict=True)):
        counted = [vote for vote, w in zip(votes, given or [1.0] * len(votes), strict=True) if w > 0]
        if not any(all(vote[k] > 0 for vote in counted) for k in range(len(votes[0]))):
            raise NotComputable(
                f"The {name} dataset, row {number}, column '{columns.WEAK_PROBS}': each class has probability 0 under "
                "some supervisor, so `pooling='log_linear'` has nothing left. Calibrate the votes, or pool linearly."
            )


def text_column(names: Iterable[str], dataset_name: str) -> str:
    """`text`, else `prompt`.

    Raises:
        ValueError: neither is there.
    """
    found = [name for name in (columns.TEXT, columns.PROMPT) if name in set(names)]
    if not found:
        raise ValueError(f"The {dataset_name} dataset needs a column '{columns.TEXT}' or '{columns.PROMPT}'.")
    return found[0]


def _check_votes(votes: list[list[float]] | None, num_classes: int) -> None:
    column = f"column '{columns.WEAK_PROBS}'"
    if not votes:
        raise ValueError(f"{column} holds no vote. Drop the row, or label it.")
    if not isinstance(votes, list) or not all(isinstance(vote, list) for vote in votes if vote is not None):
        raise ValueError(f"{column} = {votes!r} {_NO_LISTS}")
    for i, vote in enumerate(votes):
        if vote is None:
            raise ValueError(f"{column}: vote {i} is null. Leave the supervisor out of this row, or label it.")
        if len(vote) != num_classes:
            raise ValueError(
                f"{column}: vote {i} has {len(vote)} classes, the others {num_classes}. Every supervisor must give "
                "one probability per class, 0 for classes it does not know."
            )
        if not all(_is_number(p) and 0 <= p <= 1 + TOLERANCE for p in vote):
            raise ValueError(f"{column}: vote {i} = {vote} holds a value that is no probability. Label the row again.")
        if abs(sum(vote) - 1) > TOLERANCE:
            raise ValueError(f"{column}: vote {i} sums to {sum(vote):.6g}, not 1. Are these logits? Apply a softmax.")


def _check_weights(weights: list[float] | None, num_votes: int) -> None:
    column = f"column '{columns.WEIGHTS}'"
    if weights is None:
        return
    if not isinstance(weights, list):
        raise ValueError(f"{column} = {weights!r} is not a list with one weight per vote.")
    if len(weights) != num_votes:
        raise ValueError(f"{column} has {len(weights)} weights for {num_votes} votes. Give one per vote.")
    if not all(_is_number(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ValueError(f"{column} = {weights}: weights are finite, not negative and not all 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_prepared_row(row: Mapping[str, Any], num_classes: int) -> None:
    """Raises ValueError for prepared votes, weights or gold that do not fit `num_classes`; names the column."""
    try:
        _check_votes(row[VOTES], num_classes)
        _check_weights(row[VOTE_WEIGHTS], len(row[VOTES]))
        if abs(sum(row[VOTE_WEIGHTS]) - 1) > TOLERANCE:
            raise ValueError(f"column '{columns.WEIGHTS}' sums to {sum(row[VOTE_WEIGHTS]):.6g}, not 1.")
        if row[LABELS] != UNKNOWN:
            _check_label(row[LABELS], num_classes)
    except ValueError as error:
        prepared = {columns.WEAK_PROBS: VOTES, columns.WEIGHTS: VOTE_WEIGHTS, columns.LABEL: LABELS}
        text = str(error)
        for raw, name in prepared.items():
            text = text.replace(f"'{raw}'", f"'{name}'", 1)
        raise ValueError(text) from None


def _check_label(label: Any, num_classes: int) -> None:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
        raise ValueError(
            f"column '{columns.LABEL}' = {label!r} is not a class id from 0 to {num_classes - 1}. Encode the labels, "
            "or remove the column where they are not known."
        )


def prepare_row(
    row: Mapping[str, Any], column: str, tokenizer: PreTrainedTokenizerBase, num_classes: int, max_length: int | None
) -> dict[str, Any]:
    """One checked row -> `PREPARED`. Without votes, gold is one sure vote; without either, a uniform one stands."""
    text = row[column]
    special = isinstance(text, str)
    if not special:
        text = tokenizer.apply_chat_template(text, tokenize=False)
    ids = tokenizer(
        text, add_special_tokens=special, truncation=max_length is not None, max_length=max_length, verbose=False
    )
    label = row.get(columns.LABEL, UNKNOWN)
    votes = row.get(columns.WEAK_PROBS)
    if votes is None:
        votes = [[1 / num_classes if label == UNKNOWN else float(k == label) for k in range(num_classes)]]
    weights = row.get(columns.WEIGHTS) or [1.0] * len(votes)
    return {
        INPUT_IDS: ids["input_ids"],
        VOTES: [[p / sum(vote) for p in vote] for vote in votes],
        VOTE_WEIGHTS: [w / sum(weights) for w in weights],
        LABELS: label,
    }


def row_weights(dataset: Dataset, name: str) -> list[float]:
    """The column `triage_weight` over its mean, so that the mean loss is the weighted mean of the rows' losses; 1 for
    every row of a dataset without it, or with gold in the place of the votes that it judges.

    Raises:
        ValueError: a weight is missing, negative or not finite, or all are 0.
    """
    if not {columns.TRAIN_WEIGHT, columns.WEAK_PROBS} <= set(dataset.column_names):
        return [1.0] * len(dataset)
    found = dataset[columns.TRAIN_WEIGHT][:]
    for number, weight in enumerate(found):
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"The {name} dataset, row {number}, column '{columns.TRAIN_WEIGHT}' = {weight!r} is no weight. Give "
                "every row a number of at least 0, 1 where you trust it, or remove the column."
            )
    total = math.fsum(found)
    if total == 0:
        raise ValueError(f"The {name} dataset: every '{columns.TRAIN_WEIGHT}' is 0: no row counts. Remove the column.")
    return [weight * len(found) / total for weight in found]


def check_lengths(dataset: Dataset, name: str, context: int | None, pad_token_id: int) -> None:
    """Refuse rows that the model cannot read.

    Raises:
        ValueError: a row is longer than the context, or has no token but padding.
    """
    for number, ids in enumerate(dataset[INPUT_IDS]):
        if context is not None and len(ids) > context:
            raise ValueError(
                f"The {name} dataset, row {number}: {len(ids)} tokens, the model reads {context}. Set `max_length` to "
                "cut such rows, or drop them."
            )
        if all(token == pad_token_id for token in ids):
            raise ValueError(f"The {name} dataset, row {number}: no token to classify. Drop the row.")
