"""`trl-weaks preflight` with tiny models: the numbers are those of the diagnostics, and bad input is named."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import templates
from datasets import ClassLabel, Dataset
from tiny import classifier, headless

from trl_weaks.cli import main
from trl_weaks.metrics import kernel_score
from trl_weaks.study.models.tiny import build_model, train_tokenizer
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

PROMPTS = [f"{verb} the {thing}" for verb in ("play", "stop", "find") for thing in ("music", "lamp", "car", "door")]
LABELS = [i // 4 for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer("gpt2", PROMPTS, 400)
    for seed, name in enumerate(("lm_a", "lm_b", "lm_student")):
        build_model("gpt2", tokenizer, 16, 1, 2, 64, seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for seed, name in enumerate(("a", "b", "student")):
        own = {"pad_token_id": tokenizer.pad_token_id, "id2label": dict(enumerate(("play", "stop", "find")))}
        classifier("gpt2", len(tokenizer), 3, positions=64, seed=seed, **own).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    headless("distilbert", len(tokenizer), inner=16).save_pretrained(folder / "encoder")
    rows = [json.dumps({"example_id": str(i), "prompt": text}) for i, text in enumerate(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    rows = [json.dumps({"example_id": str(i), "label": label}) for i, label in enumerate(LABELS)]
    (folder / "gold.jsonl").write_text("\n".join(rows))
    return folder


def preflight(folder, supervisors, student, *more):
    names = [str(folder / name) for name in supervisors]
    output = folder / "found.json"
    main(["preflight", "--supervisors", *names, "--student", str(folder / student), "--prompts",
          str(folder / "prompts.jsonl"), "-o", str(output), *more])  # fmt: skip
    return json.loads(output.read_text())


def test_classifiers_with_gold(folder, capsys):
    found = preflight(folder, ("a", "b"), "student", "--gold", str(folder / "gold.jsonl"))
    printed = capsys.readouterr().out
    assert found["prompts"] == len(PROMPTS) and len(found["pairs"]) == 2
    bounds = [row["student_error_bound"] for row in found["pairs"]]
    assert bounds == sorted(bounds)
    assert printed.index(found["pairs"][0]["supervisor"]) < printed.index(found["pairs"][1]["supervisor"])
    states = WeakClassifier.from_pretrained(str(folder / "student")).hidden_states(PROMPTS).double().numpy()
    centred = states - states.mean(0)
    gram = centred @ centred.T
    smooth = gram @ np.linalg.inv(gram + 0.01 * np.trace(gram) / 12 * np.eye(12))
    for row in found["pairs"]:
        weak = WeakClassifier.from_pretrained(row["supervisor"])
        taught = weak.predict(PROMPTS).probabilities.double().numpy()
        left = (np.eye(12) - smooth) @ (taught - taught.mean(0))
        assert row["misfit"] == pytest.approx((left**2).sum() / 12, rel=1e-3)
        error = sum((p - (k == gold)) ** 2 for q, gold in zip(taught, LABELS, strict=True) for k, p in enumerate(q))
        assert row["weak_error"] == pytest.approx(error / 12, rel=1e-4)
        assert row["student_error_bound"] == pytest.approx(row["weak_error"] - row["misfit"], rel=1e-9)
        assert row["kernel_score"] == pytest.approx(kernel_score(states, weak.hidden_states(PROMPTS)), rel=1e-4)
        assert row["accuracy"] == pytest.approx((taught.argmax(1) == LABELS).mean())


def test_gold_in_a_file_keeps_the_names_of_its_classes(folder):
    """The models list play, stop, find, the file find, play, stop: what is said of them is the same."""
    ids, names = [str(i) for i in range(len(LABELS))], ["find", "play", "stop"]
    gold = Dataset.from_dict({"example_id": ids, "label": [(label + 1) % 3 for label in LABELS]})
    gold.cast_column("label", ClassLabel(names=names)).to_parquet(folder / "gold.parquet")
    found = [preflight(folder, ("a", "b"), "student", "--gold", str(folder / f"gold.{kind}"))
             for kind in ("jsonl", "parquet")]  # fmt: skip
    assert found[0] == found[1]


def test_a_supervisor_is_ranked_alike_whatever_its_template_writes_before_an_answer(folder, tmp_path):
    """The block of thoughts is in the prompt of one and in the answers of the other, the same weights: what either
    thinks of the student's answers is the same."""
    for name, template in (("lm_student", templates.OPENS), ("opens", templates.OPENS), ("thinks", templates.THINKS)):
        weak = WeakSupervisor.from_pretrained(str(folder / ("lm_student" if name == "lm_student" else "lm_a")))
        weak.tokenizer.chat_template = template
        weak.model.save_pretrained(tmp_path / name)
        weak.tokenizer.save_pretrained(tmp_path / name)
    chats = [{"example_id": str(i), "prompt": [{"role": "user", "content": p}]} for i, p in enumerate(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, chats)))
    found = preflight(tmp_path, ("opens", "thinks"), "lm_student", "--max_new_tokens", "4")["pairs"]
    gaps = {Path(row["supervisor"]).name: row["reverse_gap"] for row in found}
    assert gaps["opens"] == pytest.approx(gaps["thinks"], abs=1e-4)


