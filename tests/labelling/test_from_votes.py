"""Votes from anywhere: plain counting, planted confusion matrices, bad tables, a student that carries the names."""

import csv
import math
import random
from pathlib import Path

import numpy as np
import pandas
import pytest
from classification_runs import classifier, settings, tokenizer
from datasets import ClassLabel, Dataset, Features, Value

from trl_weaks import labels_from_votes, supervisor_report, triage

TEXTS = [{"example_id": "007", "text": "wake me up", "topic": "t"}, {"example_id": "7", "text": "play some jazz"}]
CLASSES = ["alarm", "music", "weather"]
EVERY = ["mean", "majority", "log_linear", "dawid_skene", None]


def vote(example, supervisor, label, *confidence) -> dict:
    row = {"example_id": example, "supervisor": supervisor, "label": label}
    return row | ({"confidence": confidence[0]} if confidence else {})


VOTES = [
    vote("007", "ann", "alarm"),
    vote("007", "bob", 1),  # by place
    vote("007", "llm", "alarm", 0.6),
    vote("7", "ann", "music"),
    vote("7", "bob", None),
]


def probs(labels) -> np.ndarray:
    """(rows, K) of aggregated labels."""
    return np.array([row["weak_probs"][0] for row in labels])


def test_columns_and_the_mean_by_hand():
    labels = labels_from_votes(TEXTS, VOTES, classes=CLASSES)
    first, second = labels
    assert labels.column_names[:2] == ["example_id", "text"] and first["topic"] == "t"
    assert first["example_id"] == "007" and first["weak_classes"] == CLASSES
    assert first["weak_probs"][0] == pytest.approx([1.6 / 3, 1.2 / 3, 0.2 / 3])
    assert first["weak_weights"] == [1.0] and first["weak_supervisors"] == ["mean"]
    assert first["vote_supervisors"] == ["ann", "bob", "llm"]
    assert first["vote_probs"][2] == pytest.approx([0.6, 0.2, 0.2])
    assert second["weak_probs"] == [[0, 1, 0]] and second["vote_supervisors"] == ["ann"]  # bob abstains


def test_votes_kept_apart():
    first, second = labels_from_votes(TEXTS, VOTES, aggregator=None, classes=CLASSES)
    assert first["weak_supervisors"] == ["ann", "bob", "llm"] and first["weak_weights"] == [1 / 3] * 3
    assert first["weak_probs"][:2] == [[1, 0, 0], [0, 1, 0]] and second["weak_probs"] == [[0, 1, 0]]
    assert "vote_probs" not in first


def tables(folder: Path) -> dict:
    """The same votes by every way in."""
    rows = [vote(r["example_id"], r["supervisor"], r["label"], r.get("confidence")) for r in VOTES]
    by_name = [r | {"label": CLASSES[r["label"]] if isinstance(r["label"], int) else r["label"]} for r in rows]
    ids = [-1 if r["label"] is None else CLASSES.index(r["label"]) for r in by_name]
    kinds = {"example_id": Value("string"), "supervisor": Value("string"), "label": ClassLabel(names=CLASSES)}
    frame = pandas.DataFrame(by_name)
    made = {
        "list": rows,
        "names": by_name,
        "frame": frame,
        "frame of places": frame.assign(label=[None if i < 0 else i for i in ids]),  # floats with NaN
        "nullable frame": frame.assign(label=pandas.array([None if i < 0 else i for i in ids], dtype="Int64")),
        "dataset": Dataset.from_list(by_name),
        "class labels": Dataset.from_list(
            [r | {"label": i} for r, i in zip(by_name, ids, strict=True)],
            features=Features(kinds | {"confidence": Value("float64")}),
        ),
        "class labels as Parquet": folder / "votes.parquet",
        "voters as classes": Dataset.from_list(by_name).class_encode_column("supervisor"),
    }
    made["class labels"].to_parquet(folder / "votes.parquet")
    made["class labels as a stream"] = made["class labels"].to_iterable_dataset()
    made["frame of places as CSV"] = folder / "floats.csv"  # 0.0, 1.0 and nothing
    made["frame of places"].to_csv(made["frame of places as CSV"], index=False)
    for name, given in (("by_name.csv", by_name), ("by_place.csv", rows)):
        made[name] = folder / name
        with made[name].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(given)
    return made


