"""The whole classification experiment on miniature models: files, numbers, resuming."""

import json
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
from readable import unreadable
from transformers import AutoModelForSequenceClassification

from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.pipeline import launch
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.pipeline.run import run as run_task
from trl_weaks.study.tasks.classification import Classification

TRAINING = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 2e-3, "logging_steps": 1}
SIZE = {"vocab_size": 420, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 160}
METHODS = ["single_gpt2", "naive_aux", "bayesian_balanced", "dirichlet_votes"]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "classification.py"


def run(config: ClassificationConfig, command: str) -> None:
    run_task(config, Classification(config), command)


def settings(folder: Path, **changes) -> ClassificationConfig:
    given = {
        "output_dir": str(folder), "seeds": [0, 1], "methods": METHODS, "weak_models": ["tiny:gpt2", "tiny:opt"],
        "student_model": "tiny:llama", "num_gold": 16, "num_weak": 24, "num_validation": 12, "num_test": 40,
        "tiny_models": dict.fromkeys(["gpt2", "opt", "llama"], SIZE), "weak_training": TRAINING, "calibrate": True,
        "pretraining": {"sentences": 40, "training": TRAINING}, "student_training": TRAINING,
    }  # fmt: skip
    return ClassificationConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    run(settings(folder), "the command")
    return folder


def test_report_has_every_system(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results["weak"]) == {"gpt2", "opt"}
    assert {*METHODS, "ceiling", "strong_on_a", "mean_vote", "majority_vote"} <= set(results["methods"])
    assert results["seeds"] == [0, 1] and results["classes"] == ["no", "yes"] and results["measure"] == "accuracy"
    for row in results["methods"].values():
        assert {"accuracy", "accuracy_interval", "pgr", "pgr_interval"} <= set(row) and "ECE" in row["extra"]
    assert len(results["mcnemar"]) == 5 * 4 // 2 and len(results["mcnemar"][0]["seeds"]) == 2
    assert set(results["vacuity_disagreement_correlation"]) == {"bayesian_balanced", "dirichlet_votes"}
    report = (finished / "report.md").read_text()
    for expected in ("McNemar", "AUROC", "reliability.png", "disagreement.png", "the command", "grammar"):
        assert expected in report
    assert unreadable(report) == []
    for name in ("pgr.png", "reliability.png", "disagreement.png", "agreement.png", "curves.png"):
        assert report.count(f"]({name})") == 1 and (finished / name).stat().st_size > 1000


def test_scores_are_those_of_the_predictions(finished):
    results = json.loads((finished / "results.json").read_text())
    test = [example.id for example in Classification(settings(finished)).splits(0).test]
    for name, row in (results["methods"] | results["weak"]).items():
        if (finished / "seed-0" / "predictions" / name).is_dir():
            accuracies = []
            for seed in (0, 1):
                lines = read_predictions(finished / f"seed-{seed}" / "predictions" / name, test)
                accuracies.append(np.mean([np.argmax(line["probabilities"]) == line["label"] for line in lines]))
            assert row["accuracy_per_seed"] == pytest.approx(accuracies)
    with pytest.raises(ValueError, match="not those of the test split"):
        read_predictions(finished / "seed-0" / "predictions" / "ceiling", test[1:])


def test_every_student_is_diagnosed_with_what_evaluation_left(finished):
    results = json.loads((finished / "results.json").read_text())
    found, test = results["diagnostics"], Classification(settings(finished)).splits(0).test
    assert set(found["methods"]) == set(METHODS) and not found["missing"]
    told = {
        name: np.array([line["probabilities"] for line in read_predictions(folder, [e.id for e in test])])
        for name in ("gpt2", "opt", "single_gpt2", "naive_aux", "ceiling")
        for folder in [finished / "seed-1" / "predictions" / name]
    }
    for name in ("gpt2", "opt"):  # at the temperatures with which they labelled
        fitted = json.loads((finished / "seed-1" / "labels" / "temperatures.json").read_text())[name]
        powers = told[name] ** (1 / fitted)
        told[name] = powers / powers.sum(1, keepdims=True)
    for name, taught in (("single_gpt2", told["gpt2"]), ("naive_aux", (told["gpt2"] + told["opt"]) / 2)):
        entry = found["methods"][name]
        apart = sum((told[name][i][k] - taught[i][k]) ** 2 for i in range(len(test)) for k in range(2)) / len(test)
        assert entry["misfit"][1] == pytest.approx(apart, rel=1e-5)
        assert entry["confidence_variance"][1] == pytest.approx(told[name].max(1).var(), rel=1e-5)
        assert entry["student_error_bound"][1] == pytest.approx(entry["weak_error"][1] - apart, rel=1e-5)
        assert 0 <= entry["kernel_score"][1] <= 1 and entry["blind_spots"]["new_errors"] >= 0
    assert "vacuity" in found["methods"]["dirichlet_votes"] and "vacuity" not in found["methods"]["naive_aux"]
    audits = {(audit["diagnostic"], audit["against"]): audit for audit in found["audit"]}
    audit = audits["misfit", "gain_squared_error"]
    assert audit["points"] == 8 and -1 <= audit["interval"][0] <= audit["correlation"] <= audit["interval"][1] <= 1
    report = (finished / "report.md").read_text()
    assert "## Diagnostics" in report and "Rank correlation of each diagnostic" in report


