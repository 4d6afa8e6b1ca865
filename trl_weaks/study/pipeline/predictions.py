"""Answers of a model to the test split, one line per example."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from trl_weaks.alignment import before_text, transfer_logps
from trl_weaks.columns import EXAMPLE_ID, LABEL, PROMPT, TEXT
from trl_weaks.distributed import processes
from trl_weaks.study.files import read_json_lines, write_atomically
from trl_weaks.study.pipeline.untaught import first_answer, with_shots
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.reading.messages import as_completion
from trl_weaks.supervisors.scores import Scored
from trl_weaks.supervisors.supervisor import WeakSupervisor

PREDICTIONS = "predictions.jsonl"
CONFIDENCES = "confidences.jsonl"  # how probable a model finds its own answers
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
    """Decode every prompt and write its id and completion; and how probable the model finds its answer, read once.

    Each process decodes its share; the first writes the files, in the order of the examples.

    Args:
        shots: gold rows that the model reads before each prompt. Its answers, which end where it would go on with an
            example of its own, are not read again.
    """
    state = processes()
    prompts = [with_shots(row[PROMPT], shots) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(str(prompts[i])))[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    sure: list[tuple[int, dict[str, Any]]] = []
    steps = range(0, len(order), batch_size)
    for start in tqdm(steps, desc=f"decoding, {model.name}", disable=not state.is_main_process, leave=False):
        batch = order[start : start + batch_size]
        asked = [prompts[i] for i in batch]
        found = model.answer(asked, num_candidates=beams, max_new_tokens=max_new_tokens)
        best = [candidates[0] for candidates in found]
        texts += [(i, first_answer(text, shots)) for i, (text, _) in zip(batch, best, strict=True)]
        if not shots:
            names = [f"example {rows[i][EXAMPLE_ID]!r}" for i in batch]
            sure += zip(batch, _confidences(model, asked, best, names), strict=True)
    by_index, read = dict(gather_object(texts)), dict(gather_object(sure))
    if state.is_main_process and read:
        lines = [{"id": row[EXAMPLE_ID]} | read[i] for i, row in enumerate(rows)]
        _write(folder, lines, CONFIDENCES)
    write_completions(folder, rows, [by_index[i] for i in range(len(rows))] if state.is_main_process else [])


def _confidences(
    model: WeakSupervisor, prompts: Sequence[Any], answers: Sequence[tuple[str, bool]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """`mean_logp`, nats per token, and `word_logps`; null for an answer of no token, or longer than the context."""
    given = [as_completion(prompt, text) for prompt, (text, _) in zip(prompts, answers, strict=True)]
    read = model.score_fitting(prompts, given, names)
    return [_confidence(found, *answer) for found, answer in zip(read, answers, strict=True)]


def _confidence(found: Scored | None, text: str, finished: bool) -> dict[str, Any]:
    if found is None:
        return {"mean_logp": None, "word_logps": None}
    start, end = before_text(found.offsets), len(found.logps) - 1
    logps = found.logps[start : end + finished]  # without an end that the model did not write
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    read = found.offsets[start:end], found.logps[start:end]
    words = transfer_logps(*read, spans, text=text, unit="word") if spans else []
    mean = sum(logps) / len(logps) if logps else None
    return {"mean_logp": mean, "word_logps": [float(word) for word in words]}


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


def read_confidences(folder: Path, ids: Sequence[str]) -> list[dict[str, Any]] | None:
    """What [`predict_completions`] kept of the probabilities of its answers; None where it kept none.

    Raises:
        ValueError: as [`read_predictions`].
    """
    return read_predictions(folder, ids, CONFIDENCES) if (folder / CONFIDENCES).is_file() else None


def read_predictions(folder: Path, ids: Sequence[str], name: str = PREDICTIONS) -> list[dict[str, Any]]:
    """The predictions of one system, checked against the test split they are for.

    Raises:
        ValueError: ids differ; the file belongs to another test split.
    """
    rows = read_json_lines(folder / name)
    if [row["id"] for row in rows] != list(ids):
        raise ValueError(f"{folder / name}: its ids are not those of the test split; delete the folder.")
    return rows


def read_states(folder: Path) -> np.ndarray | None:
    """The states that [`predict_classes`] kept; None where it kept none."""
    path = folder / STATES
    return np.load(path, allow_pickle=False) if path.is_file() else None


def _write(folder: Path, lines: Sequence[Mapping[str, Any]], name: str = PREDICTIONS) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / name, text.encode())
