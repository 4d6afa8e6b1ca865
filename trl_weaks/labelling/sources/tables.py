"""Tables of votes, answers and comparisons, read the same from everywhere; ids stay text, as written."""

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, IterableDataset

from ...columns import EXAMPLE_ID
from ...supervisors.class_names import real_names

LOGPROBS = "logprobs"
Table = Any  # a Dataset, a pandas DataFrame, a list of dicts, or the path of a CSV, JSON-lines or Parquet file


def read_table(table: Table, what: str, needed: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a table as dicts; missing values (NaN, empty CSV cells) are None.

    A `ClassLabel` column, of a `Dataset` or of the Parquet file that it wrote, gives names in place of ids: another
    table may list the same classes in another order.

    Args:
        table: a `Dataset`, a pandas DataFrame, an iterable of dicts, or the path of a `.csv`, `.jsonl` or `.parquet`
            file. CSV cells stay text.
        what: what to call it in messages.
        needed: columns that must be there. `optional`: columns that may be; others are kept too.

    Raises:
        ValueError: no rows, a missing column (with those that are there), text that is no Unicode or a class that
            has no name (row, id and column), or a table of another kind.
        FileNotFoundError: the file is not there.
    """
    rows = []
    for number, row in enumerate(_rows(table, what)):
        if not isinstance(row, Mapping):
            raise ValueError(f"{what}, row {number}: {row!r} is no object with a value for each column.")
        rows.append(dict(row))
    if not rows:
        raise ValueError(f"{what}: there are no rows.")
    for number, row in enumerate(rows):
        missing = [name for name in needed if name not in row]
        if missing:
            raise ValueError(
                f"{what}, row {number}: there is no column {missing[0]!r}; it needs {', '.join(needed)}"
                f"{' and may have ' + ', '.join(optional) if optional else ''}, and has {', '.join(map(str, row))}."
            )
        for name, value in row.items():
            if _is_missing(value):
                row[name] = None
            if name != LOGPROBS:  # its tokens may be parts of characters; `read_logprobs` looks at them
                refuse_broken_text(value, f"{what}, row {number}{_of_example(row)}: column {name!r}")
    return rows


def _of_example(row: Mapping[str, Any]) -> str:
    return f" (example_id {row[EXAMPLE_ID]!r})" if row.get(EXAMPLE_ID) is not None else ""


def refuse_broken_text(value: Any, where: str) -> None:
    """Refuse a text, or one within lists and dicts, that holds half a character and that no file could store.

    Raises:
        ValueError: says `where`, which half, and what to do.
    """
    if isinstance(value, str):
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where} holds {value[error.start]!r} at character {error.start}, half of a character (a lone "
                "surrogate), as a text has that was cut in the middle of one. Cut it elsewhere, or drop the half: "
                "text.encode('utf-8', 'ignore').decode()."
            ) from None
    elif isinstance(value, Mapping | list | tuple):
        for part in [*value, *value.values()] if isinstance(value, Mapping) else value:
            refuse_broken_text(part, where)


def _is_missing(value: Any) -> bool:
    """NaN of any kind, and pandas' own missing values."""
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return type(value).__name__ in ("NAType", "NaTType")


def features_of(table: Table) -> Features:
    """The types of a table's columns; none where the table has no types, as a list or a CSV file."""
    if isinstance(table, str | Path) and Path(table).suffix == ".parquet":
        table = Dataset.from_parquet(str(table))
    found = getattr(table, "features", None)
    return found if isinstance(found, Features) else Features()


def as_dataset(rows: Sequence[Mapping[str, Any]], examples: Table) -> Dataset:
    """Rows made of `examples` as a dataset: a column that any row has is there, and None in the others.

    Columns that are carried from a `Dataset` or a Parquet file keep their types, such as the names of a `ClassLabel`.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    made = Dataset.from_dict({name: _column([row.get(name) for row in rows], name) for name in names})
    kept = {name: feature for name, feature in features_of(examples).items() if name in names and name != EXAMPLE_ID}
    return made.cast(Features({**made.features, **kept})) if kept else made


def _column(values: list[Any], name: str) -> list[Any]:
    """The values, if one column can hold them: text beside numbers, it cannot."""
    kinds = {str if isinstance(value, str) else float for value in values if isinstance(value, str | int | float)}
    if len(kinds) > 1:
        raise ValueError(f"examples: column {name!r} holds text in some rows and numbers in others; write one kind.")
    return values


def as_id(value: Any, what: str, number: int, column: str) -> str:
    """An id as text: strings as they are, whole numbers in digits.

    Raises:
        ValueError: an empty or missing id, or a value that is neither text nor a whole number.
    """
    if isinstance(value, str) and value:
        return value
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # pandas' whole numbers with gaps
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(
        f"{what}, row {number}: column {column!r} holds {value!r}; it must be non-empty text or a whole number."
    )


def plain_text(text: str) -> str:
    """The text as a reader sees it: without white space at its ends, accents encoded in one way."""
    return unicodedata.normalize("NFC", text).strip()


def same_text(first: str, second: str) -> float:
    """1 where a reader sees the same text, else 0."""
    return float(plain_text(first) == plain_text(second))


def shares_of_texts(weighted: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The weight behind each text, one entry for what a reader takes for one.

    Returns:
        Each by its variant of most weight, of equal ones the first by its characters.

    Example:

    >>> shares_of_texts([("Paris", 0.3), ("London", 0.4), (" Paris", 0.25)])
    {'Paris': 0.55, 'London': 0.4}
    """
    groups: dict[str, dict[str, float]] = {}
    for text, weight in weighted:
        variants = groups.setdefault(plain_text(text), {})
        variants[text] = variants.get(text, 0.0) + weight
    shown = ((max(sorted(variants), key=variants.__getitem__), variants) for variants in groups.values())
    return {text: math.fsum(variants.values()) for text, variants in shown}


def refuse_alike(names: Iterable[str], what: str) -> None:
    """Refuse two names of supervisors that a reader takes for one.

    Raises:
        ValueError: two that differ only in white space at the ends or the encoding of accents; names both.
    """
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(plain_text(name), name)
        if other != name:
            raise ValueError(
                f"{what}: column 'supervisor' holds {other!r} and {name!r}, which differ only in white space at the "
                "ends or the encoding of accents; write one name for one supervisor."
            )


def as_confidence(value: Any, where: str) -> float | None:
    """A stated confidence in (0, 1], or None; `where` it stands is for messages.

    Raises:
        ValueError: a value outside, or no number.
    """
    if value is None or value == "":
        return None
    try:
        number_given = float(value)
    except (TypeError, ValueError):
        number_given = math.nan
    if isinstance(value, bool | np.bool_) or not 0 < number_given <= 1:
        raise ValueError(
            f"{where}: column 'confidence' holds {value!r}; it must be above 0 and at most 1 (leave it "
            "empty where there is none)."
        )
    return number_given


def _rows(table: Table, what: str) -> Iterable[Mapping[str, Any]]:
    if isinstance(table, str | Path):
        rows = _file(Path(table), what)
        return _with_class_names(rows, what) if isinstance(rows, Dataset) else rows
    if isinstance(table, Dataset | IterableDataset):
        return _with_class_names(table, what)
    if hasattr(table, "to_dict") and hasattr(table, "columns"):  # pandas, without importing it
        _refuse_twice(list(table.columns), what)
        return table.to_dict(orient="records")
    rows = list(table) if isinstance(table, Iterable) and not isinstance(table, Mapping) else None
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"{what} is a {type(table).__name__}; give a Dataset, a DataFrame, a list of dicts or the path of a file."
        )
    return rows


