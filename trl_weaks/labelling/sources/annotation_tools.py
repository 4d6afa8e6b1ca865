"""What people labelled in an annotation tool, as rows of votes: exports of Label Studio and of Argilla."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...columns import EXAMPLE_ID, LABEL
from .tables import Table, read_table

SUPERVISOR, ANNOTATOR = "supervisor", "annotator"
RESPONSES = f"{LABEL}.responses"  # of Argilla's flat records
Vote = dict[str, Any]


def exported_votes(table: Table) -> Table:
    """The votes of an export, one row each; a table that is none stays as it is.

    Read are Label Studio's JSON (tasks with annotations), its JSON-MIN and CSV (`annotator` beside `label`), and
    Argilla's records (`records.to_json`, or the list of `records.to_list`, flat or not). The question is called
    `label`, as in the files that `triage` writes, unless it is the only one. A cancelled or discarded answer is an
    abstention, a draft is no vote, and predictions and suggestions, the committee's own, are none either.

    Raises:
        ValueError: a `.json` file that is no list of objects, a file that goes into a tool instead of one that comes
            out of it, a task without the id of its example, or an answer of several choices (named).
        FileNotFoundError: no such file.
    """
    rows = _given(table)
    if not rows:
        return table
    _refuse_unanswered(rows)
    first = rows[0]
    if "annotations" in first and "data" in first:
        return [vote for number, task in enumerate(rows) for vote in _of_task(task, f"votes, task {number}")]
    if isinstance(first.get("responses"), Mapping) or RESPONSES in first:
        return [vote for number, record in enumerate(rows) for vote in _of_record(record, f"votes, record {number}")]
    if ANNOTATOR in first and SUPERVISOR not in first:
        return [row | {SUPERVISOR: row[ANNOTATOR]} for row in rows]
    return rows if isinstance(table, str | Path) else table


def _given(table: Table) -> list[Vote]:
    """The rows of a list, or of a file that may be an export."""
    if isinstance(table, list):
        return table if all(isinstance(row, Mapping) for row in table) else []
    if not isinstance(table, str | Path) or Path(table).suffix not in (".json", ".jsonl", ".csv"):
        return []
    if Path(table).suffix != ".json":
        return read_table(table, "votes", ())
    if not Path(table).is_file():
        raise FileNotFoundError(f"votes: no such file: {table}")
    try:
        rows = json.loads(Path(table).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"votes: {table} is not JSON ({error}).") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"votes: {table} is no list of tasks or records, as annotation tools export them.")
    return rows


def _refuse_unanswered(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the files that `triage` writes for a tool to read: suggestions, and nobody's answer."""
    for tool, suggested, answered, how in (
        ("Argilla", {"id", f"{LABEL}.suggestion"}, {"responses", RESPONSES}, "`dataset.records.to_json(path)`"),
        ("Label Studio", {"data", "predictions"}, {"annotations"}, "its export as JSON"),
    ):
        if any(suggested <= set(row) for row in rows) and not any(answered & set(row) for row in rows):
            raise ValueError(
                f"votes: these are records for {tool} to import, with the committee's own suggestions and nobody's "
                f"answers. Load them into {tool}, have people answer, and give {how} instead."
            )


def _of_task(task: Mapping[str, Any], where: str) -> Iterable[Vote]:
    """The votes of a task of Label Studio: one for each annotation."""
    example = _example(task.get("data") or {}, EXAMPLE_ID, where, f"field 'data' has no {EXAMPLE_ID!r}")
    for annotation in task.get("annotations") or ():
        person = annotation.get("completed_by")
        if isinstance(person, Mapping):
            person = person.get("email") or person.get("id")
        results = [r for r in annotation.get("result") or () if r.get("type") == "choices"]
        asked = [r for r in results if r.get("from_name") == LABEL] or results
        chosen = [choice for r in asked for choice in r["value"]["choices"]]
        skipped = bool(annotation.get("was_cancelled"))
        yield _vote(example, "person" if person is None else person, None if skipped else _one(chosen, where))


def _of_record(record: Mapping[str, Any], where: str) -> Iterable[Vote]:
    """The votes of a record of Argilla: one for each response."""
    example = _example(record, "id", where, "there is no 'id'")
    if RESPONSES in record:
        values, users = record[RESPONSES] or (), record.get(f"{RESPONSES}.users") or ()
        states = record.get(f"{RESPONSES}.status") or [None] * len(values)
        given = [{"value": v, "user_id": u, "status": s} for v, u, s in zip(values, users, states, strict=True)]
    else:
        questions = record["responses"]
        if LABEL not in questions and len(questions) > 1:
            raise ValueError(f"{where}: the questions are {sorted(questions)}; call that of the class {LABEL!r}.")
        given = questions.get(LABEL) or next(iter(questions.values()), ())
    for response in given:
        if response.get("status") != "draft":
            discarded = response.get("status") == "discarded"
            yield _vote(example, response["user_id"], None if discarded else response["value"])


def _example(holder: Mapping[str, Any], name: str, where: str, missing: str) -> Any:
    if holder.get(name) in (None, ""):
        raise ValueError(f"{where}: {missing}, by which votes find their example; export what `triage` wrote.")
    return holder[name]


def _one(chosen: Sequence[str], where: str) -> str | None:
    if len(set(chosen)) > 1:
        raise ValueError(f"{where}: an annotation chooses {sorted(set(chosen))}; a vote is for one class.")
    return chosen[0] if chosen else None


def _vote(example: Any, person: Any, label: Any) -> Vote:
    return {EXAMPLE_ID: example, SUPERVISOR: str(person), LABEL: label}
