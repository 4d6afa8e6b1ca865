"""The studies behind the curves: what they change, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
NAMES = ["alarm", "music", "news"]


@pytest.fixture
def data_dir(tmp_path):
    for split, count in (("train", 1200), ("devel", 4), ("test", 6)):
        rows = [
            {"id": f"{split}{i}", "sentence": f"{split} {i}", "scenario": NAMES[i % 3], "action": "do", "slots": []}
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "slot_types.txt").write_text("date\n")
    return str(tmp_path)


def test_noise_replaces_its_share_and_a_higher_level_the_same_ones_too(curves, data_dir):
    gold, classes = curves.gold_of(data_dir)
    assert classes == 3 and len(gold) == 1200
    made = {}
    for percent in (0, 10, 50):
        noisy = curves.Noisy(gold, classes, percent / 100)
        made[percent] = {name: noisy({"example_id": name}).index(1.0) for name in gold}
    wrong = {percent: {name for name in gold if labels[name] != gold[name]} for percent, labels in made.items()}
    assert wrong[0] == set() and wrong[10] < wrong[50]
    for percent in (10, 50):  # a third of the draws hits the right class
        assert len(wrong[percent]) / 1200 == pytest.approx(percent / 100 * 2 / 3, abs=0.04)
    assert all(made[50][name] == made[10][name] for name in wrong[10])


def test_the_share_of_right_labels_is_counted_on_the_texts_that_teach(curves, data_dir, monkeypatch):
    monkeypatch.setattr(curves, "NOISE", (50,))
    config = {"data_dir": data_dir, "dataset": "slurp", "task": "scenario", "num_gold": 100, "num_weak": 1000}
    found = curves.labels_right(config | {"num_validation": 2}, [0, 1])["noise_50"]
    gold, _ = curves.gold_of(data_dir)
    task = curves.task_of("classification", curves.config_class("classification")(**config | {"num_validation": 2}))
    for seed, share in enumerate(found):
        names = [example.id for example in task.splits(seed).half_b]
        labels = [curves.Noisy(gold, 3, 0.5)({"example_id": name}) for name in names]
        right = sum(
            NAMES[label.index(1.0)] == NAMES[int(name[5:]) % 3] for name, label in zip(names, labels, strict=True)
        )
        assert share == right / 1000 and 0.6 < share < 0.75


@pytest.mark.parametrize("name", ["supervisors", "labels", "strength_250", "strength_2000"])
def test_every_curve_compares_rows_that_it_has(name, curves, data_dir):
    made = curves.study(name, data_dir)
    methods = [one if isinstance(one, str) else one.name for one in made["methods"]]
    assert len(set(methods)) == len(methods) and set(made["compare"]) <= {*methods, "mean_vote"}
    if name == "supervisors":
        taught = [method.supervisors for method in made["methods"]]
        assert [len(one) for one in taught] == list(range(1, 9)) and all(
            a == b[:-1] for a, b in zip(taught, taught[1:], strict=False)
        )
        assert taught[-1] == tuple(one.removeprefix("tiny:") for one in made["weak_models"])


def test_the_table_of_the_noise_says_how_far_the_student_is_from_its_labels(curves, monkeypatch):
    """Against the t interval by its formula."""
    monkeypatch.setattr(curves, "NOISE", (50,))
    student, labels = [0.7, 0.75, 0.68], [0.5, 0.55, 0.54]
    rows = {"methods": {"noise_50": {"accuracy_per_seed": student}}, "labels_right": {"noise_50": labels}}
    gaps = np.subtract(student, labels)  # 0.2, 0.2, 0.14
    half = 4.302653 * gaps.std(ddof=1) / 3**0.5
    interval = f"{gaps.mean():+.3f} [{gaps.mean() - half:+.3f}, {gaps.mean() + half:+.3f}]"
    assert curves.noise_table(rows).splitlines()[-1] == f"| 50 % | 0.710 | 0.530 | {interval} | 3 of 3 | 0.012 |"


def test_a_seed_ahead_by_rounding_is_not_ahead_in_the_table_of_the_noise(curves, monkeypatch):
    monkeypatch.setattr(curves, "NOISE", (50,))
    student, labels = [0.7, 0.75, 0.1 + 0.2], [0.5, 0.55, 0.3]
    rows = {"methods": {"noise_50": {"accuracy_per_seed": student}}, "labels_right": {"noise_50": labels}}
    assert student[2] > labels[2] and "| 2 of 3 |" in curves.noise_table(rows)