def test_supervisors_are_read_as_they_labelled(finished):
    """At their temperatures: the mean vote is that of what the students were taught, and so is the calibration."""
    results = json.loads((finished / "results.json").read_text())
    test = Classification(settings(finished)).splits(0).test
    hits, brier = [], []
    for seed in (0, 1):
        votes = []
        fitted = json.loads((finished / f"seed-{seed}" / "labels" / "temperatures.json").read_text())
        for name in ("gpt2", "opt"):
            lines = read_predictions(finished / f"seed-{seed}" / "predictions" / name, [e.id for e in test])
            powers = np.array([line["probabilities"] for line in lines]) ** (1 / fitted[name])
            votes.append(powers / powers.sum(1, keepdims=True))
        pooled = sum(votes) / 2
        hits.append(np.mean([p.argmax() == line["label"] for p, line in zip(pooled, lines, strict=True)]))
        gold = np.eye(2)[[line["label"] for line in lines]]
        brier.append(((votes[0] - gold) ** 2).sum(1).mean())
    assert results["methods"]["mean_vote"]["accuracy_per_seed"] == pytest.approx(hits)
    assert results["weak"]["gpt2"]["extra"]["Brier_score"] == pytest.approx(np.mean(brier))
    assert "test examples are read with them" in (finished / "report.md").read_text()


def test_runs_that_kept_no_states_say_so(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "older")
    (folder / "seed-0" / "predictions" / "opt" / "states.npy").unlink()
    run(settings(folder), "the command")
    found = json.loads((folder / "results.json").read_text())["diagnostics"]
    assert "opt was evaluated before states were kept" in found["missing"]["kernel score"]
    assert "kernel_score" in found["methods"]["single_gpt2"] and "kernel_score" not in found["methods"]["naive_aux"]
    assert not any(audit["diagnostic"] == "kernel_score" for audit in found["audit"] if "refused" not in audit)
    assert "Not measured: kernel score: opt" in (folder / "report.md").read_text()


def test_a_second_run_only_reports(finished):
    stamps = {path: path.stat().st_mtime_ns for path in finished.glob("**/stage.json")}
    assert len(stamps) == 1 + 2 * (2 + 1 + 4 + 2 + 8)
    before = json.loads((finished / "results.json").read_text())
    run(settings(finished), "the command")
    assert stamps == {path: path.stat().st_mtime_ns for path in finished.glob("**/stage.json")}
    after = json.loads((finished / "results.json").read_text())
    assert after["methods"] == before["methods"]


def test_students_are_loadable_and_have_cards(finished):
    folder = finished / "seed-1" / "students" / "dirichlet_votes"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 2 and model.config.weak_evidence == "exp"
    assert "DirichletVotes" in (folder / "README.md").read_text()
    assert not list(folder.glob("checkpoint-*"))
    temperatures = json.loads((finished / "seed-1" / "labels" / "temperatures.json").read_text())
    assert set(temperatures) == {"gpt2", "opt"} and all(t != 1.0 for t in temperatures.values())


def test_a_report_without_its_stages_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stages that have not run: evaluate gpt2"):
        run(settings(tmp_path, stages=["report"]), "")
    with pytest.raises(ValueError, match="`weak_models` is empty"):
        run(settings(tmp_path, weak_models=[]), "")
    with pytest.raises(ValueError, match="unknown settings"):
        run(settings(tmp_path, pretraining={"epochs": 3}), "")


def parse(arguments: list[str]) -> ClassificationConfig:
    return launch.parse(ClassificationConfig, arguments)


def test_command_line_overrides_the_preset():
    config = parse(["--num_weak", "7", "--methods", "naive", "bayesian"])
    assert config.num_weak == 7 and config.methods == ["naive", "bayesian"]
    assert config.num_gold == 400 and config.tiny_models["llama"]["layers"] == 2
    paper = parse(["--preset", "paper"])
    assert (paper.num_gold, paper.num_weak, paper.dataset, paper.task) == (5000, 5000, "allenai/sciq", "correct")
    assert paper.student_training["learning_rate"] == 1e-5 and paper.weak_training["learning_rate"] == 5e-5
    assert ClassificationConfig.preset_path("slurp").is_file()


def test_a_wrong_setting_ends_with_one_line():
    done = processes.run([EXAMPLE, "--task", "scenario"])
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(
        "trl-weaks: error: `task` must be one of"
    )


def test_lora_student(tmp_path):
    """Adapters are trained, saved, and merged again for evaluation."""
    config = settings(
        tmp_path, seeds=[3], methods=["naive"], weak_models=["tiny:gpt2"], use_peft=True, num_test=20, calibrate=False,
        lora={"r": 2, "target_modules": ["q_proj", "v_proj"]},
    )  # fmt: skip
    run(config, "")
    assert (tmp_path / "seed-3" / "students" / "naive" / "adapter_model.safetensors").is_file()
    results = json.loads((tmp_path / "results.json").read_text())
    assert 0 <= results["methods"]["naive"]["accuracy"] <= 1 and results["agreement"] == {}
