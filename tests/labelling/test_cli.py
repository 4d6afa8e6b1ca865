"""`trl-weaks label`, `label verify` and the example, on tiny models saved to disk."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from trl_weaks.cli import build_parser, main
from trl_weaks.commands.label import load_prompts, upload
from trl_weaks.inference.sampling import Sampling
from trl_weaks.supervisors.supervisor import WeakSupervisor

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"prompt": f"USER: play jazz at {i} ASSISTANT:", "number": i, "completion": "gold"} for i in range(6)]


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    """Two saved supervisors, one of which has no pad token, and a file of prompts."""
    where = tmp_path_factory.mktemp("models")
    for shape in ("gpt2", "opt"):
        supervisor = build(shape)
        if shape == "gpt2":
            supervisor.tokenizer.pad_token = None
        supervisor.model.save_pretrained(where / shape)
        supervisor.tokenizer.save_pretrained(where / shape)
    (where / "prompts.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return where


@pytest.fixture
def arguments(folder, tmp_path):
    return [
        *("label", "--dataset", str(folder / "prompts.jsonl"), "--drop_columns", "completion"),
        *("--supervisors", str(folder / "gpt2"), str(folder / "opt"), "--weights", "1", "3"),
        *("--num_candidates", "2", "--max_new_tokens", "4", "--output_dir", str(tmp_path / "out")),
    ]


def test_label_then_verify(arguments, tmp_path, capsys, folder):
    main(arguments)
    labels = load_from_disk(str(tmp_path / "out" / "dataset"))
    assert set(labels["example_id"]) <= {str(i) for i in range(6)} and "number" in labels.column_names
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| gpt2 | 0.25 | gpt2 (local) |" in card and "| max_new_tokens | 4 |" in card
    assert str(folder) not in card, "no path of this machine is published"
    main(["verify", *arguments[1:], "--share", "1"])
    assert "6 prompts labelled again; largest difference" in capsys.readouterr().out


def test_draws_and_a_budget_from_the_command_line(arguments, tmp_path, monkeypatch):
    asked = [*arguments, "--temperature", "0.8", "--top_p", "0.9", "--seed", "3", "--max_tokens_in_flight", "77"]
    budgets, real = [], WeakSupervisor.answer
    monkeypatch.setattr(WeakSupervisor, "answer", lambda self, *args, **kwargs: (
        budgets.append((self.max_tokens_in_flight, kwargs["sampling"])), real(self, *args, **kwargs))[1])  # fmt: skip
    main(asked)
    assert set(budgets) == {(77, Sampling(0.8, 0.9, 3))}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| temperature | 0.8 |" in card and "| top_p | 0.9 |" in card and "| seed | 3 |" in card
    main([asked[0], "verify", *asked[1:], "--share", "1"])


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub: what would go there, in which order; `hub.public` are the repositories it has."""
    sent = SimpleNamespace(calls=[], public=set())

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, *, repo_type, private, exist_ok):
            sent.calls.append(("repository", repo_id, repo_type, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, repo_id, filename, *, repo_type):
            return False

        def repo_info(self, repo_id, *, repo_type):
            return SimpleNamespace(private=repo_id not in sent.public)

        def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, repo_type):
            sent.calls.append((path_in_repo, repo_id, repo_type, path_or_fileobj.decode()))

    def push(self, repo_id, private, **kwargs):
        sent.calls.append(("labels", repo_id, private, len(self)))

    monkeypatch.setattr("trl_weaks.labelling.storage.push.HfApi", Api)
    monkeypatch.setattr(Dataset, "push_to_hub", push)
    return sent


@pytest.mark.parametrize("private", [None, True])
def test_upload_sends_the_card_before_the_labels(arguments, tmp_path, hub, private):
    """`datasets` then adds to the card that is there; what is to be private is so from the first file on."""
    main([*arguments, "--push_to_hub", "me/labels", *(["--hub_private_repo"] if private else [])])
    rows = len(load_from_disk(str(tmp_path / "out" / "dataset")))
    repository, card, labels = hub.calls
    assert repository == ("repository", "me/labels", "dataset", private, True)
    assert labels == ("labels", "me/labels", private, rows)
    assert card[:3] == ("README.md", "me/labels", "dataset") and "# Weak labels" in card[3]


def test_private_labels_do_not_go_to_a_public_repository(arguments, tmp_path, hub):
    with pytest.raises(SystemExit, match="--hub_private_repo says how to upload; give --push_to_hub too"):
        main([*arguments, "--hub_private_repo"])
    hub.public.add("me/old")
    card = tmp_path / "README.md"
    with pytest.raises(ValueError, match="me/old exists and is public. Nothing was uploaded"):
        upload(Dataset.from_list([{"x": 1}]), card, "me/old", True)
    assert [call[0] for call in hub.calls] == ["repository"]


def test_help_says_what_every_option_is(capsys):
    with pytest.raises(SystemExit):
        main(["label", "--help"])
    shown = capsys.readouterr().out
    assert "accelerate launch --num_processes 2" in shown and "load_from_disk" in shown
    (label,) = [a.choices["label"] for a in build_parser()._actions if a.choices and "label" in a.choices]
    assert [action.dest for action in label._actions if not action.help] == []


