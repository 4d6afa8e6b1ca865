"""Predictions of a model on the test split, and their scores."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm

from trl_weaks.distributed import processes
from trl_weaks.study.data.rows import Example
from trl_weaks.study.data.targets import decode_slots
from trl_weaks.study.files import write_atomically
from trl_weaks.supervisors.supervisor import WeakSupervisor

PREDICTIONS = "predictions.jsonl"


def predict(
    model: WeakSupervisor,
    examples: Sequence[Example],
    prompts: Sequence[str],
    folder: Path,
    beams: int,
    max_new_tokens: int,
    batch_size: int,
) -> None:
    """Decode every prompt and write one line per example: id, completion, slots, whether it could be parsed.

    Each process decodes its share; the first writes the file, in the order of the examples.
    """
    state = processes()
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    steps = range(0, len(order), batch_size)
    for start in tqdm(steps, desc=f"decoding, {model.name}", disable=not state.is_main_process, leave=False):
        batch = order[start : start + batch_size]
        found = model.answer([prompts[i] for i in batch], num_candidates=beams, max_new_tokens=max_new_tokens)
        texts += [(i, candidates[0][0]) for i, candidates in zip(batch, found, strict=True)]
    by_index = dict(gather_object(texts))
    if state.is_main_process:
        lines = []
        for i, example in enumerate(examples):
            slots, parsed = decode_slots(by_index[i])
            row = {"id": example.id, "completion": by_index[i], "slots": slots, "parsed": parsed}
            lines.append(json.dumps(row, ensure_ascii=False))
        write_atomically(folder / PREDICTIONS, ("\n".join(lines) + "\n").encode())
    state.wait_for_everyone()


def read_predictions(folder: Path, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The predictions of one system, checked against the examples they are for.

    Raises:
        ValueError: ids differ; the file belongs to another test split.
    """
    rows = [json.loads(line) for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    if [row["id"] for row in rows] != [example.id for example in examples]:
        raise ValueError(f"{folder / PREDICTIONS}: its ids are not those of the test split; delete the folder.")
    return rows
