"""Numbers of the report card against plain counting; what it warns of; bad input."""

import math

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from trl_weaks import labels_from_completions, labels_from_votes, triage
from trl_weaks.labelling.reliability.report_card import supervisor_report
from trl_weaks.viewer.from_labels import page_of_labels

NAN = float("nan")


def classes(probs, ids=None, names=("ann", "bob", "eve")) -> Dataset:
    rows = len(probs)
    return Dataset.from_dict(
        {
            "example_id": ids or [str(i) for i in range(rows)],
            "weak_supervisors": [list(names)] * rows,
            "weak_probs": probs,
        }
    )


VOTES = [
    [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]],
    [[0.2, 0.8], [0.6, 0.4], [0.4, 0.6]],
    [[0.7, 0.3], [NAN, NAN], [0.1, 0.9]],
]


def test_classes_by_plain_counting():
    report = supervisor_report(classes(VOTES), {"0": 0, "1": 1, "2": 1})
    ann, bob, eve = report.supervisors
    assert (ann["labelled"], bob["labelled"], bob["abstained"]) == (3, 2, 1)
    assert (ann["accuracy"], bob["accuracy"], eve["accuracy"]) == (
        pytest.approx(2 / 3),
        0.5,
        pytest.approx(2 / 3),
    )
    assert ann["confidence"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert ann["brier"] == pytest.approx((2 * 0.01 + 2 * 0.04 + 2 * 0.49) / 3)
    assert bob["calibration_error"] == pytest.approx((abs(1 - 0.8) + abs(0 - 0.6)) / 2)
    first = report.pairs[0]
    assert (first["first"], first["second"], first["shared"], first["agreement"]) == ("ann", "bob", 2, 0.5)


def test_gold_is_joined_on_ids_and_may_cover_a_part():
    order = [2, 0, 1]
    shuffled = classes([VOTES[i] for i in order], [str(i) for i in order])
    gold = Dataset.from_dict({"example_id": ["1", "0"], "label": [1, 0]})
    one, other = supervisor_report(classes(VOTES), gold), supervisor_report(shuffled, gold)
    for row, again in zip(one.supervisors, other.supervisors, strict=True):
        assert row == {name: pytest.approx(v) if isinstance(v, float) else v for name, v in again.items()}
    assert one.supervisors[0]["accuracy"] == 1.0


def test_without_gold_only_agreement_is_told():
    report = supervisor_report(classes(VOTES))
    assert "accuracy" not in report.supervisors[0] and "capa" not in report.pairs[0]
    assert set(report.committee) == {"fleiss_kappa", "krippendorff_alpha"}


def completions() -> Dataset:
    rows = [
        ("0", "play jazz", ["ann", "bob"], [[-0.1, -0.3], [-0.2]]),
        ("0", "play rock music", ["eve"], [[-1.0]]),
        ("1", "stop", ["ann"], [[-0.5]]),
        ("1", "stop it", ["eve"], [[-0.5]]),
    ]
    keys = ("example_id", "completion", "weak_supervisors", "weak_logps")
    return Dataset.from_list([dict(zip(keys, row, strict=True)) for row in rows])


def test_completions_by_plain_counting():
    report = supervisor_report(completions(), {"0": "play jazz", "1": "stop it"}, cost={"ann": 1, "bob": 2, "eve": 0})
    by_name = {row["supervisor"]: row for row in report.supervisors}
    assert [by_name[n]["accuracy"] for n in ("ann", "bob", "eve")] == [0.5, 1.0, 0.5]
    assert (by_name["bob"]["labelled"], by_name["bob"]["abstained"], by_name["bob"]["cost"]) == (1, 1, 2)
    assert by_name["ann"]["confidence"] == pytest.approx((math.exp(-0.1 - 0.3) + math.exp(-0.5)) / 2)
    pair = next(p for p in report.pairs if (p["first"], p["second"]) == ("ann", "eve"))
    assert pair["word_distance"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


def test_a_text_is_the_same_however_its_accents_are_encoded():
    """For the report card, triage, the viewer and calibration, as for the warning of answers that look alike."""
    texts = {"ann": "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "bob": " cafe\N{COMBINING ACUTE ACCENT}", "eve": "tea"}
    answers = [{"example_id": "1", "supervisor": n, "completion": t, "confidence": 0.6} for n, t in texts.items()]
    gold = {"1": texts["bob"].strip()}
    labels = labels_from_completions([{"example_id": "1", "prompt": "p"}], answers)
    report = supervisor_report(labels, gold)
    assert [row["accuracy"] for row in report.supervisors] == [1.0, 1.0, 0.0]
    assert [(p["agreement"], p["word_distance"]) for p in report.pairs] == [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    (shown,) = page_of_labels(labels, gold).examples
    assert {answer.by: answer.score for answer in shown.answers} == {"ann": 1.0, "bob": 1.0, "eve": 0.0}
    alone = labels_from_completions([{"example_id": "1", "prompt": "p"}], answers[:1])
    assert triage(alone, gold).threshold.errors == 0
    surer = labels_from_completions([{"example_id": "1", "prompt": "p"}], answers[:1], gold=gold)
    assert sum(surer[0]["weak_logps"][0]) > math.log(0.6), "it is right, so its confidence rises"


@pytest.mark.parametrize("written, warned", [(["7.0", "10.0"], True), (["7", "10.0"], False), ([7, 10], False)])
def test_gold_answers_that_a_table_with_gaps_wrote_are_warned_of(written, warned, caplog):
    examples, ids = [{"example_id": "a", "prompt": "3+4"}, {"example_id": "b", "prompt": "5+5"}], "ab"
    answers = [{"example_id": e, "supervisor": "ann", "completion": c} for e, c in zip(ids, ("7", "10"), strict=True)]
    labels = labels_from_completions(examples, answers)
    right = [str(given) in ("7", "10") for given in written]
    (row,) = supervisor_report(labels, dict(zip(ids, written, strict=True))).supervisors
    assert row["accuracy"] == sum(right) / 2
    assert ("'7.0' of 'a' is not 7. Where whole numbers are meant" in caplog.text) == warned


def test_a_metric_of_ones_own():
    report = supervisor_report(completions(), {"0": "play"}, correct=lambda answer, gold: float(gold in answer))
    assert [row["accuracy"] for row in report.supervisors] == [1.0, 1.0, 1.0]


def test_copies_are_warned_of_and_independent_supervisors_are_not():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    gold = {str(i): int(t) for i, t in enumerate(truth)}

    def votes(flips):
        return [[[1.0 - v, float(v)] for v in np.where(f, 1 - t, t)] for t, f in zip(truth, flips, strict=True)]

    alike = np.repeat(rng.random((400, 1)) < 0.3, 3, axis=1)
    apart = rng.random((400, 3)) < 0.3
    report = supervisor_report(classes(votes(alike)), gold)
    assert report.committee["effective_supervisors"] == pytest.approx(1)
    assert "3 of them are worth 1.0 independent ones" in report.warnings[0]
    assert supervisor_report(classes(votes(apart)), gold).warnings == []


def test_what_is_not_defined_is_a_dash_and_never_nan():
    one = supervisor_report(classes([[[0.9, 0.1]]] * 2, names=("ann",)), {"0": 0})
    same = supervisor_report(classes([[[0.9, 0.1], [0.9, 0.1], [NAN, NAN]]] * 2), {"0": 0})
    for report in (one, same):
        assert "nan" not in report.markdown()
    assert "–" in same.markdown()
    assert "gave no label for 100%" in same.markdown()


def test_the_figure_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    supervisor_report(classes(VOTES), {"0": 0}).figure(tmp_path / "card.png")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "labels, gold, options, message",
    [
        (Dataset.from_dict({"text": ["a"]}), None, {}, "a report needs 'weak_probs'"),
        (classes(VOTES), {"9": 0}, {}, "gold has the id '9'"),
        (classes(VOTES), {"0": 5}, {}, "gold label 5 of '0' is not a class"),
        (classes(VOTES), {"0": True}, {}, "gold label True of '0' is not a class"),
        (classes(VOTES), {}, {}, "gold is empty"),
        (classes(VOTES), None, {"cost": {"ann": 1}}, "no entry for the supervisor 'bob'"),
    ],
)
def test_bad_input(labels, gold, options, message):
    with pytest.raises(ValueError, match=message):
        supervisor_report(labels, gold, **options)


def test_supervisors_are_joined_by_name_in_whatever_order_a_row_lists_them():
    rows = classes(VOTES).to_list()
    one = sorted(supervisor_report(Dataset.from_list(rows)).supervisors, key=lambda row: row["supervisor"])
    rows[1]["weak_supervisors"].reverse()
    rows[1]["weak_probs"].reverse()
    assert supervisor_report(Dataset.from_list(rows)).supervisors == one
    rows[1]["weak_supervisors"] = ["bob", "ann"]
    with pytest.raises(ValueError, match=r"row 1: 3 votes in column 'weak_probs' by the supervisors \['bob', 'ann'\]"):
        supervisor_report(Dataset.from_list(rows))


@pytest.mark.parametrize(
    "gold",
    [{"a": "yes", "b": "No "}, {"a": 0, "b": 1}, {"a": "0", "b": "1"}]
    + ["ClassLabel", "ClassLabel in a file", "ClassLabel without names"],
)
def test_gold_follows_the_names_of_the_votes(gold, tmp_path):
    """Votes list (yes, no); gold by name, by their ids (as text too), or by names in another order, says the same."""
    labels = Dataset.from_dict(
        {"example_id": ["a", "b"], "weak_supervisors": [["ann"], ["ann"]], "weak_classes": [["yes", "no"]] * 2}
        | {"weak_probs": [[[0.9, 0.1]], [[0.2, 0.8]]]}
    )
    kind = gold
    if gold in ("ClassLabel", "ClassLabel in a file"):
        feature, ids = ClassLabel(names=["no", "yes"]), [1, 0]
    elif gold == "ClassLabel without names":
        feature, ids = ClassLabel(num_classes=2), [0, 1]
    if isinstance(gold, str):
        features = Features({"example_id": Value("string"), "label": feature})
        gold = Dataset.from_dict({"example_id": ["a", "b"], "label": ids}, features=features)
    if kind == "ClassLabel in a file":
        gold.to_parquet(tmp_path / "gold.parquet")
        gold = str(tmp_path / "gold.parquet")
    if isinstance(gold, dict) and gold["a"] == "0":  # text stands for an id only where the classes have no names
        with pytest.raises(ValueError, match="'0' of 'a' is not a class"):
            supervisor_report(labels, gold)
        labels = labels.remove_columns("weak_classes")
    assert supervisor_report(labels, gold).supervisors[0]["accuracy"] == 1.0


def cast(confidence, order):
    """ann always votes yes, bob always no, on 10 texts."""
    examples = [{"example_id": str(i), "text": f"t{i}"} for i in range(10)]
    votes = [
        {"example_id": str(i), "supervisor": who, "label": label, "confidence": confidence}
        for i in range(10)
        for who, label in (("ann", "yes"), ("bob", "no"))
    ]
    return labels_from_votes(examples, votes, classes=order)


@pytest.mark.parametrize("confidence, accuracies, agreement", [(0.51, [1, 0], 0), (0.5, [0.5, 0.5], 0.5)])
def test_a_vote_that_ties_is_for_no_class_more_than_for_another(confidence, accuracies, agreement):
    truths = {str(i): "yes" if i < 7 else "no" for i in range(10)}
    for gold, right in ((dict.fromkeys(truths, "yes"), accuracies), (truths, [0.4 * a + 0.3 for a in accuracies])):
        for order in (["no", "yes"], ["yes", "no"]):
            report = supervisor_report(cast(confidence, order), gold)
            assert [row["accuracy"] for row in report.supervisors] == pytest.approx(right)
            gap = abs(0.5 - right[0]) if confidence == 0.5 else abs(0.51 - right[0])
            assert report.supervisors[0]["calibration_error"] == pytest.approx(gap)
            assert report.pairs[0]["agreement"] == agreement
            page = page_of_labels(cast(confidence, order), gold)
            scores = [[answer.score for answer in shown.answers] for shown in page.examples]
            assert np.mean(scores, 0) == pytest.approx(right)


def test_no_number_depends_on_the_order_of_the_classes():
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 3, (40, 3, 3)) + 0.0
    votes[votes.sum(-1) == 0] = 1
    votes /= votes.sum(-1, keepdims=True)
    votes[rng.random((40, 3)) < 0.1] = NAN
    truth = rng.integers(0, 3, 40)
    one = supervisor_report(classes(votes.tolist()), dict(zip(map(str, range(40)), truth.tolist(), strict=True)))
    order = np.array([2, 0, 1])
    moved = {str(i): int(np.flatnonzero(order == k)[0]) for i, k in enumerate(truth)}
    other = supervisor_report(classes(votes[..., order].tolist()), moved)
    told = [[*report.supervisors, *report.pairs, report.committee] for report in (one, other)]
    for row, again in zip(*told, strict=True):
        assert row == {name: pytest.approx(v) if isinstance(v, float) else v for name, v in again.items()}


def test_the_confidence_of_an_answer_is_as_it_was_stated_whether_it_ended_or_was_cut():
    examples = [{"example_id": str(i), "prompt": f"q{i}"} for i in range(3)]
    stated = {"ended": [0.49, 0.6, 0.2], "cut": [0.49, 0.6, 0.2]}
    answers = [
        {"example_id": str(i), "supervisor": who, "completion": f" it is {who}", "confidence": c}
        | {"finish_reason": "length" if who == "cut" else "stop"}
        for who, said in stated.items()
        for i, c in enumerate(said)
    ]
    answers += [{"example_id": "0", "supervisor": "tokens", "completion": "play on", "logprobs": None}]
    answers[-1]["logprobs"] = [{"token": "play", "logprob": -0.1}, {"token": " on", "logprob": -0.4}]
    labels = labels_from_completions(examples, answers)
    told = {row["supervisor"]: row["confidence"] for row in supervisor_report(labels).supervisors}
    assert told == pytest.approx({"ended": 0.43, "cut": 0.43, "tokens": math.exp(-0.1 - 0.4)})
    shown = [answer for one in page_of_labels(labels).examples for answer in one.answers]
    for name, mean in told.items():
        assert np.mean([answer.confidence for answer in shown if answer.by == name]) == pytest.approx(mean)
