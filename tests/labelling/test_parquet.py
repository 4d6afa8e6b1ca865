"""What labelling writes is read by `datasets.load_dataset` too, from the folder that was given, and by trainers."""

import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset, load_from_disk

from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.storage import export
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.trainer.common.label_paths import at_path

PROMPTS = [{"example_id": f"e{i}", "prompt": f"USER: play {w} ASSISTANT:", "gold": i} for i, w in enumerate("abcdef")]


@pytest.fixture
def labelled(build, tmp_path) -> tuple[Path, Dataset]:
    folder = tmp_path / "test train" / "labels"  # words that `load_dataset` would take for splits
    ensemble = WeakEnsemble([build("gpt2", 0, "a"), build("neox", 1, "b")])
    return folder, label_completions(
        ensemble, Dataset.from_list(PROMPTS), num_candidates=2, max_new_tokens=4, output_dir=folder
    )


def test_load_dataset_reads_the_folder_of_labels(labelled, tmp_path):
    folder, labels = labelled
    read = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(read) == ["train"]
    assert read["train"].features == labels.features and read["train"].to_list() == labels.to_list()


def test_labels_train_from_either_form(labelled, tmp_path):
    folder, labels = labelled
    only = tmp_path / "only"
    only.mkdir()
    (file,) = (folder / "dataset").glob("train-*.parquet")
    shutil.copy(file, only)
    for place in (folder, str(folder / "dataset"), only, only / file.name):
        assert at_path(place).to_list() == labels.to_list()
    old = tmp_path / "old" / "dataset"  # as earlier versions left it: Arrow alone
    shutil.copytree(folder / "dataset", old, ignore=shutil.ignore_patterns("*.parquet"))
    assert at_path(old.parent).to_list() == labels.to_list()


def test_large_labels_are_cut_into_files(labelled, tmp_path, monkeypatch):
    _, labels = labelled
    monkeypatch.setattr(export, "SHARD", -(-labels.data.nbytes // 3))
    export.save(labels, tmp_path / "many" / "dataset")
    assert len(list((tmp_path / "many" / "dataset").glob("train-*-of-00003.parquet"))) == 3
    read = load_dataset(str(tmp_path / "many"), cache_dir=str(tmp_path / "cache"), split="train")
    assert read.to_list() == load_from_disk(str(tmp_path / "many" / "dataset")).to_list() == labels.to_list()


def test_columns_that_parquet_lacks_leave_arrow_alone(tmp_path, caplog):
    labels = Dataset.from_list([{"example_id": "a", "tags": {}}, {"example_id": "b", "tags": {}}])
    export.save(labels, tmp_path / "dataset")
    assert load_from_disk(str(tmp_path / "dataset")).to_list() == at_path(tmp_path).to_list() == labels.to_list()
    assert not list((tmp_path / "dataset").glob("*.parquet")) and "Parquet cannot hold these labels" in caplog.text