def test_every_kind_of_table_gives_the_same_labels(tmp_path):
    wanted = labels_from_votes(TEXTS, VOTES, classes=CLASSES).to_list()
    for name, table in tables(tmp_path).items():
        assert labels_from_votes(TEXTS, table, classes=CLASSES).to_list() == wanted, name
    assert labels_from_votes(Dataset.from_list(TEXTS), VOTES, classes=CLASSES).to_list() == wanted
    assert (
        labels_from_votes(pandas.DataFrame(TEXTS), VOTES, "mean", CLASSES)["weak_probs"][0] == wanted[0]["weak_probs"]
    )


@pytest.mark.parametrize(
    "labels, expected",
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        (["Yes", "yes ", "yes", "no"], ["no", "yes"]),  # the spelling that most votes have
        ([2, 10, 1], ["1", "2", "10"]),
        (["2", "10", "1"], ["1", "2", "10"]),
        (["2.0", "10.0", "1.0"], ["1", "2", "10"]),  # whole numbers beside a gap, as pandas writes them
        (["2.0", "10.5", "1.5"], ["1.5", "2.0", "10.5"]),  # no whole numbers: names as they are written
        (["3", "3.5", "10"], ["3", "3.5", "10"]),
        (["yes", "no", 0], ["no", "yes"]),  # a place among the names
    ],
)
def test_classes_default_to_the_sorted_names(labels, expected):
    made = labels_from_votes(TEXTS, [vote("7", f"v{i}", label) for i, label in enumerate(labels)])
    assert made[0]["weak_classes"] == expected
    assert sum(made[0]["weak_probs"][0]) == pytest.approx(1)


def test_numbers_are_names_before_they_are_places():
    stars = labels_from_votes(TEXTS, [vote("7", "ann", 3), vote("007", "ann", "5")], classes=["1", "2", "3", "4", "5"])
    assert probs(stars).argmax(1).tolist() == [4, 2]
    feeling = labels_from_votes(TEXTS, [vote("7", "ann", -1), vote("007", "ann", 1)], classes=[-1, 0, 1])
    assert probs(feeling).argmax(1).tolist() == [2, 0]


@pytest.mark.parametrize("gold", ["ids", "texts", "file"])
def test_numbers_beside_gaps_are_the_same_in_a_file_as_in_memory(gold, tmp_path):
    """Ann is always right about twelve classes, and abstains once: the column is one of floats. Bob says 0."""
    examples = [{"example_id": f"e{i}", "text": f"t {i}"} for i in range(24)]
    voted = {"ann": [None if i == 5 else i % 12 for i in range(24)], "bob": [0] * 24}
    votes = pandas.DataFrame([vote(f"e{i}", who, voted[who][i]) for i in range(24) for who in voted])
    votes.to_csv(tmp_path / "votes.csv", index=False)
    assert "e1,ann,1.0" in (tmp_path / "votes.csv").read_text()
    truth = {"ids": {f"e{i}": i % 12 for i in range(24)}, "texts": {f"e{i}": f"{i % 12}.0" for i in range(24)}}
    frame = pandas.DataFrame(list(truth["texts"].items()), columns=["example_id", "label"])
    frame.to_csv(tmp_path / "gold.csv", index=False)
    truth["file"] = tmp_path / "gold.csv"
    labels = labels_from_votes(examples, tmp_path / "votes.csv")
    assert labels[0]["weak_classes"] == [str(k) for k in range(12)]
    assert labels.to_list() == labels_from_votes(examples, votes).to_list()
    rows = {row["supervisor"]: row["accuracy"] for row in supervisor_report(labels, truth[gold]).supervisors}
    assert rows == {"ann": 1.0, "bob": 2 / 24}


def test_a_class_that_is_called_like_a_number_with_a_point_keeps_its_name():
    versions = labels_from_votes(TEXTS, [vote("7", "a", "2.0"), vote("007", "b", "1.0")], classes=["1.0", "2.0", "3"])
    assert probs(versions).argmax(1).tolist() == [0, 1]
    votes = [vote("7", "a", "2.0"), vote("007", "b", "alarm")]
    named = labels_from_votes(TEXTS, votes, classes=CLASSES)  # none is called so: the place, as among floats
    assert probs(named).argmax(1).tolist() == [0, 2]


