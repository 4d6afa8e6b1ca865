"""The round through annotation tools: the queue goes out, their exports come back as votes."""

import csv
import json

import pytest
from datasets import Dataset

from trl_weaks import labels_from_votes, triage

EXAMPLES = [{"example_id": f"0{i}", "text": f"text {i}"} for i in range(4)]
LABELS = labels_from_votes(
    EXAMPLES, [{"example_id": f"0{i}", "supervisor": "llm", "label": i % 2, "confidence": 0.6} for i in range(4)],
    classes=["no", "yes"],
)  # fmt: skip
SAID = {"00": "yes", "01": "no", "02": "yes", "03": None}  # by the first person; the second always says yes


def wanted() -> list[dict]:
    """Labels of the same votes as rows."""
    rows = [{"example_id": e, "supervisor": "1", "label": label} for e, label in SAID.items()]
    rows += [{"example_id": e, "supervisor": "ann@x.org", "label": "yes"} for e in SAID]
    return made(rows)


def made(votes) -> list[dict]:
    return labels_from_votes(EXAMPLES, votes, None, ["no", "yes"]).to_list()


def choice(label, name="label") -> dict:
    return {"from_name": name, "to_name": "text", "type": "choices", "value": {"choices": [label]}}


def label_studio(folder) -> list[dict]:
    """Our tasks as Label Studio exports them, with two annotations each; what was skipped is cancelled."""
    triage(LABELS, {"00": "yes"}).to_label_studio(folder / "tasks.json")
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        said = SAID[task["data"]["example_id"]]
        first = {
            "completed_by": 1,
            "was_cancelled": said is None,
            "result": [choice(said or "no"), choice("x", "why")],
        }
        second = {"completed_by": {"id": 2, "email": "ann@x.org"}, "was_cancelled": False, "result": [choice("yes")]}
        task |= {"id": number, "annotations": [first, second]}
    return tasks


def test_label_studio_comes_back(tmp_path):
    (tmp_path / "export.json").write_text(json.dumps(label_studio(tmp_path)), encoding="utf-8")
    assert made(tmp_path / "export.json") == made(label_studio(tmp_path)) == wanted()
    flat = [{"example_id": e, "text": "t", "label": s, "annotator": 1, "id": 5} for e, s in SAID.items() if s]
    flat += [{"example_id": e, "text": "t", "label": "yes", "annotator": "ann@x.org", "id": 6} for e in SAID]
    (tmp_path / "min.json").write_text(json.dumps(flat))
    with (tmp_path / "export.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    assert made(tmp_path / "min.json") == made(tmp_path / "export.csv") == wanted()


def test_argilla_comes_back(tmp_path):
    triage(LABELS, {"00": "yes"}).to_argilla(tmp_path / "records.jsonl")
    flat, nested = [], []
    for record in map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines()):
        said = SAID[record["id"]]
        states = ["submitted" if said else "discarded", "submitted", "draft"]
        values, users = [said or "no", "yes", "no"], ["1", "ann@x.org", "3"]
        flat.append(record | {"label.responses": values, "label.responses.users": users})
        flat[-1]["label.responses.status"] = states
        responses = [{"value": v, "user_id": u} for v, u in zip(values, users, strict=True)]
        nested.append(
            {"id": record["id"], "fields": {"text": "t"}, "suggestions": {}, "responses": {"label": responses}}
        )
    assert made(flat) == wanted()
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    assert made(tmp_path / "flat.json") == wanted()
    (tmp_path / "export.json").write_text(json.dumps(nested))  # `to_json` writes no states: two of three were no votes
    stateless = [{name: value for name, value in row.items() if not name.endswith("status")} for row in flat]
    for given in (nested, tmp_path / "export.json", stateless):
        with pytest.raises(ValueError, match=r"votes, record 0: its responses have no status.*to_list\(flatten=True"):
            made(given)
    for record, row in zip(nested, flat, strict=True):
        for response, state in zip(record["responses"]["label"], row["label.responses.status"], strict=True):
            response["status"] = state
    assert made(nested) == wanted()
    unanswered = {"label.responses": None, "label.responses.users": None, "label.responses.status": None}
    assert len(made([*flat, {"id": "00"} | unanswered])) == 4  # `to_list` fills what a record lacks