def test_the_printed_command_runs(folder, monkeypatch, capsys):
    """That of the page, on models under the names that it prints."""
    page = Path(__file__).resolve().parents[1] / "docs" / "howto" / "look.md"
    (line,) = re.findall(r"^trl-weaks (preflight .*)$", page.read_text(encoding="utf-8"), re.M)
    for name, there in (("small-a", "a"), ("small-b", "b"), ("large", "student")):
        (folder / name).symlink_to(folder / there, target_is_directory=True)
    monkeypatch.chdir(folder)
    main(shlex.split(line))
    (found,) = [json.loads(Path("found.json").read_text())["pairs"]]
    assert {row["supervisor"] for row in found} == {"small-a", "small-b"}
    assert capsys.readouterr().out.count("small-") == 2


def test_a_language_model_as_a_student_of_classifiers(folder, capsys):
    (row,) = preflight(folder, ("a",), "lm_student")["pairs"]
    assert "Few prompts: 12 for states of width 16" in capsys.readouterr().out
    assert 0 < row["kernel_score"] <= 1 and "weak_error" not in row


def test_language_models(folder, capsys):
    found = preflight(folder, ("lm_a", "lm_b", "lm_student"), "lm_student", "--max_new_tokens", "4")["pairs"]
    assert [row["kernel_score"] for row in found] == sorted(row["kernel_score"] for row in found)
    assert found[0]["supervisor"] == str(folder / "lm_student")  # sees what it sees
    assert found[0]["word_distance"] == 0 and found[0]["reverse_gap"] == pytest.approx(0, abs=1e-4)
    student, weak = (WeakSupervisor.from_pretrained(str(folder / name)) for name in ("lm_student", "lm_a"))
    own = [one[0].text for one in student.generate(PROMPTS, 1, 4)]
    read = [sum(map(sum, ([s.logps for s in model.score(PROMPTS, own)]))) / 12 for model in (student, weak)]
    row = next(row for row in found if row["supervisor"] == str(folder / "lm_a"))
    assert row["reverse_gap"] == pytest.approx(read[0] - read[1], rel=1e-4)


@pytest.mark.parametrize(
    ("supervisors", "more", "message"),
    [
        (("a", "a"), (), "named twice"),
        (("a", "lm_a"), (), "a classifier and a language model"),
        (("none/at/all",), (), "--supervisors: no such file or folder"),
        (("lm_a",), ("--gold", "gold.jsonl"), "without gold"),
        (("a",), ("--prompt_column", "text"), "no column 'text'"),
        (("a",), ("--limit", "1"), "at least two"),
        (("a",), ("-o", "found.csv"), "write a .json file"),
        (("a",), ("--gold", "twice.jsonl"), "an example_id is there twice"),
        (("a",), ("--prompts", "empty.jsonl"), "row 1: '', where a prompt is text"),
        (("a",), ("--prompts", "alike.jsonl"), "--supervisors .*all rows are the same"),
        (("a",), ("--student", "encoder"), "drawn at random"),
        (("a",), ("--gold", "short.jsonl"), "11 prompts have no label, such as '1'"),
    ],
)
def test_bad_input_ends_with_its_message(folder, monkeypatch, supervisors, more, message):
    monkeypatch.chdir(folder)
    (folder / "short.jsonl").write_text('{"example_id": "0", "label": 0}')
    (folder / "twice.jsonl").write_text('{"example_id": "0", "label": 0}\n{"example_id": "0", "label": 1}')
    (folder / "empty.jsonl").write_text('{"prompt": "play"}\n{"prompt": ""}')
    (folder / "alike.jsonl").write_text('{"prompt": "play"}\n{"prompt": "play"}')
    with pytest.raises(SystemExit, match=message):
        preflight(folder, supervisors, "student", *more)