def test_votes_in_a_file_bring_the_order_of_their_classes(tmp_path):
    table = tables(tmp_path)["class labels as Parquet"]
    assert labels_from_votes(TEXTS, table)[0]["weak_classes"] == CLASSES
    turned = labels_from_votes(TEXTS, table, classes=CLASSES[::-1])
    assert turned[1]["weak_probs"] == [[0, 1, 0]] and turned[0]["weak_probs"][0][2] == pytest.approx(1.6 / 3)


@pytest.mark.parametrize("given", ["dataset", "parquet"])
def test_gold_names_of_the_examples_set_the_order(given, tmp_path):
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    examples = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=kinds)
    if given == "parquet":
        examples.to_parquet(tmp_path / "examples.parquet")
        examples = tmp_path / "examples.parquet"
    made = labels_from_votes(examples, [vote(0, "ann", "no"), vote(1, "ann", "yes")])
    assert made["example_id"][:] == ["0", "1"] and made[0]["weak_classes"] == ["yes", "no"]
    assert made.features["label"].names == ["yes", "no"] and made["label"][:] == [0, 1]
    assert probs(made).tolist() == [[0, 1], [1, 0]]


def test_several_votes_of_one_person_count_as_one(caplog):
    given = [vote("7", "ann", 0), vote("7", "ann", 0), vote("7", "ann", 1), vote("7", "bob", 1)]
    given += [vote("007", "ann", None), vote("007", "bob", None)]  # all abstain: no row
    made = labels_from_votes(TEXTS, given, classes=CLASSES)
    assert made["example_id"][:] == ["7"]
    assert made[0]["vote_probs"] == [[pytest.approx(2 / 3), pytest.approx(1 / 3), 0], [0, 1, 0]]
    assert made[0]["weak_probs"][0] == pytest.approx([1 / 3, 2 / 3, 0])
    assert "1 times a supervisor voted for several classes" in caplog.text
    assert "1 of 2 examples have no vote" in caplog.text


@pytest.mark.parametrize("aggregator", EVERY)
def test_nothing_depends_on_any_order(aggregator):
    rng = random.Random(0)
    examples = [{"example_id": str(i), "text": f"t{i}"} for i in range(30)]
    given = [
        vote(str(i), f"v{j}", rng.choice(CLASSES), rng.uniform(0.4, 0.9))
        for i in range(30)
        for j in range(4)
        if j == 0 or rng.random() < 0.7
    ]
    one = labels_from_votes(examples, given, aggregator).to_list()
    for _ in range(2):
        rng.shuffle(given)
        rng.shuffle(examples)
        again = labels_from_votes(examples, given, aggregator).to_list()
        assert sorted(again, key=lambda r: int(r["example_id"])) == one


@pytest.mark.parametrize("aggregator", EVERY[:-1])
def test_equal_voters_and_one_voter_give_their_votes(aggregator):
    rng = random.Random(1)
    given = [vote(example, "ann", rng.randrange(3), 0.8) for example in ("7", "007")]
    alone = probs(labels_from_votes(TEXTS, given, aggregator, CLASSES))
    wanted = np.where(np.eye(3)[[given[1]["label"], given[0]["label"]]] > 0, 0.8, 0.1)
    wanted = np.eye(3)[wanted.argmax(1)] if aggregator == "majority" else wanted
    assert alone == pytest.approx(wanted)
    equal = [row | {"supervisor": name} for row in given for name in ("ann", "bob", "eve")]
    assert probs(labels_from_votes(TEXTS, equal, aggregator, CLASSES)) == pytest.approx(wanted)


@pytest.mark.parametrize("count, voters", [(2, 4), (5, 8)])
def test_planted_confusion_matrices(count, voters):
    """Dawid-Skene against planted voters with a third of the votes missing: nearer to the truth than the mean."""
    rng = np.random.default_rng(count)
    truth = rng.integers(count, size=1500)
    good = np.array([0.9, 0.85] + [1 / count + 0.15] * (voters - 2))
    confusion = [g * np.eye(count) + (1 - g) / (count - 1) * (1 - np.eye(count)) for g in good]
    confusion[-1] = np.roll(np.eye(count), 1, axis=1) * 0.7 + 0.3 / count  # mostly wrong, always in one way
    examples = [{"example_id": str(i), "text": "t"} for i in range(len(truth))]
    given = [
        vote(str(i), f"v{j}", int(rng.choice(count, p=confusion[j][y])))
        for i, y in enumerate(truth)
        for j in range(voters)
        if j == 0 or rng.random() < 0.7
    ]
    names = [f"c{k}" for k in range(count)]
    means = [probs(labels_from_votes(examples, given, a, names)) for a in ("mean", "majority")]
    right = [(mean.argmax(1) == truth).mean() for mean in means]
    fitted = probs(labels_from_votes(examples, given, "dawid_skene", names))
    known = np.log(1 / count) * np.ones((len(truth), count))  # the best that can be done: with the planted matrices
    for row in given:
        known[int(row["example_id"])] += np.log(confusion[int(row["supervisor"][1:])])[:, row["label"]]
    best, found = (known.argmax(1) == truth).mean(), (fitted.argmax(1) == truth).mean()
    assert found > max(right) + 0.02 and found > best - 0.02


