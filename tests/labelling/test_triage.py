"""Decisions follow ids, the budget holds, the promised risk is kept, and every export can be read back."""

import csv
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value, concatenate_datasets

from trl_weaks import labels_from_completions
from trl_weaks.labelling.reliability.triage import triage
from trl_weaks.metrics.selective import bounded_threshold

NAMES = ["no", "yes"]


def committee(n: int = 400, seed: int = 0) -> tuple[Dataset, dict[str, str]]:
    """Three calibrated supervisors on a binary task, and the true labels of all examples."""
    rng = np.random.default_rng(seed)
    yes = rng.uniform(0.02, 0.98, n)
    truth = rng.random(n) < yes
    probs = np.clip(yes[:, None] + rng.normal(0, 0.02, (n, 3)), 0.001, 0.999)
    features = Features(
        {"example_id": Value("string"), "text": Value("string"), "label": ClassLabel(names=NAMES)}
        | {"weak_probs": Sequence(Sequence(Value("float64"))), "weak_weights": Sequence(Value("float64"))}
    )
    rows = {
        "example_id": [f"e{i}" for i in range(n)],
        "text": [f"text {i}" for i in range(n)],
        "label": [0] * n,  # not read: only its names are
        "weak_probs": np.stack([1 - probs, probs], -1).tolist(),
        "weak_weights": [[0.5, 0.25, 0.25]] * n,
    }
    return Dataset.from_dict(rows, features=features), {f"e{i}": NAMES[int(t)] for i, t in enumerate(truth)}


def test_the_threshold_is_that_of_the_pooled_confidence_joined_on_ids():
    labels, truth = committee()
    sample = {example: truth[example] for example in sorted(truth)[::2]}
    found = triage(labels, sample, risk=0.2)
    scores, right = [], []
    for row in labels:
        if row["example_id"] in sample:
            mean = sum(w * p[1] for w, p in zip(row["weak_weights"], row["weak_probs"], strict=True))
            scores.append(max(mean, 1 - mean))
            right.append(sample[row["example_id"]] == NAMES[mean > 0.5])
    assert found.threshold == bounded_threshold(scores, right, 0.2)
    assert found.counts()["accept"] > 50


def test_the_order_of_labels_and_gold_does_not_matter():
    labels, truth = committee()
    found = triage(labels, truth, risk=0.2)
    order = np.random.default_rng(1).permutation(len(labels))
    other = triage(labels.select(order), dict(reversed(truth.items())), risk=0.2)
    by_id = {row["example_id"]: row["triage"] for row in other.dataset}
    assert {row["example_id"]: row["triage"] for row in found.dataset} == by_id


def test_a_budget_is_kept_and_its_audit_is_drawn_among_the_accepted():
    labels, truth = committee()
    found = triage(labels, truth, risk=0.2, budget=20, audit=0.05)
    counts = found.counts()
    assert counts["person"] + counts["audit"] == 20 and counts["audit"] > 0
    assert all(row["triage"] == "accept" for row in found.dataset if row["triage_audit"])
    person = [row["triage_confidence"] for row in found.dataset if row["triage"] == "person"]
    weighted = [row["triage_confidence"] for row in found.dataset if row["triage"] == "weight"]
    assert max(person) <= min(weighted)
    assert len(found.queue()) == 20


def test_weights_follow_the_share_that_is_right():
    labels, truth = committee(4000)
    found = triage(labels, truth, risk=0.1, budget=0)
    rows = [row for row in found.dataset if row["triage"] == "weight"]
    assert found.counts()["person"] == 0
    confidence, weight = (np.array([row[c] for row in rows]) for c in ("triage_confidence", "triage_weight"))
    assert abs(weight - confidence).mean() < 0.04  # these supervisors are calibrated
    assert (np.diff(weight[np.argsort(confidence, kind="stable")]) >= -1e-12).all()


def test_an_abstention_does_not_vote():
    labels, truth = committee(100)
    rows = labels.to_list()
    rows[3]["weak_probs"] = [[0.1, 0.9], [float("nan")] * 2, [float("nan")] * 2]
    found = triage(Dataset.from_list(rows, features=labels.features), truth)
    assert found.dataset[3]["triage_confidence"] == pytest.approx(0.9)


