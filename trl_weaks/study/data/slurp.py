"""SLURP (Bastianelli et al., 2020) for slot filling, from a local folder.

The folder holds `train.jsonl`, `devel.jsonl`, `test.jsonl` and `slot_types.txt` (one type a line, in prompt order);
a row is `{"id": str, "sentence": str, "slots": [[type, filler], ...]}`, other fields are ignored. An optional
`unlabelled.txt` holds one sentence a line.
"""

import json
import random
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from trl_weaks.study.data.rows import Splits, Utterance, distinct, normalise, take


def load_splits(
    folder: Path, half_a: int = 2000, half_b: int = 2000, validation: int = 500, test: int | None = None, seed: int = 0
) -> Splits:
    """Half A and half B from SLURP's train, validation from its devel, test from its test split in file order.

    The test split is taken whole unless `test` limits it; what shares its normalised text with a test row is dropped
    elsewhere. The 2,000 + 2,000 are the paper's.

    Args:
        folder: the data folder.
        half_a, half_b, validation, test: numbers of examples.
        seed: picks the examples of the halves and of validation; the test split does not depend on it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed row (names file, line and field), a repeated id, or a size that cannot be had.
    """
    types = frozenset(load_slot_types(folder))
    train, devel, held_out = (_read(Path(folder) / f"{name}.jsonl", types) for name in ("train", "devel", "test"))
    tested = {normalise(example.text) for example in held_out}
    checked = list(distinct(devel, tested))
    pool = list(distinct(train, tested | {normalise(example.text) for example in checked}))
    first = take(_shuffled(pool, f"{seed}:train"), half_a, "half_a")
    rest = _shuffled(pool, f"{seed}:train")[len(first) :]
    return Splits(
        first, take(rest, half_b, "half_b"), take(checked, validation, "validation"), take(held_out, test, "test")
    )


def load_slot_types(folder: Path) -> list[str]:
    """The task's slot types, in prompt order."""
    path = Path(folder) / "slot_types.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there; the types of SLURP's slots are needed, one a line, in prompt order"
        )
    types = path.read_text(encoding="utf-8").split()
    if not types or len(set(types)) < len(types):
        raise ValueError(f"{path}: one distinct slot type a line is needed")
    return types


def load_unlabelled(folder: Path) -> list[str]:
    """Sentences without labels: `unlabelled.txt`, else the text of `train.jsonl`; none of a devel or test row."""
    types = frozenset(load_slot_types(folder))
    held_out = [example for name in ("devel", "test") for example in _read(Path(folder) / f"{name}.jsonl", types)]
    path = Path(folder) / "unlabelled.txt"
    if path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    else:
        lines = [example.text for example in _read(Path(folder) / "train.jsonl", types)]
    examples = (Utterance("", line, ()) for line in lines if line)
    return [example.text for example in distinct(examples, (normalise(example.text) for example in held_out))]


def _shuffled(examples: list[Utterance], seed: str) -> list[Utterance]:
    return random.Random(seed).sample(examples, len(examples))


def _read(path: Path, types: Set[str]) -> list[Utterance]:
    examples, lines_of = [], {}
    for number, row in json_lines(path):
        example = _example(row, types, f"{path}, line {number}")
        if example.id in lines_of:
            raise ValueError(f"{path}, line {number}: id {example.id!r} stands on line {lines_of[example.id]} already")
        lines_of[example.id] = number
        examples.append(example)
    if not examples:
        raise ValueError(f"{path}: no rows")
    return examples


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number, from 1, and value of every line; a missing file or a line that is no JSON is named."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; the folder needs train.jsonl, devel.jsonl and test.jsonl")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}); one object a line is needed") from error


def _example(row: Any, types: Set[str], where: str) -> Utterance:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: an object is needed, not {type(row).__name__}")
    for field in ("id", "sentence"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"{where}, field {field!r}: a string with text is needed, not {row.get(field)!r}")
    slots = row.get("slots")
    if not isinstance(slots, list):
        raise ValueError(f"{where}, field 'slots': a list of [type, filler] is needed, not {slots!r}")
    for slot in slots:
        if not (
            isinstance(slot, list) and len(slot) == 2 and all(isinstance(part, str) and part.strip() for part in slot)
        ):
            raise ValueError(f"{where}, field 'slots': {slot!r} is not [type, filler] with text in both")
        if slot[0] not in types:
            raise ValueError(f"{where}, field 'slots': type {slot[0]!r} is not in slot_types.txt")
        if f" {slot[1]} " not in f" {row['sentence']} ":
            raise ValueError(f"{where}, field 'slots': filler {slot[1]!r} is not a run of words of the sentence")
    return Utterance(row["id"], row["sentence"], tuple((slot_type, filler) for slot_type, filler in slots))