def test_the_report_and_triage_read_votes_with_gaps():
    examples = [{"example_id": str(i), "text": f"t{i}"} for i in range(4)]
    given = [vote(str(i), "ann", i % 2) for i in range(4)] + [vote("0", "bob", 1), vote("1", "bob", 1)]
    for aggregator in (None, "mean", "dawid_skene"):
        labels = labels_from_votes(examples, given, aggregator, ["no", "yes"])
        rows = supervisor_report(labels, {str(i): ["no", "yes"][i % 2] for i in range(4)}).supervisors
        assert [row["supervisor"] for row in rows] == ["ann", "bob"]
        assert [(row["labelled"], row["abstained"], row["accuracy"]) for row in rows] == [(4, 0, 1.0), (2, 2, 0.5)]
    assert supervisor_report(labels, {0: "no", 3: "yes"}).supervisors[0]["accuracy"] == 1  # ids as numbers
    with pytest.raises(ValueError, match="gold has the id '0' as text and as a number"):
        supervisor_report(labels, {0: "no", "0": "yes"})
    for aggregator in (None, "mean"):
        found = triage(labels_from_votes(examples, given, aggregator, ["no", "yes"]), {"3": "yes"}, risk=0.5)
        assert found.dataset["triage_label"][1:] == ["yes", "no", "yes"]
        assert found.dataset["triage_confidence"][:] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_confidences_are_calibrated_against_gold_for_each_supervisor(method):
    """One voter states 0.99 and is right 3 of 4 times, one states nothing and is right half of the time."""
    examples = [{"example_id": str(i), "text": f"t{i}"} for i in range(401)]
    given = [vote(str(i), "llm", int(i % 4 == 0), 0.99) for i in range(401)]
    given += [vote(str(i), "ann", i % 2) for i in range(401)]
    given += [vote("0", "late", 2)]
    gold = {str(i): CLASSES[0] for i in range(400)}
    made = labels_from_votes(examples, given, None, CLASSES, gold=gold, calibration=method)
    shuffled = random.Random(3).sample(given, len(given))
    again = labels_from_votes(examples, shuffled, None, CLASSES, gold=gold, calibration=method)
    assert again.to_list() == made.to_list()
    row = made[400]  # without gold: what was learned is used
    stated, unstated = (row["weak_probs"][row["weak_supervisors"].index(name)] for name in ("llm", "ann"))
    assert stated == pytest.approx([0.125, 0.75, 0.125], abs=1e-4) and unstated == pytest.approx([0.5, 0.25, 0.25])
    late = made[0]["weak_probs"][made[0]["weak_supervisors"].index("late")]
    assert late == pytest.approx([1 / 3] * 3)  # one wrong of one: 1 / (n + 2), never 0
    plain = labels_from_votes(examples, given, None, CLASSES)[400]
    assert plain["weak_probs"][plain["weak_supervisors"].index("ann")] == [1, 0, 0]


def test_what_people_filled_in_comes_back(tmp_path):
    examples = [{"example_id": f"0{i}", "text": f"t{i}"} for i in range(4)]
    labels = labels_from_votes(examples, [vote(f"0{i}", "llm", i % 2, 0.6) for i in range(4)], classes=["no", "yes"])
    triage(labels, {"00": "yes"}).to_csv(tmp_path / "queue.csv")
    queue = pandas.read_csv(tmp_path / "queue.csv", dtype=str).assign(label="yes")
    queue.to_csv(tmp_path / "queue.csv", index=False)
    made = labels_from_votes(examples, tmp_path / "queue.csv", classes=["no", "yes"])
    assert len(made) == len(queue) and {row["vote_supervisors"][0] for row in made} == {"person"}
    assert made[0]["example_id"].startswith("0") and probs(made)[0].tolist() == [0, 1]