def test_completions_are_answered_by_the_most_weight():
    rows = []
    for i in range(200):
        texts = (
            [("wrong", ["a", "b"], [0.3, 0.4]), ("right", ["c"], [0.3])] if i % 4 == 0 else [("right", ["a"], [1.0])]
        )
        for text, names, weights in texts:
            row = {"example_id": str(i), "prompt": f"p{i}", "completion": text}
            rows.append(row | {"weak_supervisors": names, "weak_weights": weights})
    found = triage(Dataset.from_list(rows), {str(i): "right" for i in range(200)}, risk=0.4)
    answers = {row["example_id"]: (row["triage_label"], row["triage_confidence"]) for row in found.dataset}
    assert answers["0"] == ("wrong", pytest.approx(0.7)) and answers["1"] == ("right", pytest.approx(1.0))
    assert found.threshold.gold == 200 and found.threshold.errors == 50


def test_what_a_reader_takes_for_one_answer_has_its_weight_together():
    rows = [
        {
            "example_id": str(i),
            "prompt": f"p{i}",
            "completion": text,
            "weak_supervisors": [name],
            "weak_weights": [share],
        }
        for i in range(60)
        for text, name, share in (("Paris", "a", 0.3), (" Paris", "b", 0.3), ("London", "c", 0.4))
    ]
    found = triage(Dataset.from_list(rows), {str(i): "Paris" for i in range(60)})
    assert {row["triage_label"].strip() for row in found.dataset} == {"Paris"}
    assert found.dataset["triage_confidence"][:] == pytest.approx([0.6] * len(found.dataset))
    assert found.threshold.errors == 0


