"""Bad rows are found, named and explained before any long work starts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ... import columns

TOLERANCE = 1e-4  # of the sum of an example's weights, and of a log-probability's upper bound


def _fail(row: int, example: Any, column: str, problem: str, remedy: str):
    raise ValueError(f"Row {row} (example {example!r}), column '{column}': {problem} {remedy}")


def check_columns(names: Iterable[str], dataset_name: str) -> None:
    """Raise if a generation column is missing.

    Raises:
        ValueError: names the missing columns and the remedy.
    """
    missing = [name for name in columns.GENERATION if name not in set(names)]
    if missing:
        raise ValueError(
            f"The {dataset_name} dataset lacks the column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}. "
            "Make it with `label_completions`, or see `trl_weaks.columns` for what each column holds."
        )


def check_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Check every generation row, and that the weights of each example sum to 1.

    Raises:
        ValueError: names row, example, column, problem and remedy.
    """
    totals: dict[str, float] = {}
    seen: dict[tuple[str, str, bool], int] = {}
    supervisors_of: dict[str, set[str]] = {}
    conversational = None
    for number, row in enumerate(rows):
        example = row[columns.EXAMPLE_ID]
        check_row(number, row)
        kind = not isinstance(row[columns.PROMPT], str)
        if conversational is not None and kind != conversational:
            _fail(number, example, columns.PROMPT, "mixes text and messages.", "Use one format for the whole dataset.")
        conversational = kind
        key = (example, repr(row[columns.COMPLETION]), row.get(columns.FINISHED, True))
        if key in seen:
            _fail(
                number,
                example,
                columns.EXAMPLE_ID,
                f"repeats the completion of row {seen[key]}; ids are duplicated or supervisors were not merged.",
                "Give every prompt its own id and every distinct completion one row.",
            )
        seen[key] = number
        known = supervisors_of.setdefault(example, set())
        _refuse_twice(number, example, [name for name in row[columns.SUPERVISORS] if name in known])
        known.update(row[columns.SUPERVISORS])
        totals[example] = totals.get(example, 0.0) + sum(row[columns.WEIGHTS])
    for example, total in totals.items():
        if abs(total - 1.0) > TOLERANCE:
            raise ValueError(
                f"Example {example!r}, column '{columns.WEIGHTS}': the weights of its rows sum to {total:.6g}, not 1. "
                "Keep all rows of an example together, or call `trl_weaks.renormalise_weights` on the dataset."
            )


def check_row(number: int, row: Mapping[str, Any]) -> None:
    """Check what one generation row says by itself, as rows of a stream are.

    Raises:
        ValueError: names row, example, column, problem and remedy.
    """
    example = row[columns.EXAMPLE_ID]
    whole = isinstance(example, int) and not isinstance(example, bool)
    if not whole and (not isinstance(example, str) or not example):
        _fail(
            number,
            example,
            columns.EXAMPLE_ID,
            "is neither a non-empty string nor a whole number.",
            "Give every prompt an id.",
        )
    _check_text(number, example, row)
    teaching = row.get(columns.TRAIN_WEIGHT, 1.0)
    if not isinstance(teaching, int | float) or not math.isfinite(teaching) or teaching < 0:
        _fail(number, example, columns.TRAIN_WEIGHT, f"holds {teaching}.", "Give a number of at least 0.")
    _check_supervisors(number, example, row)
    _check_confidences(number, example, row)
    if not isinstance(row.get(columns.FINISHED, True), bool):
        _fail(
            number,
            example,
            columns.FINISHED,
            f"is {row[columns.FINISHED]!r}, neither True nor False.",
            "Say whether the completion ends, or drop the column.",
        )


def check_streamed_row(number: int, row: Mapping[str, Any]) -> None:
    """As `check_row`; and no row weighs more than its example, whose other rows a stream does not show.

    Raises:
        ValueError: names row, example, column, problem and remedy.
    """
    check_row(number, row)
    total = sum(row[columns.WEIGHTS])
    if total > 1.0 + TOLERANCE:
        _fail(
            number,
            row[columns.EXAMPLE_ID],
            columns.WEIGHTS,
            f"its weights sum to {total:.6g}, and those of all rows of an example to 1.",
            "Normalise the weights of each example.",
        )


