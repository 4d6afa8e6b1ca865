"""Simulated annotators: planted matrices come out again, streams are apart, and their students stand in the report."""

import doctest
from types import SimpleNamespace

import numpy as np
import pytest

from trl_weaks import labels_from_votes
from trl_weaks.aggregation import aggregate
from trl_weaks.aggregation.dawid_skene import DawidSkene
from trl_weaks.labelling.reliability.report_card import supervisor_report
from trl_weaks.labelling.reliability.voters import supervisor_votes
from trl_weaks.study import ClassificationTask, Example, Method, Splits, annotators, run_study
from trl_weaks.study.annotators import check_plan, simulated_votes
from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.report.page import named_gold
from trl_weaks.study.tasks.classification import Classification

SIZE = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 64}
TRAINING = {"per_device_train_batch_size": 8, "learning_rate": 5e-3}
SMALL = {
    "tiny_models": dict.fromkeys(["gpt2", "llama"], SIZE),
    "weak_models": ["tiny:gpt2"],
    "workers": 1,
    "weak_training": TRAINING | {"max_steps": 1},
    "student_training": TRAINING | {"max_steps": 2},
    "stages": ["weak", "label", "student", "ceiling", "evaluate", "report"],
}
CLASSES = ["even", "odd", "three"]


class Kinds(ClassificationTask):
    name, classes = "kinds", CLASSES

    def splits(self, seed):
        made = [Example(str(n), f"Which is {n}?", CLASSES[n % 3]) for n in range(90)]
        return Splits(made[:20], made[20:60], made[60:64], made[64:])


def test_votes_follow_the_planted_matrices_and_gaps():
    gold = np.random.default_rng(0).integers(4, size=20000).tolist()
    for annotator, accuracy in zip(annotators.annotators(4, 0, {"accuracies": [0.9, 0.4]}), (0.9, 0.4), strict=True):
        np.testing.assert_allclose(annotator.confusion.sum(-1), 1)
        np.testing.assert_allclose(annotator.confusion.diagonal(), accuracy)
        votes = annotator.votes(gold)
        assert sum(vote is None for vote in votes) / 20000 == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 20000))
        for y in range(4):
            cast = [v for v, g in zip(votes, gold, strict=True) if g == y and v is not None]
            share = np.bincount(cast, minlength=4) / len(cast)
            bound = 5 * np.sqrt(annotator.confusion[y] * (1 - annotator.confusion[y]) / len(cast)) + 1e-12
            assert (np.abs(share - annotator.confusion[y]) <= bound).all()


def test_each_annotator_has_a_stream_of_its_own():
    """Another annotator, another accuracy beside it or more texts change no vote of the first; another seed does."""
    gold = {str(i): i % 3 for i in range(40)}
    first = simulated_votes(gold, CLASSES, 0, {"accuracies": [0.7, 0.6]})[:40]
    assert simulated_votes(gold, CLASSES, 0, {"accuracies": [0.7, 0.2, 0.5]})[:40] == first
    assert simulated_votes(gold | {"new": 0}, CLASSES, 0, {"accuracies": [0.7, 0.6]})[:40] == first
    assert simulated_votes(gold, CLASSES, 1, {"accuracies": [0.7, 0.6]})[:40] != first
    both = simulated_votes(gold, CLASSES, 0, {"accuracies": [0.7, 0.7]})
    assert [row["label"] for row in both[:40]] != [row["label"] for row in both[40:]]


def test_dawid_skene_finds_what_was_planted_and_beats_the_mean():
    truth = np.random.default_rng(1).integers(3, size=4000)
    gold = {str(i): int(y) for i, y in enumerate(truth)}
    examples = [{"example_id": i, "text": "t"} for i in gold]
    labels = labels_from_votes(examples, simulated_votes(gold, CLASSES, 5), None, CLASSES)
    names, votes, _ = supervisor_votes(labels)
    kept = np.array([gold[e] for e in labels["example_id"]])
    fitted = DawidSkene().fit(votes)
    for name, planted in zip(names, annotators.annotators(3, 5), strict=True):
        assert name == planted.name
        assert np.abs(fitted.confusion[names.index(name)] - planted.confusion).max() < 0.06
    found, mean = fitted(votes).argmax(-1), aggregate("mean", votes).argmax(-1)
    assert (found == kept).mean() > (mean == kept).mean() + 0.02