def test_exports_carry_the_queue(tmp_path):
    labels, truth = committee()
    found = triage(labels, truth, risk=0.2, budget=12)
    found.to_csv(tmp_path / "q.csv")
    found.to_jsonl(tmp_path / "q.jsonl")
    found.to_label_studio(tmp_path / "ls.json")
    found.to_argilla(tmp_path / "argilla.jsonl")
    ids = found.queue()["example_id"][:]
    table = [line.split(",") for line in (tmp_path / "q.csv").read_text().splitlines()]
    assert table[0][-1] == "label" and [row[0] for row in table[1:]] == ids
    assert [json.loads(line)["example_id"] for line in (tmp_path / "q.jsonl").read_text().splitlines()] == ids
    tasks = json.loads((tmp_path / "ls.json").read_text())
    assert [task["data"]["example_id"] for task in tasks] == ids
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == [found.queue()[0]["triage_label"]]
    records = [json.loads(line) for line in (tmp_path / "argilla.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ids


@pytest.mark.parametrize("messages", [False, True])
def test_texts_that_people_write_come_back_as_completions(tmp_path, messages):
    prompt = [{"role": "user", "content": "Capital?"}, {"role": "tool", "content": "of Peru"}]
    examples = [{"example_id": f"0{i}", "prompt": prompt if messages else "Capital?"} for i in range(3)]
    answers = [{"example_id": f"0{i}", "supervisor": "llm", "completion": " Lima"} for i in range(3)]
    found = triage(labels_from_completions(examples, answers), {"00": " Lima"})
    found.to_csv(tmp_path / "q.csv")
    found.to_jsonl(tmp_path / "q.jsonl")
    rows = list(csv.DictReader((tmp_path / "q.csv").read_text().splitlines(keepends=True)))
    assert {row["prompt"] for row in rows} == {"user: Capital?\ntool: of Peru" if messages else "Capital?"}
    for table in (rows, [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]):
        made = labels_from_completions(examples, [row | {"completion": " Cusco"} for row in table[:2]])
        assert made["example_id"][:] == ["00", "01"] and made["weak_supervisors"][:] == [["person"]] * 2
    with pytest.raises(ValueError, match="every answer is empty or an abstention"):
        labels_from_completions(examples, tmp_path / "q.csv")
    found.to_label_studio(tmp_path / "ls.json")
    found.to_argilla(tmp_path / "argilla.jsonl")
    task = json.loads((tmp_path / "ls.json").read_text())[0]
    shown = {"from_name": "completion", "to_name": "text", "type": "textarea", "value": {"text": [" Lima"]}}
    assert task["predictions"][0]["result"] == [shown] and task["data"]["text"] == rows[0]["prompt"]
    record = json.loads((tmp_path / "argilla.jsonl").read_text().splitlines()[0])
    assert (record["text"], record["completion.suggestion"]) == (rows[0]["prompt"], " Lima")


def test_the_report_says_when_nothing_can_be_accepted():
    labels, truth = committee(100)
    flipped = {example: NAMES[NAMES.index(label) ^ 1] for example, label in truth.items()}
    found = triage(labels, flipped)
    assert found.counts()["accept"] == 0
    assert found.report().startswith("No label can be accepted")


@pytest.mark.parametrize(
    "change, gold, settings, message",
    [
        ({}, {"x": "yes"}, {}, "gold has the id 'x', which no label has"),
        ({}, {}, {}, "gold is empty"),
        ({}, {"e0": "maybe"}, {}, "gold label 'maybe' of 'e0' is not a class; the classes are"),
        ({}, {"e0": 2}, {}, "gold label 2 of 'e0' is not a class"),
        ({}, {"e0": "yes"}, {"audit": 2}, "audit=2 is a share"),
        ({}, {"e0": "yes"}, {"budget": -1}, "budget=-1 is a number of examples"),
        ({}, {"e0": "yes"}, {"risk": 1.5}, "risk=1.5 must lie between"),
        ({"example_id": ["e0"] * 2}, {"e0": "yes"}, {}, r"Row 1 \(example 'e0'\), column 'text'"),
        ({"example_id": ["e0"] * 2, "text": ["t"] * 2}, {"e0": "yes"}, {}, "repeats 'e0'"),
        ({"weak_weights": [[0.0] * 3] * 2}, {"e0": "yes"}, {}, r"row 0 \(example_id 'e0'\): no supervisor gives"),
    ],
)
def test_bad_input(change, gold, settings, message):
    labels, _ = committee(2)
    labels = Dataset.from_dict(labels.to_dict() | change, features=labels.features)
    with pytest.raises(ValueError, match=message):
        triage(labels, gold, **settings)


def test_gold_that_contradicts_itself_or_lacks_its_columns():
    labels, _ = committee(2)
    with pytest.raises(ValueError, match="gold row 1: 'e0' is 'no' here and 'yes' before"):
        triage(labels, Dataset.from_dict({"example_id": ["e0", "e0"], "label": ["yes", "no"]}))
    with pytest.raises(ValueError, match="it needs 'example_id' and 'label'"):
        triage(labels, Dataset.from_dict({"id": ["e0"]}))
    with pytest.raises(ValueError, match="lack the column 'example_id'"):
        triage(labels.remove_columns("example_id"), {"e0": "yes"})
    with pytest.raises(ValueError, match="have neither 'weak_probs'"):
        triage(labels.remove_columns("weak_probs"), {"e0": "yes"})


def test_equal_confidences_have_one_weight_whatever_their_order():
    """Two of three with a share of one half are right: all of that share weigh 2/3, in either order of the gold."""
    rows = {"example_id": list("abcd"), "prompt": ["p"] * 4, "completion": [" x"] * 4, "weak_weights": [[0.5]] * 4}
    other = rows | {"completion": [" y"] * 4}
    labels = concatenate_datasets([Dataset.from_dict(rows), Dataset.from_dict(other)])
    gold = {"a": "x", "b": "other", "c": "x"}  # the white space that answers begin with does not make them wrong
    for ids in (gold, dict(reversed(gold.items()))):
        found = triage(labels, {e: gold[e] for e in ids}, audit=0).dataset
        assert found["triage_label"][:] == [" x"] * 4
        assert found["triage_weight"][:] == pytest.approx([2 / 3] * 4)


def test_the_order_of_the_classes_does_not_matter_where_the_committee_is_torn():
    """Two annotators who are right in 85 of 100 cases: where they differ the committee has no answer."""
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 2, 300)
    votes = np.where(draw.random((300, 2)) < 0.85, truth[:, None], 1 - truth[:, None])
    found = []
    for names in (["ham", "spam"], ["spam", "ham"]):
        rows = [
            {
                "example_id": str(i),
                "text": f"t{i}",
                "weak_probs": [[float(names[k] == ("ham", "spam")[vote]) for k in range(2)] for vote in votes[i]],
                "weak_classes": names,
            }
            for i in range(300)
        ]
        gold = {str(i): ("ham", "spam")[truth[i]] for i in range(150)}
        found.append(triage(Dataset.from_list(rows), gold, risk=0.2))
    assert found[0].dataset.to_list() == found[1].dataset.to_list()
    torn = votes[:, 0] != votes[:, 1]
    assert [row["triage"] == "accept" for row in found[0].dataset] == (~torn).tolist()
    assert found[0].threshold == found[1].threshold
