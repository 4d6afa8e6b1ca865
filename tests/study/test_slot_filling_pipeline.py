"""The whole experiment, minute: every stage, skipping, resuming, and the report's schema."""

import json
import math
import shutil

import processes
import pytest
import yaml
from datasets import Dataset, load_from_disk
from readable import unreadable
from transformers import AutoModelForCausalLM

from trl_weaks import WeakEnsemble, columns, label_completions
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.pipeline import predictions
from trl_weaks.study.pipeline.run import run as run_task
from trl_weaks.study.pipeline.students import completions as training
from trl_weaks.study.stages import STAMP
from trl_weaks.study.tasks.slot_filling import SlotFilling
from trl_weaks.study.workers import LOG, possible_workers

pytestmark = pytest.mark.filterwarnings("ignore:.*gold completions have more")
STUDENTS = ["single_gpt2", "single_opt", "naive", "joint", "bayesian_aux", "bayesian_joint", "cdpo"]
ROWS = [*STUDENTS, "ceiling", "strong_on_a", "joint_answer", "untrained", "few_shot"]


def run(config: SlotFillingConfig, command: str) -> None:
    run_task(config, SlotFilling(config), command)


def minute(output_dir, **overrides) -> SlotFillingConfig:
    return SlotFillingConfig(**minute_settings() | {"output_dir": str(output_dir)} | overrides)


def minute_settings() -> dict:
    settings = yaml.safe_load(SlotFillingConfig.preset_path("tiny").read_text(encoding="utf-8"))
    settings |= {
        "workers": 1,
        "methods": ["headline"],
        "num_gold": 24,
        "num_weak": 12,
        "num_validation": 6,
        "num_test": 8,
        "max_new_tokens": 12,
        "num_shots": 2,
    }
    settings |= {"weak_models": ["tiny:gpt2", "tiny:opt"], "num_candidates": 2, "num_preference_candidates": 3}
    for name in ("weak_training", "student_training", "preference_training"):
        settings[name] = settings[name] | {"num_train_epochs": 1, "max_steps": -1}
    for name in ("pretraining", "weak_pretraining"):
        settings[name] = settings[name] | {"jumbled_copying": 40}
    settings["pretraining"]["sentences"] = 64
    settings["tiny_models"] = {
        name: sizes | {"hidden_size": 16, "layers": 1, "heads": 2} for name, sizes in settings["tiny_models"].items()
    }
    return settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(minute(folder), "the command")
    return folder


def test_every_method_row_is_a_number(finished):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert list(results["methods"]) == ROWS
    assert list(results["weak"]) == ["gpt2", "opt"]
    assert results["seeds"] == [0] and isinstance(results["ceiling"], float)
    for row in (*results["methods"].values(), *results["weak"].values()):
        assert math.isfinite(row["slu_f1"]) and 0.0 <= row["unparsable"] <= 1.0
    report = (finished / "report.md").read_text(encoding="utf-8")
    assert "the command" in report and "pgr.png" in report and "reliability.png" in report
    assert "of the examples of the first seed's half B that all of them answered." in report
    assert "agreement.png" in report and unreadable(report) == []
    assert results["preference"]["prompts"] == 12 and "against gold: accuracy" in results["preference"]
    assert (finished / "pgr.png").stat().st_size > 1000


def test_the_supervisors_joint_answer_is_what_labelling_gives_for_the_test_prompts(finished):
    seed = finished / "seed-0"
    ensemble = WeakEnsemble.from_pretrained([seed / "weak" / name for name in ("gpt2", "opt")])
    task = SlotFilling(minute(finished))
    prompts = [{"example_id": one.id, "prompt": task.prompt(one)} for one in task.splits(0).test[:8]]
    labels = label_completions(ensemble, Dataset.from_list(prompts), "joint", num_candidates=2, max_new_tokens=12)
    expected = dict(zip(labels["example_id"], labels["completion"], strict=True))
    lines = (seed / "predictions" / "joint_answer" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["id"] for line in found] == [row["example_id"] for row in prompts]
    assert {line["id"]: line["completion"] for line in found} == {row["example_id"]: "" for row in prompts} | expected


def test_students_say_how_sure_they_are_and_an_older_evaluation_is_named(finished, tmp_path):
    found = json.loads((finished / "results.json").read_text(encoding="utf-8"))["diagnostics"]
    assert "confidence of the answers" not in found["missing"]
    for entry in found["methods"].values():
        assert entry["confidence_variance"][0] >= 0 and 0 <= entry["answers"]["area_under_risk"][0] <= 1
    assert "does a student know when it is wrong?" in (finished / "report.md").read_text(encoding="utf-8")
    shutil.copytree(finished, tmp_path / "older")
    (tmp_path / "older" / "seed-0" / "predictions" / "gpt2" / "confidences.jsonl").unlink()
    run(minute(tmp_path / "older"), "the command")
    older = json.loads((tmp_path / "older" / "results.json").read_text(encoding="utf-8"))
    missing = older["diagnostics"]["missing"].pop("confidence of the answers")
    assert missing.startswith("evaluation kept none of gpt2's")
    for name, entry in older["diagnostics"]["methods"].items():
        wanted = found["methods"][name]
        same = {key: value for key, value in wanted.items() if key in entry}
        assert entry == same and ("answers" in entry) == (name.startswith("single_opt")), name