def _with_class_names(table: Dataset | IterableDataset, what: str) -> Iterator[dict[str, Any]]:
    """The rows, with the names of classes in place of ids; -1 is how `ClassLabel` writes that there is none.

    Names that only number the classes say nothing of their order: ids stay, and None stands for -1.
    """
    named = {name: one for name, one in features_of(table).items() if isinstance(one, ClassLabel)}
    real = {name: real_names(feature.names) for name, feature in named.items()}
    for number, row in enumerate(table):
        found = dict(row)
        for name in named.keys() & found.keys():
            k = None if found[name] is None else int(found[name])
            if k is not None and k >= named[name].num_classes:
                raise ValueError(
                    f"{what}, row {number}{_of_example(row)}: column {name!r} holds the class {k}, and names only "
                    f"{named[name].num_classes} classes ({named[name].names}). Correct it, or name all classes."
                )
            names = real[name]
            found[name] = None if k is None or k < 0 else k if names is None else names[k]
        yield found


def _refuse_twice(names: Sequence[Any], what: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{what}: there are two columns {twice[0]!r}; rename or remove one.")


def _text(path: Path, what: str) -> str:
    """The text of a file, its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: {path} is not UTF-8 ({error}); save it as UTF-8.") from error


def _file(path: Path, what: str) -> Iterable[Mapping[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{what}: no such file: {path}")
    if path.suffix == ".csv":
        lines = csv.DictReader(io.StringIO(_text(path, what), newline=""))
        rows = list(lines)
        _refuse_twice(list(lines.fieldnames or ()), what)
        for number, row in enumerate(rows):
            if None in row or None in row.values():
                raise ValueError(f"{what}, row {number} of {path}: it has another number of cells than the header.")
        return [{name: value or None for name, value in row.items()} for row in rows]
    if path.suffix in (".jsonl", ".ndjson"):
        rows = []
        for number, line in enumerate(_text(path, what).split("\n")):  # str.splitlines would also cut inside texts
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise ValueError(f"{what}: line {number + 1} of {path} is not JSON ({error}).") from error
        return rows
    if path.suffix == ".parquet":
        return Dataset.from_parquet(str(path))
    raise ValueError(f"{what}: {path} must be a .csv, .jsonl or .parquet file.")
