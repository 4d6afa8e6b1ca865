"""Ids and texts of files are as written; columns that are named are there, before anything is loaded."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from trl_weaks.cli import build_parser, main
from trl_weaks.commands.label import load_prompts

IDS = ["007", "7", "x2", '"x3"', "12345678901234567890", "1.50", "NA", "null", "2020-01-01", "1e3", "True", " a", "é,"]
TEXTS = ["NA", "null", "1.50", "007", "2020-01-01", "true", "nan", "-", "1e5", "N/A", "12", '"q"', "a, b"]
NUMBERS = [3, None, 5, *range(10)]


def read(path, *more):
    options = ["label", "--dataset", str(path), "--supervisors", "x", "--output_dir", "y", *map(str, more)]
    return load_prompts(build_parser().parse_args(options))


def csv(rows):
    quoted = [['"' + str(cell).replace('"', '""') + '"' if cell != "" else "" for cell in row] for row in rows]
    return "\n".join(",".join(row) for row in quoted) + "\n"


@pytest.mark.parametrize("place", ["file", "folder"])
@pytest.mark.parametrize("names", [("example_id", "prompt"), ("key", "text")])
def test_csv(tmp_path, place, names):
    """Issue 19, item 14: `007` became 7 and met 7; 12345678901234567890 became 1.2e+19; `NA` became nothing."""
    rows = [[*names, "number"], *([i, t, "" if n is None else n] for i, t, n in zip(IDS, TEXTS, NUMBERS, strict=True))]
    (tmp_path / "data.csv").write_text(csv(rows), encoding="utf-8")
    chosen = () if names[0] == "example_id" else ("--id_column", names[0], "--prompt_column", names[1])
    data = read(tmp_path / "data.csv" if place == "file" else tmp_path, *chosen)
    assert data["example_id"] == IDS and data["prompt"] == TEXTS
    assert data["number"] == NUMBERS and data.features["number"].dtype == "float64"
    assert data.features["example_id"] == Value("string")


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize(
    "written, ids",
    [
        (["1", '"x2"', '"007"'], ["1", "x2", "007"]),
        (["12345678901234567890", "7"], ["12345678901234567890", "7"]),
        (["1.50", "7"], ["1.50", "7"]),
        (['"2020-01-01"', '"2021-01-01"'], ["2020-01-01", "2021-01-01"]),
        (['"007"', '"7"'], ["007", "7"]),
        (["7", "8"], ["7", "8"]),
    ],
)
def test_json(tmp_path, ending, written, ids):
    """Prompts that look like dates stay text too, also in messages."""
    objects = [f'{{"example_id": {value}, "prompt": "2020-01-01", "day": "2021-05-05"}}' for value in written]
    path = tmp_path / f"data.{ending}"
    path.write_text("[" + ",\n".join(objects) + "]" if ending == "json" else "\n".join(objects) + "\n")
    data = read(path)
    assert data["example_id"] == ids and set(data["prompt"]) == {"2020-01-01"} and set(data["day"]) == {"2021-05-05"}
    chat = [{"example_id": "1", "prompt": [{"role": "user", "content": "2020-01-01"}]}]
    path.write_text("\n".join(map(json.dumps, chat)))
    assert read(path)["prompt"] == [chat[0]["prompt"]]


@pytest.mark.parametrize("value", ["null", "true", "[1]"])
def test_ids_that_are_none(tmp_path, value):
    rows = ['{"example_id": "a", "prompt": "p"}', f'{{"example_id": {value}, "prompt": "p"}}']
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="row 1.* column 'example_id' holds .*"):
        from trl_weaks.labelling.storage.index import Prompts

        Prompts(read(tmp_path / "data.jsonl"))


def test_typed_ids(tmp_path):
    good = [([1, 2], Value("int32")), ([2**62 + 5], Value("uint64")), (["007", "7"], Value("large_string"))]
    bad = [([1.5], Value("float64")), ([True], Value("bool")), ([0], ClassLabel(names=["a"]))]
    for i, (ids, kind) in enumerate(good + bad):
        features = Features({"example_id": kind, "prompt": Value("string")})
        data = Dataset.from_dict({"example_id": ids, "prompt": ["p"] * len(ids)}, features=features)
        path = tmp_path / f"{i}.parquet"
        data.to_parquet(path)
        if i < len(good):
            assert read(path)["example_id"] == [str(value) for value in ids]
        else:
            with pytest.raises(ValueError, match="'example_id' holds .*text or whole numbers"):
                read(path)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--drop_columns", "gold", "golden"],
            r"--drop_columns: the dataset has no column 'golden', only \['example_id'",
        ),
        (["--prompt_column", "text"], r"--prompt_column: the dataset has no column 'text', only \['example_id'"),
        (["--id_column", "key"], r"--id_column: the dataset has no column 'key', only \['example_id'"),
        (["--drop_columns", "prompt"], "--drop_columns: 'prompt' is the column of the prompts"),
        (["--drop_columns", "example_id"], "--drop_columns: 'example_id' is the column of the ids"),
        (
            ["--prompt_column", "gold"],
            "--prompt_column gold: there is a column 'prompt' too; add it to --drop_columns",
        ),
        (["--id_column", "gold"], "--id_column gold: there is a column 'example_id' too"),
        (["--config", "main"], "--config main: a file has no configurations"),
        ([], "already has a column 'completion'"),
    ],
)
def test_columns_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch, options, message):
    """Issue 19, item 15: an unknown column was ignored, and what should have been dropped could be published."""
    row = {"example_id": "1", "prompt": "p", "gold": "g", "completion": "c"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr("trl_weaks.commands.label.load_ensemble", lambda _: pytest.fail("a model is loaded"))
    run = ["--dataset", str(tmp_path / "data.jsonl"), "--supervisors", "x", "--output_dir", str(tmp_path)]
    for command in ("label", "verify"):
        with pytest.raises(SystemExit, match=message):
            main([command, *run, *options])
    kept = read(tmp_path / "data.jsonl", "--drop_columns", "completion", "gold")
    assert kept.column_names == ["example_id", "prompt"]


@pytest.mark.parametrize("first, last, ids", [("7", '"007"', ["7", "007"]), ('"a"', "1e3", ["a", "1e3"])])
def test_an_id_far_into_a_file_is_as_written(tmp_path, first, last, ids):
    """The reader takes 10 MiB at a time and the first piece's type for all: 007 became 7, and 1e3 became 1000.0."""
    texts = ["p" * (11 << 20), "q"]
    lines = [f'{{"example_id": {i}, "prompt": "{t}"}}' for i, t in zip((first, last), texts, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read(tmp_path / "data.jsonl")["example_id"] == ids
