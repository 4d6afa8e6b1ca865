"""Verification: labels made again, what is missing, what the dataset folder holds; and that nothing is written."""

import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk

from trl_weaks.inference import cascade_attention, prefix_trees
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.plain_check import other_answers
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble

RUN = {"num_candidates": 2, "max_new_tokens": 4, "batch_size": 2}


def data(count=6):
    rows = [{"example_id": f"e{i}", "prompt": f"USER: play jazz at {i} ASSISTANT:"} for i in range(count)]
    return Dataset.from_list(rows)


@pytest.fixture
def ensemble(build):
    return WeakEnsemble([build("neox", 1, "a"), build("gpt2", 2, "b")])


@pytest.fixture
def labelled(ensemble, tmp_path):
    label_completions(ensemble, data(), "joint", output_dir=tmp_path, **RUN)
    return tmp_path


def check(ensemble, folder, rows=None, **changes):
    return verify_labels(ensemble, rows or data(), folder, "joint", **RUN, **{"share": 1.0} | changes)


def rewrite(folder: Path, change) -> None:
    """Put another dataset in the place of the one that labelling wrote."""
    changed = Dataset.from_list(change(load_from_disk(str(folder)).to_list()), load_from_disk(str(folder)).features)
    for path in folder.iterdir():
        path.unlink()
    changed.save_to_disk(str(folder))


def test_sound_labels_pass_and_nothing_is_written(ensemble, labelled, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in labelled.rglob("*")}

    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    for where, name in ((os, "open"), (Path, "mkdir"), (Path, "write_text"), (Path, "touch")):
        monkeypatch.setattr(where, name, refuse)
    report = check(ensemble, labelled)
    monkeypatch.undo()
    assert report.different == [] and report.prompts == 6 and report.worst < 1e-5
    assert before == {path: path.stat().st_mtime_ns for path in labelled.rglob("*")}


def test_other_numbers_are_seen(ensemble, labelled, monkeypatch):
    supervisor = ensemble.supervisors[0]
    real = supervisor.logps
    monkeypatch.setattr(supervisor, "logps", lambda *a: [[x - 0.1 for x in row] for row in real(*a)])
    report = check(ensemble, labelled, share=0.2)
    assert report.prompts == 2 and report.worst == pytest.approx(0.1, abs=1e-4)
    assert report.different and all("'a' differs by" in line for line in report.different)
    with pytest.raises(ValueError, match="share=0"):
        check(ensemble, labelled, share=0)


def test_damaged_labels_are_reported_wherever_they_are(ensemble, labelled):
    (shard,) = (labelled / "labels").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"e", b"f", 1)
    shard.write_bytes(b"".join(lines))
    (line,) = check(ensemble, labelled, share=0.01).different
    assert line.startswith("1 prompts lack labels (1 damaged lines), the first is row ")
    label_completions(ensemble, data(), "joint", output_dir=labelled, **RUN)
    assert check(ensemble, labelled).different == [], "made again; the damaged line stays, and does no harm"


def test_prompts_without_labels_are_reported(ensemble, labelled):
    report = check(ensemble, labelled, rows=data(8))
    assert "2 prompts lack labels, the first is row 6 (example_id 'e6')" in report.different[0]
    for shard in (labelled / "labels").glob("*.jsonl"):
        shard.unlink()
    with pytest.raises(ValueError, match="holds no labels of these prompts"):
        check(ensemble, labelled)


CHANGES = {
    "completion": lambda rows: [rows[0] | {"completion": "nine"}, *rows[1:]],
    "weak_logps": lambda rows: [
        rows[0] | {"weak_logps": [[x - 1e-5 for x in part] for part in rows[0]["weak_logps"]]}, *rows[1:]
    ],
    "weak_score": lambda rows: [rows[0] | {"weak_score": rows[0]["weak_score"] - 1e-9}, *rows[1:]],
    "example_id": lambda rows: rows[1:],
    "prompt": lambda rows: [rows[0] | {"prompt": "USER: other ASSISTANT:"}, *rows[1:]],
}  # fmt: skip