def test_bad_input_ends_with_a_message(arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for name, content in (("empty.jsonl", ""), ("none.json", "[]"), ("none.csv", ""), ("none.parquet", "")):
        (tmp_path / name).write_text(content)
    (tmp_path / "bare").mkdir()
    one = Dataset.from_list(ROWS)
    DatasetDict(test=one, dev=one).save_to_disk(str(tmp_path / "split"))
    for change, message in (
        (["--names", "one"], "1 --names for 2 --supervisors"),
        (["--prompt_column", "text"], "no column 'text'"),
        (["--dataset", str(tmp_path / "prompts.txt")], "unknown ending"),
        (["--drop_columns", "number"], "already has a column 'completion'"),
        (["--dataset", str(tmp_path / "mixed.jsonl")], "mixes text and messages; label conversational and text"),
        (["--dataset", str(tmp_path / "broken.jsonl")], "broken.jsonl cannot be read: JSON parse error"),
        (["--top_p", "0.5"], "give a temperature too"),
        (["--names", "one", "one"], "two supervisors are called 'one'"),
        (["--dataset", str(tmp_path / "empty.jsonl")], "empty.jsonl cannot be read: it is empty"),
        (["--dataset", str(tmp_path / "none.json")], "none.json cannot be read: it holds no rows"),
        (["--dataset", str(tmp_path / "none.csv")], "none.csv cannot be read: it is empty"),
        (["--dataset", str(tmp_path / "none.parquet")], "none.parquet cannot be read: Parquet file size is 0 bytes"),
        (["--dataset", str(tmp_path / "bare")], "bare cannot be read: The directory .* doesn't contain any data"),
        (["--dataset", str(tmp_path / "split")], r"has no split 'train', only \['test', 'dev'\]; choose with --split"),
        (["--backend", "vllm"], "pip install vllm"),
        (["--backend", "vllm", "--max_tokens_in_flight", "9"], "not for vLLM"),
    ):
        (tmp_path / "prompts.txt").write_text("x")
        mixed = [{"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}]}]
        mixed = [row | {"completion": "c"} for row in mixed]
        (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, mixed)))
        (tmp_path / "broken.jsonl").write_text('{"prompt": "a')
        with pytest.raises(SystemExit, match=message):
            main([*arguments, *change])
    with pytest.raises(SystemExit, match="holds no labels of these prompts"):
        main([arguments[0], "verify", *arguments[1:]])


@pytest.mark.parametrize(
    "option",
    ["limit", "max_tokens_in_flight", "batch_size", "num_candidates", "max_new_tokens", "tensor_parallel_size"],
)
@pytest.mark.parametrize("value, problem", [("0", "0 must be at least 1"), ("-5", "-5 must"), ("x", "invalid number")])
def test_numbers_below_one_are_refused(arguments, capsys, option, value, problem):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([*arguments, f"--{option}={value}"])
    assert ended.value.code == 2 and f"argument --{option}: {problem}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "disk"])
def test_every_kind_of_dataset(tmp_path, kind):
    data = Dataset.from_list([{"key": 7, "text": "a"}, {"key": 8, "text": "b"}])
    path = tmp_path / f"data.{kind}"
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet, "disk": data.save_to_disk}[kind](str(path))
    options = ["label", "--dataset", str(path), "--prompt_column", "text", "--id_column", "key", "--limit", "1"]
    loaded = load_prompts(build_parser().parse_args([*options, "--supervisors", "x", "--output_dir", "y"]))
    assert loaded[:] == {"example_id": ["7"], "prompt": ["a"]}


def test_verify_ends_with_an_error_where_something_is_wrong(arguments, tmp_path):
    again = [arguments[0], "verify", *arguments[1:]]
    main(arguments)
    (tmp_path / "out" / "dataset").rename(tmp_path / "kept")
    labels = load_from_disk(str(tmp_path / "kept"))
    labels.select(range(1, len(labels))).save_to_disk(str(tmp_path / "out" / "dataset"))
    with pytest.raises(SystemExit, match=r"these labels differ:\nrow 0 .* holds another 'example_id'"):
        main([*again, "--share", "1"])
    (shard,) = (tmp_path / "out" / "labels").glob("*.jsonl")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(SystemExit, match=r"1 prompts lack labels \(1 damaged lines\)"):
        main(again)


@pytest.mark.parametrize("kind", ["csv", "parquet", "chat"])
def test_every_kind_of_dataset_to_labels(folder, arguments, tmp_path, kind):
    """A file of each kind, and of messages, gives what the JSON file gives."""
    path, models = tmp_path / f"prompts.{kind}", [folder / "gpt2", folder / "opt"]
    data = Dataset.from_list(ROWS)
    if kind == "chat":
        path, models = tmp_path / "chat.jsonl", [tmp_path / "gpt2", tmp_path / "opt"]
        rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
        path.write_text("\n".join(map(json.dumps, rows)))
        for model in models:  # a template that adds nothing
            shutil.copytree(folder / model.name, model)
            (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    else:
        (data.to_csv if kind == "csv" else data.to_parquet)(str(path))
    main([*arguments, "--output_dir", str(tmp_path / "json")])
    changed = ["--dataset", str(path), "--supervisors", *map(str, models), "--output_dir", str(tmp_path / kind)]
    main([*arguments, *changed])
    expected, made = (load_from_disk(str(tmp_path / name / "dataset")).to_list() for name in ("json", kind))
    assert len(made) == len(expected)
    for one, other in zip(made, expected, strict=True):
        assert one["number"] == other["number"] and one["example_id"] == other["example_id"]
        if kind != "chat":
            assert one == other
        else:
            assert one["prompt"] == [{"role": "user", "content": other["prompt"]}]
            assert one["completion"][0]["role"] == "assistant" and one["weak_logps"]


def test_example_runs(arguments):
    run = processes.run([ROOT / "examples" / "label.py", *arguments[1:]])
    assert run.returncode == 0, run.stderr
    assert "completions by" in run.stdout and "nats per token" in run.stdout
