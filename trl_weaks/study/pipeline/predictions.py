"""Answers of a model to the test split, one line per example."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from trl_weaks.columns import EXAMPLE_ID, LABEL, PROMPT, TEXT
from trl_weaks.distributed import processes
from trl_weaks.study.files import read_json_lines, write_atomically
from trl_weaks.study.pipeline.untaught import first_answer, with_shots
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

PREDICTIONS = "predictions.jsonl"
STATES = "states.npy"  # what a classifier's head read of the first test texts, (n, d) float32
STATES_KEPT = 300  # a kernel score takes time with their cube. *ours*


def predict_completions(
    model: WeakSupervisor,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    beams: int,
    max_new_tokens: int,
    batch_size: int,
    shots: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Decode every prompt and write its id and completion.

    Each process decodes its share; the first writes the file, in the order of the examples.

    Args:
        shots: gold rows that the model reads before each prompt.
    """
    state = processes()
    prompts = [with_shots(row[PROMPT], shots) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(str(prompts[i])))[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    steps = range(0, len(order), batch_size)
    for start in tqdm(steps, desc=f"decoding, {model.name}", disable=not state.is_main_process, leave=False):
        batch = order[start : start + batch_size]
        found = model.answer([prompts[i] for i in batch], num_candidates=beams, max_new_tokens=max_new_tokens)
        texts += [(i, first_answer(candidates[0][0], shots)) for i, candidates in zip(batch, found, strict=True)]
    by_index = dict(gather_object(texts))
    write_completions(folder, rows, [by_index[i] for i in range(len(rows))] if state.is_main_process else [])


def write_completions(folder: Path, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> None:
    """One line an example; by the first process, and nobody goes on before."""
    state = processes()
    if state.is_main_process:
        pairs = zip(rows, completions, strict=True)
        _write(folder, [{"id": row[EXAMPLE_ID], "completion": completion} for row, completion in pairs])
    state.wait_for_everyone()


def predict_classes(classifier: WeakClassifier, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write id, gold label, class probabilities and vacuity (null without evidence) of every text; and the states of
    the first ones, which the same forward pass has, of a classifier whose head is a linear layer."""
    if not processes().is_main_process:
        return
    texts, names = [row[TEXT] for row in rows], [row[EXAMPLE_ID] for row in rows]
    if classifier.has_states:
        found, states = classifier.predict_with_states(texts, names)
        file = io.BytesIO()
        np.save(file, states[:STATES_KEPT].numpy(), allow_pickle=False)
        write_atomically(folder / STATES, file.getvalue())
    else:
        found = classifier.predict(texts, names)
    vacuity = [None] * len(rows) if found.vacuity is None else found.vacuity.tolist()
    lines = [
        {"id": row[EXAMPLE_ID], "label": row[LABEL], "probabilities": probabilities, "vacuity": empty}
        for row, probabilities, empty in zip(rows, found.probabilities.tolist(), vacuity, strict=True)
    ]
    _write(folder, lines)


def read_predictions(folder: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The predictions of one system, checked against the test split they are for.

    Raises:
        ValueError: ids differ; the file belongs to another test split.
    """
    rows = read_json_lines(folder / PREDICTIONS)
    if [row["id"] for row in rows] != list(ids):
        raise ValueError(f"{folder / PREDICTIONS}: its ids are not those of the test split; delete the folder.")
    return rows


def read_states(folder: Path) -> np.ndarray | None:
    """The states that [`predict_classes`] kept; None where it kept none."""
    path = folder / STATES
    return np.load(path, allow_pickle=False) if path.is_file() else None


def _write(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / PREDICTIONS, text.encode())
