"""The dataset that stored labels give: written to a folder, and compared with what is written there."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, List, Value, load_from_disk
from datasets.arrow_writer import ArrowWriter

from ...aggregation.answers.completions import LeftOut
from ...columns import (
    COMPLETION,
    EXAMPLE_ID,
    FINISHED,
    GENERATION,
    LOGPS,
    OFFSETS,
    PROMPT,
    SCORE,
    SUPERVISORS,
    WEIGHTS,
)
from ...files import replaced_folder, writing
from ...fingerprint import digest
from ...supervisors.reading.messages import as_completion
from .index import BLOCK
from .progress import bar

logger = logging.getLogger(__name__)
SHARD = 500_000_000  # bytes of a Parquet file before compression, as `datasets` uploads them
COMPARED = (*GENERATION, SCORE, FINISHED)
CUT = {
    "no_eos": "no end is taught there (column weak_finished; a stock SFTTrainer would append one)",
    "keep": "they are trained as whole answers",
    "drop": "they are left out",
}
Labels = Callable[[int, LeftOut], Iterable[dict]]  # the labels of a row of the prompts' dataset; counts what it omits


@dataclass
class Counts:
    """Prompts given, rows written, examples that have one, and answers that were left out."""

    prompts: int
    rows: int = 0
    examples: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


def export(labels: Labels, dataset: Dataset, folder: Path, identity: Sequence, unfinished: str = "no_eos") -> Counts:
    """Write the dataset to `folder`, replacing an older one. Same labels, same bytes.

    Args:
        identity: what, with the number of rows, decides the dataset's fingerprint.

    Raises:
        LabelStoreError: disk full or read-only; the labels themselves are kept.
        ValueError: every completion is empty or too long.
    """
    counts = Counts(len(dataset))
    with writing("the dataset", folder), replaced_folder(folder) as new:
        rows = new.with_name("rows.arrow")
        with ArrowWriter(path=str(rows), features=features(dataset)) as writer:
            for row in _rows(labels, dataset, counts):
                writer.write(row)
            if counts.rows == 0:
                raise ValueError(_nothing(counts))
            writer.finalize()
        table = Dataset.from_file(str(rows))
        save(Dataset(table.data, table.info, fingerprint=digest(*identity, counts.rows)), new)
    _warn(counts, unfinished)
    return counts


def save(dataset: Dataset, folder: Path) -> None:
    """Write a dataset for `load_from_disk`, and beside it as Parquet files, which `load_dataset` finds from above.

    Where a column of the user's has a type that Parquet lacks, such as a struct without fields, Arrow alone is
    written, with a warning.
    """
    dataset.save_to_disk(str(folder))
    shards = max(1, -(-dataset.data.nbytes // SHARD))
    try:
        for i in range(shards):
            part = dataset.shard(shards, i, contiguous=True) if shards > 1 else dataset
            path = folder / f"train-{i:05d}-of-{shards:05d}.parquet"
            part.to_parquet(path, batch_size=BLOCK)  # rows held at a time
    except pa.ArrowException as error:  # of the disk it is an OSError
        for file in folder.glob("train-*.parquet"):
            file.unlink()
        logger.warning("Parquet cannot hold these labels (%s): read them with `load_from_disk` alone.", error)


def differences(labels: Labels, dataset: Dataset, folder: Path, rows: Sequence[int]) -> list[str]:
    """Where some prompts' rows in `folder` are not, to the last bit, those that their labels give."""
    try:
        written = load_from_disk(str(folder))
        lost = [column for column in COMPARED if column not in written.column_names]
        places = _places(written, set(dataset.select(rows)[EXAMPLE_ID])) if not lost else {}
    except (OSError, ValueError, KeyError, TypeError) as error:  # missing, or whatever an altered file gives
        return [f"{folder} is missing or cannot be read ({error}); labelling again with the same arguments writes it"]
    if lost:
        return [f"{folder} lacks the column {lost[0]!r}; labelling again with the same arguments writes it"]
    different = []
    for row, example in zip(rows, dataset.select(rows), strict=True):
        expected = [labelled(example, label) for label in labels(row, LeftOut())]
        ours = Dataset.from_list(expected, features=features(dataset))[:] if expected else {}
        theirs = written[places[example[EXAMPLE_ID]]]
        wrong = [column for column in COMPARED if ours.get(column, []) != theirs[column]]
        if wrong:
            different.append(
                f"row {row} (example_id {example[EXAMPLE_ID]!r}): {folder} holds another {wrong[0]!r} than the kept "
                "labels and these weights give"
            )
    return different


