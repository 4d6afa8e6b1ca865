"""A changed row, file or model is seen by the stages that read it, and by no others."""

import gzip
import json
import shutil

import pytest

from trl_weaks.study.config import ClassificationConfig, SlotFillingConfig
from trl_weaks.study.pipeline.run import methods_of, seed_runs
from trl_weaks.study.tasks.classification import Classification
from trl_weaks.study.tasks.slot_filling import SlotFilling

SIZES = {"num_gold": 80, "num_weak": 80, "num_validation": 30}
BASES = {"base", "base-opt"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "slurp"
    folder.mkdir()
    for number, (name, size) in enumerate({"train": 160, "devel": 30, "test": 20}.items()):
        write(
            folder / f"{name}.jsonl",
            [
                {
                    "id": f"{name}-{i}",
                    "sentence": f"{name} wake me on day {i}",
                    "slots": [["date", f"day {i}"]],
                    "scenario": "alarm" if (i + number) % 2 else "music",
                }
                for i in range(size)
            ],
        )
    (folder / "slot_types.txt").write_text("date\nperson\n", encoding="utf-8")
    (folder / "unlabelled.txt").write_text("good morning all\nplay the song\n", encoding="utf-8")
    dialogues = tmp_path / "dialogues"
    dialogues.mkdir()
    with gzip.open(dialogues / "turns.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "a room in Rome", "slots": [["city", "Rome"]]}) + "\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def keys_of(config, task, seed):
    config.seeds = [seed]
    (run,) = seed_runs(config, task, methods_of(config, task))
    return {str(stage.folder.relative_to(config.output_dir)): stage.key for stage in run.stages()}


def slot_filling(data, seed=0):
    shape = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 96}
    config = SlotFillingConfig(
        output_dir=str(data / "run"), data_dir=str(data / "slurp"), pretrain_dir=str(data / "dialogues"), **SIZES,
        weak_models=["tiny:opt", str(data / "model")], student_model="tiny:llama", methods=["naive"],
        tiny_models={"opt": shape, "llama": shape}, pretraining={"reading": 1}, weak_pretraining={"reading": 1},
    )  # fmt: skip
    return keys_of(config, SlotFilling(config), seed)


def classification(data, seed=0):
    shape = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 96}
    config = ClassificationConfig(
        output_dir=str(data / "run"), data_dir=str(data / "slurp"), **SIZES, weak_models=["tiny:opt"],
        student_model="tiny:llama", methods=["naive"], tiny_models={"opt": shape, "llama": shape},
    )  # fmt: skip
    return keys_of(config, Classification(config), seed)


def changed(keys, data, change, seed=0):
    before = keys(data, seed)
    change()
    after = keys(data, seed)
    return {name for name in before if before[name] != after[name]}, set(before)


@pytest.mark.parametrize("name", ["train", "devel", "test"])
@pytest.mark.parametrize("keys", [slot_filling, classification])
def test_every_row_counts_for_the_experiment_but_not_for_the_bases(data, keys, name):
    """The text stays, the gold changes, in each row by itself; every seed sees it."""
    path = data / "slurp" / f"{name}.jsonl"
    rows = read(path)
    for number in (0, len(rows) - 1):

        def change(number=number):
            rows[number]["slots"] = []
            rows[number]["scenario"] = "music" if rows[number]["scenario"] == "alarm" else "alarm"
            write(path, rows)

        found, everything = changed(keys, data, change, seed=3)
        assert found == everything - BASES


@pytest.mark.parametrize("keys", [slot_filling, classification])
def test_unlabelled_text_counts_for_the_bases_and_what_stands_on_them(data, keys):
    path = data / "slurp" / "unlabelled.txt"
    found, everything = changed(keys, data, lambda: path.write_text("good morning all\nplay a song\n"))
    assert "base" in found and "seed-0/students/naive" in found
    assert ("seed-0/weak/opt" in found) == (keys is slot_filling)  # only its supervisors have bases of their own
    assert "seed-0/weak/model" not in found


def test_dialogues_count_for_the_students_base_alone(data):
    def change():
        with gzip.open(data / "dialogues" / "turns.jsonl.gz", "at", encoding="utf-8") as file:
            file.write(json.dumps({"text": "a room in Oslo", "slots": [["city", "Oslo"]]}) + "\n")

    found, _ = changed(slot_filling, data, change)
    assert found & (BASES | {"seed-0/weak/opt", "seed-0/labels"}) == {"base"} and "seed-0/students/ceiling" in found


def test_the_files_of_a_local_model_count_and_its_card_does_not(data):
    found, _ = changed(slot_filling, data, lambda: (data / "model" / "README.md").write_text("a card"))
    assert not found
    found, _ = changed(slot_filling, data, lambda: (data / "model" / "model.safetensors").write_bytes(b"weightz"))
    assert {"seed-0/weak/model", "seed-0/labels", "seed-0/students/naive"} <= found
    assert not found & {*BASES, "seed-0/weak/opt", "seed-0/students/ceiling"}


def test_slot_types_and_their_order_count(data):
    found, everything = changed(
        slot_filling, data, lambda: (data / "slurp" / "slot_types.txt").write_text("person\ndate\n")
    )
    assert found == everything


def test_a_moved_folder_changes_nothing(data):
    before = slot_filling(data)
    shutil.copytree(data / "slurp", data / "elsewhere" / "slurp")
    shutil.copytree(data / "dialogues", data / "elsewhere" / "dialogues")
    (data / "elsewhere" / "model").symlink_to(data / "model")
    after = slot_filling(data / "elsewhere")
    assert {name for name in before if before[name] == after[name]} >= {"base", "base-opt", "seed-0/weak/opt"}