@pytest.mark.parametrize("column", CHANGES)
def test_an_altered_dataset_is_seen(ensemble, labelled, column):
    rewrite(labelled / "dataset", CHANGES[column])
    (line,) = check(ensemble, labelled).different
    assert line.startswith("row 0 (example_id 'e0'): ") and f"another {column!r} than" in line


def test_a_lost_column_and_a_lost_folder_are_named(ensemble, labelled):
    load_from_disk(str(labelled / "dataset")).remove_columns("weak_score").save_to_disk(str(labelled / "less"))
    (labelled / "dataset").rename(labelled / "whole")
    (line,) = check(ensemble, labelled).different
    assert "dataset is missing or cannot be read" in line
    (labelled / "less").rename(labelled / "dataset")
    (line,) = check(ensemble, labelled).different
    assert "lacks the column 'weak_score'" in line
    (labelled / "dataset" / "state.json").write_text("{}")
    (line,) = check(ensemble, labelled).different
    assert "dataset is missing or cannot be read" in line


def test_other_weights_are_another_dataset(ensemble, labelled):
    turned = WeakEnsemble(ensemble.supervisors, [1, 4])
    assert any("another 'weak_score' than" in line for line in check(turned, labelled).different)


def forgetful(query, keys, values, mask, real=cascade_attention._attend):
    """Beams do not see the first token of their own prompt."""
    if mask is not None and len(keys) > 1 and mask.shape[-1] > 4:
        mask = mask.clone()
        mask[..., mask.shape[-1] // 2] = False
    return real(query, keys, values, mask)


def too_early(trees, real=prefix_trees.PrefixTrees.positions):
    """Tokens far behind the prefix have the position before theirs."""
    positions = real(trees)
    return positions - (positions > 8).long()


FAULTS = {
    "other candidates by plain forward passes": (cascade_attention, "_attend", forgetful),
    "nats from a plain forward pass": (prefix_trees.PrefixTrees, "positions", too_early),
}


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_that_labelling_repeats_is_seen(ensemble, tmp_path, monkeypatch, line, temperature):
    """Planted after the probe has passed the model: made again by the same code, the labels are the same."""
    run = RUN | {"num_candidates": 4, "max_new_tokens": 8, "temperature": temperature}
    sound = verify_labels(ensemble, data(), label(ensemble, tmp_path / "sound", run), "joint", **run, share=1.0)
    assert sound.different == [] and sound.plainly == 3, "one prompt of each batch"
    assert all(supervisor.sharing.able() for supervisor in ensemble.supervisors)
    with monkeypatch.context() as planted:
        planted.setattr(*FAULTS[line])
        folder = label(ensemble, tmp_path / "wrong", run)
        found = verify_labels(ensemble, data(), folder, "joint", **run, share=1.0)
    assert found.worst < 1e-5 and found.different
    assert all(line in different for different in found.different)


def label(ensemble, folder, run):
    label_completions(ensemble, data(), "joint", output_dir=folder, **run)
    return folder


def test_nearly_equal_beams_are_no_fault(build):
    """Two tokens that the model cannot tell apart: either order of the beams is right, and a third token is not."""
    one = build("neox", 1, "a")
    prompt = "USER: play jazz ASSISTANT:"
    best = one.generate([prompt], 1, 1)[0][0].token_ids[0]
    twin = one.tokenizer("q", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        head = one.model.get_output_embeddings().weight
        head[twin] = head[best] * (1 + 1e-7)
    answers = [(one.tokenizer.decode([token]), False) for token in (best, twin)]
    ask = {"name": "p", "key": "p", "num_candidates": 2, "max_new_tokens": 1, "sampling": None}
    assert not other_answers(one, prompt, answers, **ask)
    assert not other_answers(one, prompt, answers[::-1], **ask)
    assert other_answers(one, prompt, [answers[0], (" jazz", False)], **ask)