def _check_text(number: int, example: str, row: Mapping[str, Any]) -> None:
    for column in (columns.PROMPT, columns.COMPLETION):
        value = row[column]
        empty = not value if isinstance(value, str) else not value or not (value[-1] or {}).get("content")
        if empty:
            _fail(
                number, example, column, "is empty.", "Drop the row, or write what an empty answer means, e.g. '{}'."
            )
    completion = row[columns.COMPLETION]
    if not isinstance(completion, str) and (len(completion) != 1 or not isinstance(completion[0]["content"], str)):
        _fail(
            number,
            example,
            columns.COMPLETION,
            f"must be one message with text content; it has {len(completion)} messages.",
            f"Put earlier turns into '{columns.PROMPT}'.",
        )


def _check_supervisors(number: int, example: str, row: Mapping[str, Any]) -> None:
    names, weights = row[columns.SUPERVISORS], row[columns.WEIGHTS]
    if not names or None in names:
        _fail(
            number,
            example,
            columns.SUPERVISORS,
            "holds a null." if names else "is empty.",
            "Name the supervisors that gave this completion.",
        )
    for column in (columns.WEIGHTS, columns.OFFSETS, columns.LOGPS):
        _refuse_null(number, example, column, row[column])
        if len(row[column]) != len(names):
            _fail(
                number,
                example,
                column,
                f"has {len(row[column])} entries for {len(names)} supervisors.",
                f"Give one entry per name in '{columns.SUPERVISORS}'.",
            )
    _refuse_twice(number, example, [name for i, name in enumerate(names) if name in names[:i]])
    for weight in weights:
        if not math.isfinite(weight) or weight < 0.0:
            _fail(number, example, columns.WEIGHTS, f"holds {weight}.", "Weights are finite and not negative.")


def _refuse_twice(number: int, example: str, twice: Sequence[str]) -> None:
    if twice:
        _fail(
            number,
            example,
            columns.SUPERVISORS,
            f"supervisor {twice[0]!r} already labelled this example.",
            "Ids must be unique per prompt, and a supervisor gives one completion.",
        )


def _refuse_null(number: int, example: str, column: str, values: Sequence[Any] | None) -> None:
    if values is None or any(value is None for value in values):
        _fail(number, example, column, "holds a null.", "Label this example again, or drop all of its rows.")


def _check_confidences(number: int, example: str, row: Mapping[str, Any]) -> None:
    for name, spans, logps in zip(row[columns.SUPERVISORS], row[columns.OFFSETS], row[columns.LOGPS], strict=True):
        _refuse_null(number, example, columns.LOGPS, logps)
        _refuse_null(number, example, columns.OFFSETS, spans)
        for span in spans:
            if len(span) != 2 or span[0] is None or span[1] is None:
                _fail(
                    number,
                    example,
                    columns.OFFSETS,
                    f"supervisor {name!r} has the span {span}.",
                    "Give [start, end) characters of the completion for every token.",
                )
        if len(spans) != len(logps):
            _fail(
                number,
                example,
                columns.LOGPS,
                f"supervisor {name!r} has {len(logps)} log-probabilities for {len(spans)} tokens.",
                f"Give one per span in '{columns.OFFSETS}'.",
            )
        for logp in logps:
            if not math.isfinite(logp):
                _fail(
                    number,
                    example,
                    columns.LOGPS,
                    f"supervisor {name!r} has {logp}.",
                    "Re-label this example; it usually means that the supervisor's weights or its dtype overflowed.",
                )
            if logp > TOLERANCE:
                _fail(
                    number,
                    example,
                    columns.LOGPS,
                    f"supervisor {name!r} has {logp:.6g}, a probability above 1.",
                    "Store natural logarithms of probabilities, which are at most 0.",
                )
