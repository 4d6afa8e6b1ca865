"""Predictions of a classifier on the test split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_weaks.columns import EXAMPLE_ID, LABEL, TEXT
from trl_weaks.distributed import processes
from trl_weaks.study.files import write_atomically
from trl_weaks.supervisors.classifier import WeakClassifier

PREDICTIONS = "predictions.jsonl"


def predict(classifier: WeakClassifier, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write one line per row: id, gold label, class probabilities, vacuity (null without evidence)."""
    if not processes().is_main_process:
        return
    found = classifier.predict([row[TEXT] for row in rows], [row[EXAMPLE_ID] for row in rows])
    vacuity = [None] * len(rows) if found.vacuity is None else found.vacuity.tolist()
    lines = [
        json.dumps({"id": row[EXAMPLE_ID], "label": row[LABEL], "probabilities": probabilities, "vacuity": empty})
        for row, probabilities, empty in zip(rows, found.probabilities.tolist(), vacuity, strict=True)
    ]
    write_atomically(folder / PREDICTIONS, ("\n".join(lines) + "\n").encode())


def read_predictions(folder: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions of one system, checked against the rows they are for.

    Raises:
        ValueError: ids or gold differ; the file belongs to another test split.
    """
    found = [json.loads(line) for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    if [(line["id"], line["label"]) for line in found] != [(row[EXAMPLE_ID], row[LABEL]) for row in rows]:
        raise ValueError(f"{folder / PREDICTIONS}: its rows are not those of the test split; delete the folder.")
    return found