@pytest.mark.parametrize("flat", [True, False])
def test_another_question_stands_for_the_class_only_where_no_record_has_that(flat):
    def record(example, **said):
        given = {q: [{"value": value, "user_id": "1", "status": "submitted"}] for q, value in said.items()}
        if not flat:
            return {"id": example, "responses": given}
        parts = {"": "value", ".users": "user_id", ".status": "status"}
        return {"id": example} | {
            f"{q}.responses{part}": [one[key] for one in rows]
            for q, rows in given.items()
            for part, key in parts.items()
        }

    def rows(*pairs):
        return made([{"example_id": example, "supervisor": "1", "label": label} for example, label in pairs])

    assert made([record("00", why="no"), record("01", label="yes", why="no")]) == rows(("01", "yes"))
    assert made([record("00", sure="no"), record("01", sure="yes")]) == rows(("00", "no"), ("01", "yes"))
    with pytest.raises(ValueError, match=r"the questions are \['sure', 'why'\]; call that of the class"):
        made([record("00", sure="no"), record("01", why="yes")])


@pytest.mark.parametrize("tool", ["argilla", "label_studio"])
def test_what_goes_into_a_tool_is_not_what_comes_out(tool, tmp_path):
    """Given back unanswered, its suggestions are the committee's own, and no votes of people."""
    file = tmp_path / {"argilla": "queue.jsonl", "label_studio": "queue.json"}[tool]
    getattr(triage(LABELS, {"00": "yes"}), f"to_{tool}")(file)
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if tool == "label_studio" else [json.loads(line) for line in text.splitlines()]
    for given in (file, rows):
        with pytest.raises(ValueError, match="votes: these are records for .* to import.*nobody's answers. Load them"):
            made(given)


def test_plain_rows_stay_and_json_of_rows_is_read(tmp_path):
    rows = [{"example_id": "00", "supervisor": "a", "annotator": "b", "label": "no"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert made(tmp_path / "rows.json") == made(rows) == made(Dataset.from_list(rows))
    assert made(rows)[0]["weak_supervisors"] == ["a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"data": {"text": "t"}, "annotations": []}], "votes, task 0: field 'data' has no 'example_id'"),
        (
            [{"data": {"example_id": "00"}, "annotations": [{"result": [choice("no"), choice("yes")]}]}],
            r"votes, task 0: an annotation chooses \['no', 'yes'\]; a vote is for one class",
        ),
        ([{"data": {"example_id": "00"}, "annotations": []}], "votes: there are no rows"),
        ([{"id": None, "responses": {}}], "votes, record 0: there is no 'id'"),
        ([{"id": "00", "responses": {"a": [], "b": []}}], r"the questions are \['a', 'b'\]; call that of the class"),
        (
            [{"id": "9", "responses": {"a": [{"value": "no", "user_id": 1, "status": "submitted"}]}}],
            "example_id '9'.: no example has this",
        ),
        (
            [{"id": "00", "responses": {"label": [{"value": ["no"], "user_id": 1, "status": None}]}}],
            "'label' holds .'no'.",
        ),
    ],
)
def test_what_a_tool_should_not_say_is_named(rows, message, tmp_path):
    (tmp_path / "export.json").write_text(json.dumps(rows))
    for given in (rows, tmp_path / "export.json"):
        with pytest.raises(ValueError, match=message):
            made(given)


def test_files_that_are_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="votes: no such file: .*gone.json"):
        made(tmp_path / "gone.json")
    for text, message in (("{", "is not JSON"), ('{"a": 1}', "is no list of tasks"), ("[]", "is no list of tasks")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            made(tmp_path / "bad.json")