@pytest.mark.parametrize("aggregator", ["dawid_skene", None])
def test_a_student_trains_and_carries_the_names(tmp_path, aggregator):
    from trl_weaks import WeakClassificationTrainer

    labels = labels_from_votes(TEXTS, VOTES, aggregator, CLASSES)
    trainer = WeakClassificationTrainer(
        classifier(num_labels=3), settings(tmp_path, max_steps=2), labels, processing_class=tokenizer()
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.model.config.id2label == dict(enumerate(CLASSES))
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


def test_a_loss_of_all_votes_refuses_one_label(tmp_path):
    from trl_weaks import WeakClassificationTrainer

    def train(labels):
        args = settings(tmp_path, max_steps=1, weak_loss="dirichlet_votes", gamma_max=0.0)
        return WeakClassificationTrainer(classifier(num_labels=3), args, labels, processing_class=tokenizer()).train()

    with pytest.raises(ValueError, match="its votes were aggregated into one label.*aggregator=None"):
        train(labels_from_votes(TEXTS, VOTES, classes=CLASSES))
    labels = labels_from_votes(TEXTS, VOTES, None, CLASSES)
    labels.save_to_disk(tmp_path / "labels" / "dataset")
    assert train(labels).training_loss == train(str(tmp_path / "labels")).training_loss


BAD = {
    "no rows": (TEXTS, [], {}, "votes: there are no rows"),
    "no supervisor": (TEXTS, [{"example_id": "7", "label": "a"}], {}, "votes, row 0: there is no column 'supervisor'"),
    "no label": (TEXTS, [{"example_id": "7", "supervisor": "a"}], {}, "votes, row 0: there is no column 'label'"),
    "unknown id": (TEXTS, [vote("8", "ann", "a")], {}, "row 0 .example_id '8'.: no example has this id. Add"),
    "id that is none": (TEXTS, [vote(1.5, "ann", "a")], {}, "row 0: column 'example_id' holds 1.5"),
    "nobody's vote": (TEXTS, [vote("7", "", "a")], {}, "row 0: column 'supervisor' holds ''"),
    "unknown class": (TEXTS, [vote("7", "a", "alarm"), vote("7", "b", "traffic")], {"classes": CLASSES},
                      "row 1 .example_id '7'.: column 'label' holds 'traffic', which is none of the classes"),
    "place out of range": (TEXTS, [vote("7", "a", 3)], {"classes": CLASSES}, "row 0 .*holds 3.*from 0 to 2"),
    "place below 0": (TEXTS, [vote("7", "a", -1), vote("7", "b", 0)], {}, "row 0 .*holds -1. Leave it empty"),
    "place below 0 as text": (TEXTS, [vote("7", "a", "0.0"), vote("7", "b", "-1.0")], {},
                              "row 1 .*holds '-1.0'. Leave it empty"),
    "place below 0 beside parts": (TEXTS, [vote("7", "a", "0.5"), vote("7", "b", "-1.0")], {},
                                   "row 1 .*holds '-1.0'. Leave it empty"),
    "two ways to write 3": (TEXTS, [vote("7", "a", "4"), vote("007", "a", "3"), vote("7", "b", "3.0")], {},
                            r"row 2 .example_id '7'.: column 'label' holds '3.0', beside '4' in votes, row 0 .*; it "
                            "may be the number 3 or a name. Write 3 for the number; where '3.0' is the name of"),
    "a place or a name": (TEXTS, [vote("7", "a", "x"), vote("7", "b", "y"), vote("7", "c", "1.0")], {},
                          "row 2 .*holds '1.0', beside 'x' in votes, row 0"),
    "place where names have points": (TEXTS, [vote("7", "a", 1)], {"classes": ["1.0", "2.0"]},
                                      r"row 0 .*'label' holds 1, which is none of the classes .*'2.0'.\. Correct"),
    "gold place where names have points": (TEXTS, [vote("7", "a", "1.5"), vote("7", "b", "2.5")], {"gold": {"7": 1}},
                                           "gold label 1 of '7' is not a class"),
    "half a place": (TEXTS, [vote("7", "a", 0.5)], {"classes": CLASSES}, "row 0 .*'label' holds 0.5"),
    "truth value": (TEXTS, [vote("7", "a", True)], {"classes": CLASSES}, "row 0 .*'label' holds True"),
    "place where names are numbers": (TEXTS, [vote("7", "a", 0), vote("7", "b", 5)], {"classes": [1, 2, 3, 4, 5]},
                                      r"row 0 .*'label' holds 0, which is none of the classes .*'5'.\. Correct"),
    "gold place where names are numbers": (TEXTS, [vote("7", "a", 1), vote("7", "b", 2)], {"gold": {"7": 0}},
                                           "gold label 0 of '7' is not a class"),
    "all abstain, no classes": (TEXTS, [vote("7", "a", None)], {}, "every vote is an abstention"),
    "list": (TEXTS, [vote("7", "a", ["alarm"])], {"classes": CLASSES}, "row 0 .*'label' holds .'alarm'."),
    "confidence 0": (TEXTS, [vote("7", "a", "x", 0)], {}, "row 0 .example_id '7'.: column 'confidence' holds 0"),
    "confidence 1.2": (TEXTS, [vote("7", "a", "x", 1.2)], {}, "row 0 .*: column 'confidence' holds 1.2"),
    "confidence in words": (TEXTS, [vote("7", "a", "x", "high")], {}, "row 0 .*: column 'confidence' holds 'high'"),
    "one class": (TEXTS, [vote("7", "a", "x")], {}, r"for the classes \['x'\]; two or more"),
    "class twice": (TEXTS, VOTES, {"classes": ["a", "A "]}, "classes: 'a' is empty or there twice"),
    "empty class": (TEXTS, VOTES, {"classes": ["a", ""]}, "classes: '' is empty or there twice"),
    "classes as text": (TEXTS, VOTES, {"classes": "alarm"}, "give a list of names"),
    "all abstain": (TEXTS, [vote("7", "a", None)], {"classes": CLASSES}, "every vote is an abstention"),
    "unknown aggregator": (TEXTS, VOTES, {"aggregator": "median"}, "'median'.*dawid_skene"),
    "no text": ([{"example_id": "7"}], VOTES, {}, "examples, row 0: there is no column 'text'; it needs text or"),
    "empty text": ([{"example_id": "7", "text": ""}], VOTES, {}, "examples, row 0 .*column 'text' is empty"),
    "id twice": (TEXTS[:1] * 2, VOTES, {}, "'007' is there twice"),
    "id missing once": ([TEXTS[0], {"text": "t"}], VOTES, {}, "examples, row 1: there is no column 'example_id'"),
    "taken column": ([TEXTS[0] | {"weak_probs": 1}], VOTES, {}, "a column 'weak_probs', which labels write"),
    "gold of nobody": (TEXTS, [vote("7", "a", 0), vote("007", "b", 1, 0.5)], {"classes": CLASSES, "gold": {"7": 0}},
                       "gold has no example that supervisor 'b' voted on with a stated confidence"),
    "gold of another id": (TEXTS, VOTES, {"classes": CLASSES, "gold": {"8": "music"}}, "gold has the id '8'"),
    "gold class": (TEXTS, VOTES, {"classes": CLASSES, "gold": {"7": "traffic"}}, "gold label 'traffic' of '7'"),
    "unknown calibration": (TEXTS, VOTES, {"calibration": "platt"}, "calibration='platt' is not one of"),
    "ruled out": (TEXTS, [vote("7", "a", "x"), vote("7", "b", "y")], {"aggregator": "log_linear"},
                  "votes, example '7': every class is ruled out"),
    "names alike": (TEXTS, [vote("7", "ann", 0), vote("7", "ann ", 1)],
                    {"classes": CLASSES}, "'ann' and 'ann ', which"),
    "text that is a number": ([{"example_id": "7", "text": 5}], VOTES, {},
                              "row 0 .example_id '7'.: column 'text' holds 5"),
    "mixed column": ([TEXTS[0] | {"m": 1}, TEXTS[1] | {"m": "x"}], VOTES, {},
                     "column 'm' holds text in some rows and"),
    "column twice": (TEXTS,
                     pandas.DataFrame([["7", "a", "x", "y"]], columns=["example_id", "supervisor", "label", "label"]),
                     {}, "votes: there are two columns 'label'"),
    "no table": (TEXTS, 5, {}, "votes is a int; give a Dataset"),
}  # fmt: skip


@pytest.mark.parametrize("number", [int, str, float, np.int64])
def test_numbers_are_names_where_classes_are_numbers_among_votes_and_gold(number):
    """Stars 1, 2, 3: a gold 1 is the class "1", whose place is 0, as a vote of 1 is."""
    votes = [vote("007", "ann", number(1)), vote("7", "ann", number(2)), vote("7", "bob", number(3))]
    truth = {"007": number(1), "7": number(2)}
    if number is str:
        assert labels_from_votes(TEXTS, votes)[0]["weak_classes"] == ["1", "2", "3"]
    labels = labels_from_votes(TEXTS, votes, classes=[1, 2, 3])
    rows = {row["supervisor"]: row["accuracy"] for row in supervisor_report(labels, truth).supervisors}
    assert rows == {"ann": 1.0, "bob": 0.0}
    found = labels_from_votes(TEXTS, votes, None, gold=truth, calibration="isotonic")
    assert [np.argmax(row["weak_probs"][0]) for row in found] == [0, 1]  # Ann is always right, and stays on top


def test_whole_numbers_with_gaps_are_ids_as_pandas_reads_them():
    votes = pandas.DataFrame({"example_id": [7.0, 7.0], "supervisor": ["a", "b"], "label": ["x", "y"]})
    assert labels_from_votes(TEXTS, votes)["example_id"][:] == ["7"]


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_by_name(name):
    examples, given, more, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        labels_from_votes(examples, given, **more)


HALF = "smile \ud83d"
BROKEN = {
    "a text": ([{"example_id": "7", "text": HALF}], [vote("7", "a", "x")], {},
               r"examples, row 0 .example_id '7'.: column 'text' holds '.ud83d' at character 6, half of a character"),
    "a carried message": ([{"example_id": "7", "text": "t", "m": [{"role": "user", "content": HALF}]}],
                          [vote("7", "a", "x")], {}, "examples, row 0 .example_id '7'.: column 'm' holds"),
    "an id": (TEXTS, [vote(HALF, "a", "x")], {}, "votes, row 0 .*column 'example_id' holds"),
    "a voter": (TEXTS, [vote("7", "a", "x"), vote("7", HALF, "x")], {},
                "votes, row 1 .example_id '7'.: column 'supervisor' holds"),
    "a label": (TEXTS, [vote("7", "a", HALF)], {}, "votes, row 0 .example_id '7'.: column 'label' holds"),
    "a class": (TEXTS, [vote("7", "a", "x")], {"classes": ["x", HALF]}, "classes: a name holds"),
    "a gold label": (TEXTS, [vote("7", "a", "x"), vote("7", "b", "y")], {"gold": {"7": HALF}},
                     "gold: the label of '7' holds"),
    "a gold id": (TEXTS, [vote("7", "a", "x"), vote("7", "b", "y")], {"gold": {HALF: "x"}}, "gold: an id holds"),
    "a gold row": (TEXTS, [vote("7", "a", "x"), vote("7", "b", "y")],
                   {"gold": [{"example_id": "7", "label": HALF}]}, "gold, row 0 .*column 'label' holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_half_a_character_is_refused_at_the_door(name):
    """Without, it ends in pyarrow's UnicodeEncodeError of no row."""
    examples, given, more, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as refused:
        labels_from_votes(examples, given, **more)
    assert not isinstance(refused.value, UnicodeEncodeError)


FILES = {
    "half a JSON": ("v.jsonl", b'{"example_id": "7"}\n{"example_id":', "votes: line 2 of .*v.jsonl is not JSON"),
    "no object": ("v.jsonl", b"5\n", "votes, row 0: 5 is no object"),
    "Latin-1": ("v.csv", "example_id,supervisor,label\n7,é,x\n".encode("latin-1"), "v.csv is not UTF-8"),
    "column twice": ("v.csv", b"example_id,supervisor,label,label\n7,a,x,y\n", "votes: there are two columns 'label'"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_by_name(name, tmp_path):
    file, written, message = FILES[name]
    (tmp_path / file).write_bytes(written)
    with pytest.raises(ValueError, match=message):
        labels_from_votes(TEXTS, tmp_path / file)


def test_class_names_that_differ_in_the_encoding_of_accents_are_one():
    votes = [
        vote("7", "a", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        vote("7", "b", "cafe\N{COMBINING ACUTE ACCENT}"),
    ]
    assert len(labels_from_votes(TEXTS, [*votes, vote("007", "b", "tea")])[0]["weak_classes"]) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"votes: no such file: .*nowhere\.csv"):
        labels_from_votes(TEXTS, tmp_path / "nowhere.csv")