def test_two_workers_and_small_batches_end_with_the_same_predictions(finished, tmp_path):
    (tmp_path / "minute.yaml").write_text(yaml.safe_dump(minute_settings()), encoding="utf-8")
    command = ["examples/slot_filling.py", "--config", str(tmp_path / "minute.yaml")]
    command += ["--output_dir", str(tmp_path / "run"), "--workers", "2", "--generation_batch_size", "5"]
    done = processes.run(command)
    assert done.returncode == 0, done.stderr
    for row in [*ROWS, "gpt2", "opt"]:
        one, two = (
            root / "seed-0" / "predictions" / row / "predictions.jsonl" for root in (finished, tmp_path / "run")
        )
        assert one.read_text(encoding="utf-8") == two.read_text(encoding="utf-8"), row
    if possible_workers(2) == 2:  # a lone core has no log of its own
        assert (tmp_path / "run" / "base" / LOG).stat().st_size > 0


def test_nothing_pickled_is_left(finished):
    assert {path.suffix for path in finished.rglob("*") if path.is_file()} <= {
        ".json", ".jsonl", ".md", ".png", ".txt", ".arrow", ".parquet", ".html", ".safetensors", ".jinja", ".lock", "",
    }  # fmt: skip


def test_labels_checkpoints_and_cards_are_left(finished):
    labels = load_from_disk(str(finished / "seed-0" / "labels" / "independent"))
    assert set(columns.GENERATION) <= set(labels.column_names)
    for system in ("students/bayesian_aux", "students/cdpo", "students/ceiling", "weak/gpt2"):
        folder = finished / "seed-0" / system
        AutoModelForCausalLM.from_pretrained(str(folder))
        assert (folder / "README.md").exists() and not list(folder.glob("checkpoint-*"))
    card = (finished / "seed-0" / "students" / "bayesian_aux" / "README.md").read_text(encoding="utf-8")
    assert "## Weak supervision" in card and "`gpt2`" in card


def test_the_same_command_again_does_no_work(finished, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", fail)
    monkeypatch.setattr("trl_weaks.study.pipeline.completions.predict_completions", fail)
    run(minute(finished, generation_batch_size=3), "again")  # which changes speed alone


def test_a_killed_run_continues_where_it_stopped(finished, tmp_path, monkeypatch):
    """The second student dies; the run then trains only what is missing and ends with the same numbers."""
    trained = []
    plain = training.train

    def dies(trainer, folder, tokenizer):
        trained.append(folder.name)
        if len(trained) == 5:
            raise KeyboardInterrupt
        plain(trainer, folder, tokenizer)

    monkeypatch.setattr(training, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        run(minute(tmp_path), "killed")
    before = list(trained)
    run(minute(tmp_path), "continued")
    assert trained[5] == before[4] and len(set(trained)) == len(trained) - 1
    ours, theirs = (json.loads((f / "results.json").read_text(encoding="utf-8")) for f in (tmp_path, finished))
    assert {n: r["slu_f1"] for n, r in ours["methods"].items()} == {
        n: r["slu_f1"] for n, r in theirs["methods"].items()
    }


def test_a_changed_setting_redoes_what_depends_on_it(finished, monkeypatch):
    trained = []
    monkeypatch.setattr(training, "train", lambda trainer, folder, tokenizer: trained.append(folder.name))
    monkeypatch.setattr("trl_weaks.study.pipeline.completions.predict_completions", lambda *a, **k: None)
    settings = minute(finished).student_training | {"learning_rate": 3e-4}
    changed = minute(finished, student_training=settings, stages=["weak", "label", "ceiling"])
    run(changed, "changed")
    assert trained == ["ceiling", "strong_on_a"]  # the supervisors and their labels stay


def test_the_report_names_stages_that_have_not_run(tmp_path):
    with pytest.raises(ValueError, match="stages that have not run: evaluate gpt2"):
        run(minute(tmp_path, stages=["report"]), "too early")


def test_predictions_of_another_test_split_are_refused(finished, tmp_path):
    with pytest.raises(ValueError, match="not those of the test split"):
        predictions.read_predictions(finished / "seed-0" / "predictions" / "naive", ["other"])
    stamp = json.loads((finished / "seed-0" / "predictions" / "naive" / STAMP).read_text(encoding="utf-8"))
    assert stamp["complete"]


def test_a_prompt_without_room_for_its_answer_stops_the_run_before_any_fine_tuning(tmp_path):
    settings = minute_settings()
    settings["tiny_models"]["opt"]["max_length"] = 40
    settings["weak_pretraining"] = None
    with pytest.raises(ValueError, match=r"example 'home-.* tokens.* more than the 40 positions of opt.*max_length"):
        run(SlotFillingConfig(**settings | {"output_dir": str(tmp_path), "max_new_tokens": 30}), "the command")
    assert not (tmp_path / "seed-0" / "labels").exists()