def _places(written: Dataset, wanted: set[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    ids = written.select_columns([EXAMPLE_ID])
    for start in range(0, len(ids), BLOCK):
        for place, example_id in enumerate(ids[start : start + BLOCK][EXAMPLE_ID], start=start):
            if example_id in wanted:
                places[example_id].append(place)
    return places


def _nothing(counts: Counts) -> str:
    if any(counts.left_out.too_long.values()):
        return (
            "no completion is left: those that are not empty are too long for the context of "
            f"{sorted(+counts.left_out.too_long)}; ask for fewer tokens (max_new_tokens) or shorten the prompts."
        )
    if any(counts.left_out.unfinished.values()):
        return "no completion is left: all were cut at max_new_tokens; raise it, or keep them (`unfinished`)."
    return "every completion is empty; train the supervisors longer or check their eos token."


def _warn(counts: Counts, unfinished: str) -> None:
    for name, number in sorted((+counts.left_out.empty).items()):
        logger.warning("%d of %d best answers of %r are empty and were left out.", number, counts.prompts, name)
    for name, number in sorted((+counts.left_out.too_long).items()):
        logger.warning(
            "%d answers were left out: they are too long for the context of %r. Fewer max_new_tokens or shorter "
            "prompts keep them.",
            number,
            name,
        )
    cut, asked = sum(counts.left_out.unfinished.values()), counts.prompts * len(counts.left_out.unfinished)
    if cut:
        logger.warning(
            "%d of %d best answers (%.0f %%) were cut at max_new_tokens: %s. Raise max_new_tokens, or choose "
            "`unfinished`.",
            cut,
            asked,
            100 * cut / asked,
            CUT[unfinished],
        )


def _rows(labels: Labels, dataset: Dataset, counts: Counts) -> Iterator[dict]:
    with bar(len(dataset), "writing the dataset") as shown:
        for start in range(0, len(dataset), BLOCK):
            block = dataset.select(range(start, min(start + BLOCK, len(dataset))))
            for row, example in enumerate(block, start=start):
                found = list(labels(row, counts.left_out))
                counts.examples += bool(found)
                counts.rows += len(found)
                for label in found:
                    yield labelled(example, label)
            shown.update(len(block))


def labelled(example: dict, label: dict) -> dict:
    """A row of the dataset: the prompt's columns with one completion's."""
    return {**example, **label, COMPLETION: as_completion(example[PROMPT], label[COMPLETION])}


def features(dataset: Dataset) -> Features:
    """The types of the columns, those of the prompts' dataset last."""
    text, number = Value("string"), Value("float32")
    chat = dataset.features[PROMPT] != text and not isinstance(dataset[0][PROMPT], str)
    columns = {
        EXAMPLE_ID: text,
        PROMPT: dataset.features[PROMPT],
        COMPLETION: List({"role": text, "content": text}) if chat else text,
        SUPERVISORS: List(text),
        WEIGHTS: List(Value("float64")),
        OFFSETS: List(List(List(Value("int32")))),
        LOGPS: List(List(number)),
        SCORE: Value("float64"),
        FINISHED: Value("bool"),
    }
    return Features({**columns, **{k: v for k, v in dataset.features.items() if k not in columns}})
