"""The stored labels as one `datasets` folder."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from ..columns import COMPLETION, EXAMPLE_ID, LOGPS, OFFSETS, PROMPT, SCORE, SUPERVISORS, WEIGHTS
from .checks import BLOCK
from .choose import rows_of
from .ensemble import WeakEnsemble
from .fingerprint import digest
from .ledger import Ledger
from .messages import as_completion
from .store import LabelStoreError

logger = logging.getLogger(__name__)


def consolidate(ledger: Ledger, ensemble: WeakEnsemble, dataset: Dataset, mode: str, folder: Path) -> Counter:
    """Write the dataset to `folder`, replacing an older one. Same labels, same bytes.

    Returns:
        For each supervisor, how many of its best answers were empty and left out.

    Raises:
        LabelStoreError: disk full or read-only; the labels themselves are kept.
        ValueError: every completion is empty.
    """
    empty: Counter = Counter()
    new = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with ArrowWriter(path=str(new / "rows.arrow"), features=_features(dataset)) as writer:
            count = 0
            for row in _rows(ledger, ensemble, dataset, mode, empty):
                writer.write(row)
                count += 1
            if count == 0:
                raise ValueError("every completion is empty; train the supervisors longer or check their eos token.")
            writer.finalize()
        table = Dataset.from_file(str(new / "rows.arrow"))
        table._fingerprint = digest(sorted(map(str, ledger.configs.items())), ensemble.weights, mode, count)
        table.save_to_disk(str(new / "dataset"))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new / "dataset", folder)
        shutil.rmtree(new)
    except OSError as error:
        raise LabelStoreError(
            f"the dataset cannot be written to {folder}: {error.strerror or error}. All labels are kept: make room or "
            "write access there, then run the same command again."
        ) from error
    for name, number in sorted(empty.items()):
        if number:
            logger.warning("%d of %d best answers of %r are empty and were left out.", number, len(dataset), name)
    return empty


def _rows(ledger: Ledger, ensemble: WeakEnsemble, dataset: Dataset, mode: str, empty: Counter) -> Iterator[dict]:
    for start in range(0, len(dataset), BLOCK):
        for row, example in enumerate(dataset.select(range(start, min(start + BLOCK, len(dataset)))), start=start):
            for label in rows_of(ledger, ensemble, row, mode, empty):
                yield {**example, **label, COMPLETION: as_completion(example[PROMPT], label[COMPLETION])}


def _features(dataset: Dataset) -> Features:
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
    }
    return Features({**columns, **{k: v for k, v in dataset.features.items() if k not in columns}})