def test_students_on_annotators_are_rows_without_pgr(tmp_path):
    plan = {"accuracies": [0.95, 0.6, 0.6], "gaps": 0.2}
    run = SMALL | {"annotators": plan, "compare": ["annotators_dawid_skene", "annotators_mean"]}
    found = run_study(Kinds(), ["naive", "annotators"], "tiny", tmp_path, **run)
    for name in ("annotators_mean", "annotators_dawid_skene"):
        row = found[name]
        low, high = row["accuracy_interval"]
        assert low <= row["accuracy"] <= high and row["pgr"] is None and row["supervisors"] == []
    assert found["naive"]["supervisors"] == ["gpt2"]
    assert found.results["comparisons"][0]["second"] == "annotators_mean"
    assert list(found.results["diagnostics"]["methods"]) == ["naive"]
    assert "half B alone" in found.results["diagnostics"]["missing"]["students of simulated annotators"]
    made = found.results["annotators"]
    assert made["plan"]["accuracies"] == plan["accuracies"] and set(made["labels_right"]) == {"mean", "dawid_skene"}
    report = found.report.read_text()
    assert "## Simulated annotators" in report and "| annotator_3 |" in report
    assert "| Student on simulated annotators, Dawid-Skene | 0." in report
    votes = labels_from_votes(
        [{"example_id": e.id, "text": e.text} for e in Kinds().splits(0).half_b],
        simulated_votes({e.id: CLASSES.index(e.target) for e in Kinds().splits(0).half_b}, CLASSES, 0, plan),
        "dawid_skene",
        CLASSES,
    )
    truth = {e.id: e.target for e in Kinds().splits(0).half_b}
    hits = [CLASSES[int(np.argmax(row["weak_probs"][0]))] == truth[row["example_id"]] for row in votes]
    assert made["labels_right"]["dawid_skene"] == [pytest.approx(np.mean(hits))]


def test_classes_that_have_numbers_for_names_are_compared_by_name():
    """Sorted as text "10" stands before "2", so that the place of a class is another one's name."""
    classes = sorted(map(str, range(12)))
    gold = {str(i): i % 12 for i in range(600)}
    votes = simulated_votes(gold, classes, 0, {"accuracies": [0.9, 0.6]})
    labels = labels_from_votes([{"example_id": i, "text": "t"} for i in gold], votes, None, classes)
    half_b = [Example(i, "t", classes[k]) for i, k in gold.items()]
    task = SimpleNamespace(kind="classes", name="stars", classes=classes, label=lambda example: example.target)
    run = SimpleNamespace(splits=SimpleNamespace(half_b=half_b, half_b_has_gold=True))
    card = supervisor_report(labels, named_gold(task, run, labels))
    for one in card.supervisors:
        own = [row for row in votes if row["supervisor"] == one["supervisor"] and row["label"]]
        cast = {row["example_id"]: row["label"] for row in own}
        assert one["accuracy"] == pytest.approx(np.mean([label == classes[gold[i]] for i, label in cast.items()]))


def test_what_annotators_cannot_do_is_refused_before_any_training(tmp_path, monkeypatch):
    def train(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("trl_weaks.study.pipeline.students.classes.train", train)

    class Unlabelled(Kinds):
        def splits(self, seed):
            found = super().splits(seed)
            return Splits(found.half_a, [Example(e.id, e.text) for e in found.half_b], found.validation, found.test)

    with pytest.raises(ValueError, match="'kinds': simulated annotators vote around the gold of `half_b`, which has"):
        run_study(Unlabelled(), ["annotators"], "tiny", tmp_path, **SMALL)
    mine = Method("mine", labels="annotators", aggregator="mean", supervisors=("gpt2",))
    with pytest.raises(ValueError, match="method 'mine': `supervisors` chooses among models"):
        run_study(Kinds(), [mine], "tiny", tmp_path, **SMALL)
    with pytest.raises(
        ValueError, match="`labels='crowd'`: votes of classes are 'independent', 'trusted', 'boosted' or 'annot"
    ):
        run_study(Kinds(), [Method("mine", labels="crowd", aggregator="mean")], "tiny", tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"accuracy": [0.5]}, "an unknown entry 'accuracy'; it may have accuracies, gaps, habits"),
        ({"accuracies": [0.5]}, "give a list of two or more"),
        ({"accuracies": 0.5}, "accuracies is 0.5; give a list"),
        ({"accuracies": [0.5, "high"]}, "accuracies holds 'high', which is no number"),
        ({"accuracies": [0.5, 1.2]}, r"\[0.5, 1.2\] lie in \[0, 1\]"),
        ({"gaps": 1}, r"gaps \(1\) in \[0, 1\)"),
        ({"gaps": None}, "gaps holds None"),
        ({"habits": 0}, "habits=0 must be above 0"),
    ],
)
def test_a_bad_plan_is_named(plan, message):
    with pytest.raises(ValueError, match=message):
        check_plan(plan)
    with pytest.raises(ValueError, match=message):
        ClassificationConfig(annotators=plan)


def test_slurps_intents_are_scenario_and_action(tmp_path):
    (tmp_path / "slot_types.txt").write_text("date\n")
    lines = [
        ("play", "music", "play_it"),
        ("wake", "alarm", "set"),
        ("stop", "alarm", "remove"),
        ("hush", "alarm", "set"),
    ]
    for name, part in (("train", lines[:2]), ("devel", lines[2:3]), ("test", lines[3:])):
        rows = [
            f'{{"id": "{t}", "sentence": "{t}", "scenario": "{s}", "action": "{a}", "slots": []}}' for t, s, a in part
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    sizes = {"num_gold": 1, "num_weak": 1, "num_validation": 1}
    task = Classification(ClassificationConfig(data_dir=str(tmp_path), task="intent", **sizes))
    assert task.classes == ["alarm_remove", "alarm_set", "music_play_it"]
    assert task.classes[task.splits(0).test[0].target] == "alarm_set"


def test_the_example_runs():
    found = doctest.testmod(annotators)
    assert found.attempted and not found.failed
