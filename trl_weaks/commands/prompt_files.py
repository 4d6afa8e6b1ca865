"""Prompts from files, folders and the Hub, with ids and texts as they are written there.

Readers of tables guess types: `007` becomes 7, 12345678901234567890 becomes 1.2e+19, `NA` nothing, and a text that
looks like a date a date. An id is what joins a label to its row, so none of that may happen to it, nor to a prompt.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Json, Value, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetGenerationError

FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
# What pandas takes for a missing value; in columns of ids and prompts it is text.
MISSING = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"]
MISSING += ["NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
TEMPORAL = ("timestamp", "date", "time", "duration")


def read_dataset(source: str, config: str | None, split: str, id_column: str, text_column: str) -> Dataset:
    """A dataset of a file, a folder that was saved to disk, a folder of files, or the Hub.

    Args:
        id_column: if it is there, its values are text afterwards, as written.
        text_column: of prompts: cells of a CSV file stay text there.

    Raises:
        ValueError: a file that cannot be read, another split, or ids that are neither text nor whole numbers.
    """
    path, as_text = Path(source), (id_column, text_column)
    if path.is_file():
        data = _from_file(path, split, as_text)
        if FORMATS[path.suffix] == "json":
            data = _as_written(data, path, id_column)
    elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        data = _from_disk(path, split)
    else:
        tables = type(load_dataset_builder(source, config)).__name__.startswith("Csv")
        data = load_dataset(source, config, split=split)
        data = load_dataset(source, config, split=split, **_text_cells(data, as_text)) if tables else data
    return _with_text_ids(data, source, id_column) if id_column in data.column_names else data


def _from_disk(path: Path, split: str) -> Dataset:
    data = load_from_disk(str(path))
    if isinstance(data, dict) and split not in data:
        raise ValueError(f"--dataset {path} has no split {split!r}, only {list(data)}; choose with --split.")
    return data[split] if isinstance(data, dict) else data


def _text_cells(data: Dataset, as_text: Sequence[str]) -> dict[str, Any]:
    """Options of the CSV reader that leave some columns as they are written, and the others as they were read."""
    others = {name: MISSING for name in data.column_names if name not in as_text}
    return {"converters": dict.fromkeys(as_text, str), "keep_default_na": False, "na_values": others}


def _from_file(path: Path, split: str, as_text: Sequence[str]) -> Dataset:
    if path.suffix not in FORMATS:
        raise ValueError(f"--dataset {path}: unknown ending; use one of {', '.join(FORMATS)}.")
    reader = partial(load_dataset, FORMATS[path.suffix], data_files={split: str(path)}, split=split)
    try:
        data = reader()
        return reader(**_text_cells(data, as_text)) if path.suffix == ".csv" else data
    except StopIteration:  # what `datasets` makes of an empty file
        problem = "it is empty"
    except DatasetGenerationError as error:
        problem = str(error.__cause__ or error)
        problem = "it is empty" if problem.startswith("No columns to parse") else problem
    except ValueError as error:
        problem = "it holds no rows" if "corresponds to no data" in str(error) else str(error)
    raise ValueError(f"--dataset {path} cannot be read: {problem}.")


def _as_written(data: Dataset, path: Path, id_column: str) -> Dataset:
    """Columns whose types may have been guessed wrongly, read again: ids, and texts taken for dates.

    A file is read in pieces, and the first decides: after numbers, a later "007" is 7 without an error.
    """
    names = data.column_names
    for name, feature in data.features.items():
        is_id = name == id_column
        if not is_id and not any(kind in str(feature) for kind in TEMPORAL):
            continue
        values = [row.get(name) if isinstance(row, dict) else None for row in _json_rows(path, numbers=not is_id)]
        if len(values) != len(data):
            raise ValueError(f"--dataset {path}: {len(values)} rows where {len(data)} were read; write JSON lines.")
        if is_id:
            values = [_id(value, f"--dataset {path}, row {row}", name) for row, value in enumerate(values)]
        data = data.remove_columns(name).add_column(name, values)
    return data.select_columns(names)


def _json_rows(path: Path, numbers: bool) -> Iterator[Any]:
    """The objects of a file that holds a list or one a line. Numbers as numbers, or as the text that they are."""
    kept = {} if numbers else dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str)
    with path.open(encoding="utf-8-sig") as file:
        lines = (line for line in file if line.strip())
        first = next(lines, "")
        try:
            if first.lstrip().startswith("["):
                yield from json.loads(first + "".join(lines), **kept)
                return
            yield json.loads(first, **kept)
            yield from (json.loads(line, **kept) for line in lines)
        except ValueError as error:
            raise ValueError(f"--dataset {path}: ids and texts cannot be read as written ({error}).") from error


def _with_text_ids(data: Dataset, source: str, column: str) -> Dataset:
    feature = data.features[column]
    if feature == Value("string"):
        return data
    if isinstance(feature, Json):  # numbers beside text
        ids = [_id(value, f"--dataset {source}, row {row}", column) for row, value in enumerate(data[column])]
        return data.remove_columns(column).add_column(column, ids)
    kind = str(getattr(feature, "dtype", feature))
    if isinstance(feature, ClassLabel) or not kind.startswith(("int", "uint", "string", "large_string")):
        raise ValueError(
            f"--dataset {source}: column {column!r} holds {feature}, where ids are text or whole numbers; as text "
            "they would not be what was written. Convert the column to text, or choose another with --id_column."
        )
    return data.cast_column(column, Value("string"))


def _id(value: Any, where: str, column: str) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{where}: column {column!r} holds {value!r}; an id is text or a number.")
