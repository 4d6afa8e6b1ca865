"""What people labelled in an annotation tool, as rows of votes: exports of Label Studio and of Argilla."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...columns import EXAMPLE_ID, LABEL
from .tables import Table, read_table

SUPERVISOR, ANNOTATOR = "supervisor", "annotator"
RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"  # of a question in flat records
DUMPED = "`json.dump(dataset.records.to_list(flatten=True), file)`"
Vote = dict[str, Any]


def exported_votes(table: Table) -> Table:
    """The votes of an export, one row each; a table that is none stays as it is.

    Read are Label Studio's JSON (tasks with annotations), its JSON-MIN and CSV (`annotator` beside `label`), and
    Argilla's flat records (`records.to_list(flatten=True)`, or a file of them; what `records.to_json` writes does not
    tell drafts from answers). The question is called `label`, as in the files that `triage` writes, unless it is the
    only one. A cancelled or discarded answer is an abstention, a draft is no vote, and predictions and suggestions,
    the committee's own, are none either.

    Raises:
        ValueError: a `.json` file that is no list of objects, a file that goes into a tool instead of one that comes
            out of it, a task without the id of its example, responses without a status, or an answer of several
            choices (named).
        FileNotFoundError: no such file.
    """
    rows = _given(table)
    if not rows:
        return table
    _refuse_unanswered(rows)
    first = rows[0]
    if "annotations" in first and "data" in first:
        return [vote for number, task in enumerate(rows) for vote in _of_task(task, f"votes, task {number}")]
    if isinstance(first.get("responses"), Mapping) or any(_flat_questions(row) for row in rows):
        question = _question(rows)
        return [vote for n, record in enumerate(rows) for vote in _of_record(record, question, f"votes, record {n}")]
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
        ("Argilla", {"id", f"{LABEL}.suggestion"}, {"responses", f"{LABEL}{RESPONSES}"}, DUMPED),
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


def _flat_questions(record: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix(USERS) for name in record if name.endswith(USERS)]


def _question(records: Sequence[Mapping[str, Any]]) -> str:
    """The question of the class, one for all records; empty where nobody answered any."""
    asked = {name for record in records for name in (*_flat_questions(record), *(record.get("responses") or ()))}
    if LABEL not in asked and len(asked) > 1:
        raise ValueError(f"votes: the questions are {sorted(asked)}; call that of the class {LABEL!r}.")
    return LABEL if LABEL in asked else next(iter(asked), "")


def _of_record(record: Mapping[str, Any], question: str, where: str) -> Iterable[Vote]:
    """The votes of a record of Argilla: one for each response."""
    example = _example(record, "id", where, "there is no 'id'")
    given = (record.get("responses") or {}).get(question) or ()
    if record.get(f"{question}{RESPONSES}"):
        values, users, states = (record.get(f"{question}{part}") for part in (RESPONSES, USERS, STATUS))
        if states is None:
            raise _without_status(where)
        given = [{"value": v, "user_id": u, "status": s} for v, u, s in zip(values, users, states, strict=True)]
    for response in given:
        if "status" not in response:
            raise _without_status(where)
        if response["status"] != "draft":
            discarded = response["status"] == "discarded"
            yield _vote(example, response["user_id"], None if discarded else response["value"])


def _without_status(where: str) -> ValueError:
    return ValueError(
        f"{where}: its responses have no status, as in what `dataset.records.to_json` writes, so that drafts and "
        f"discarded answers cannot be told from votes. Give a file of {DUMPED} instead."
    )


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
