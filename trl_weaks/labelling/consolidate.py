"""The stored labels as one `datasets` folder."""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from ..columns import COMPLETION, EXAMPLE_ID, FINISHED, LOGPS, OFFSETS, PROMPT, SCORE, SUPERVISORS, WEIGHTS
from ..fingerprint import digest
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.messages import as_completion
from .choose import LeftOut, rows_of
from .index import BLOCK
from .ledger import Ledger
from .progress import bar
from .store import writing

logger = logging.getLogger(__name__)
CUT = {
    "no_eos": "no end is taught there (column weak_finished; a stock SFTTrainer would append one)",
    "keep": "they are trained as whole answers",
    "drop": "they are left out",
}


@dataclass
class Counts:
    """Prompts given, rows written, examples that have one, and answers that were left out."""

    prompts: int
    rows: int = 0
    examples: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


def consolidate(
    ledger: Ledger, ensemble: WeakEnsemble, dataset: Dataset, mode: str, folder: Path, unfinished: str = "no_eos"
) -> Counts:
    """Write the dataset to `folder`, replacing an older one. Same labels, same bytes.

    Raises:
        LabelStoreError: disk full or read-only; the labels themselves are kept.
        ValueError: every completion is empty or too long.
    """
    counts = Counts(len(dataset))
    new = folder.with_name(folder.name + ".new")
    with writing("the dataset", folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with ArrowWriter(path=str(new / "rows.arrow"), features=features(dataset)) as writer:
            for row in _rows(ledger, ensemble, dataset, mode, counts, unfinished):
                writer.write(row)
            if counts.rows == 0:
                raise ValueError(_nothing(counts))
            writer.finalize()
        table = Dataset.from_file(str(new / "rows.arrow"))
        table._fingerprint = digest(
            sorted(map(str, ledger.configs.items())), ensemble.weights, mode, unfinished, counts.rows
        )
        table.save_to_disk(str(new / "dataset"))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new / "dataset", folder)
        shutil.rmtree(new)
    _warn(counts, unfinished)
    return counts


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


def _rows(
    ledger: Ledger, ensemble: WeakEnsemble, dataset: Dataset, mode: str, counts: Counts, unfinished: str
) -> Iterator[dict]:
    with bar(len(dataset), "writing the dataset") as shown:
        for start in range(0, len(dataset), BLOCK):
            block = dataset.select(range(start, min(start + BLOCK, len(dataset))))
            for row, example in enumerate(block, start=start):
                labels = list(rows_of(ledger, ensemble, row, mode, counts.left_out, unfinished))
                counts.examples += bool(labels)
                counts.rows += len(labels)
                for label in labels:
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
