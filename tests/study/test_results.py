"""The numbers of a study against the metrics called one by one."""

import random

import numpy as np
import pytest

from trl_weaks.metrics.calibration import expected_calibration_error
from trl_weaks.metrics.pgr import performance_gap_recovered, pgr_interval
from trl_weaks.metrics.slu_f1 import slu_f1, slu_f1_counts, slu_f1_from_counts
from trl_weaks.study.report.results import ACCURACY, calibrate, score_systems

GOLD = [[("date", "next friday")], [("time", "five pm"), ("date", "today")], [], [("person", "ann")]] * 15


def predictions(keep, name, seed):
    rng = random.Random(f"{name} {seed}")
    return [[slot if rng.random() < keep else (slot[0], "x") for slot in slots] for slots in GOLD]


def system(name, role, keep, runs=3, **more):
    samples = [slu_f1_counts(predictions(keep, name, seed), GOLD) for seed in range(runs)]
    return {"name": name, "label": f"the {name}", "role": role, "samples": samples, **more}


def systems():
    return [
        system("a", "weak", 0.3, unparsable=[[i < 6 for i in range(60)]] * 3),
        system("b", "weak", 0.4),
        system("both", "method", 0.6),
        system("only_a", "method", 0.5, supervisors=["a"]),
        system("untrained", "baseline", 0.0, runs=1, extra={"auroc": 0.5}),
        system("ceiling", "ceiling", 0.95),
    ]


def samples(name):
    return next(np.array(s["samples"]) for s in systems() if s["name"] == name)


def test_scores_are_means_over_seeds():
    row = score_systems(systems())["methods"]["both"]
    each = [slu_f1(predictions(0.6, "both", seed), GOLD) for seed in range(3)]
    for key in ("slu_f1", "word_f1", "char_f1", "span_f1"):
        assert row[key] == pytest.approx(np.mean([scores[key] for scores in each]), abs=1e-12)
    assert row["slu_f1_per_seed"] == pytest.approx([scores["slu_f1"] for scores in each], abs=1e-12)
    low, high = row["slu_f1_interval"]
    assert low < row["slu_f1"] < high
    assert row["label"] == "the both"


def test_pgr_is_that_of_the_metric():
    results = score_systems(systems(), confidence=0.9, resamples=500, seed=3)
    weak = {name: results["weak"][name]["slu_f1"] for name in "ab"}
    options = {"score": slu_f1_from_counts, "confidence": 0.9, "resamples": 500, "seed": 3}
    for name, own in (("both", ["a", "b"]), ("only_a", ["a"]), ("untrained", ["a", "b"])):
        row = results["methods"][name]
        expected = performance_gap_recovered({n: weak[n] for n in own}, row["slu_f1"], results["ceiling"])
        assert row["pgr"] == pytest.approx(expected, abs=1e-12)
        tables = {n: samples(n) for n in own}
        assert row["pgr_interval"] == pytest.approx(pgr_interval(tables, samples(name), samples("ceiling"), **options))
        assert row["weak"] == pytest.approx(np.mean([weak[n] for n in own])) and row["supervisors"] == own
        each = row["pgr_per_weak"]["b"], row["pgr_interval_per_weak"]["b"]
        assert each[0] == pytest.approx(performance_gap_recovered(weak["b"], row["slu_f1"], results["ceiling"]))
        alone = pgr_interval(samples("b"), samples(name), samples("ceiling"), **options)
        assert each[1] == pytest.approx(alone)


def test_the_ceiling_is_a_row_and_a_number():
    results = score_systems(systems())
    assert results["ceiling"] == results["methods"]["ceiling"]["slu_f1"]
    assert results["methods"]["ceiling"]["pgr"] == pytest.approx(1) and results["pgr_refused"] is None
    assert list(results["methods"]) == ["both", "only_a", "untrained", "ceiling"]
    assert results["methods"]["untrained"]["extra"] == {"auroc": 0.5}
    assert results["weak"]["a"]["unparsable"] == pytest.approx(0.1) and "unparsable" not in results["weak"]["b"]
    assert results["weak_mean"] == pytest.approx(np.mean([results["weak"][n]["slu_f1"] for n in "ab"]))


def test_refused_only_against_the_supervisors_that_beat_the_ceiling():
    crew = [s for s in systems() if s["name"] not in ("b", "ceiling")]
    crew += [system("b", "weak", 0.9), system("ceiling", "ceiling", 0.7)]
    results = score_systems(crew)
    assert "does not exceed b" in results["pgr_refused"]
    both, only_a = results["methods"]["both"], results["methods"]["only_a"]
    assert both["pgr"] is None and both["pgr_interval"] is None and both["pgr_per_weak"]["b"] is None
    assert both["pgr_per_weak"]["a"] is not None and only_a["pgr"] is not None


def test_accuracy():
    rng = np.random.default_rng(0)
    rates = {"w": ("weak", 0.6), "s": ("method", 0.7), "c": ("ceiling", 0.8)}
    crew = [
        {"name": n, "label": n, "role": role, "samples": rng.uniform(size=(2, 500)) < rate}
        for n, (role, rate) in rates.items()
    ]
    results = score_systems(crew, measure=ACCURACY)
    tables = [s["samples"].astype(float) for s in crew]
    assert results["measure"] == "accuracy"
    assert results["methods"]["s"]["accuracy"] == pytest.approx(tables[1].mean())
    assert results["methods"]["s"]["pgr_interval"] == pytest.approx(pgr_interval(*tables))


def test_calibration_per_supervisor():
    words = {"a": ([0.9, 0.8, 0.3], [True, False, False])}
    found = calibrate(words)["a"]
    assert found["ece"] == expected_calibration_error(*words["a"]) and found["words"] == 3
    assert sum(found["bins"]["count"]) == 3 and found["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda crew: crew[1:] + [crew[1]], "names must differ"),
        (lambda crew: crew[:-1], "one ceiling"),
        (lambda crew: crew[2:3] + crew[4:], "one weak supervisor"),
        (lambda crew: [*crew, {**crew[0], "name": "z", "role": "teacher"}], "role 'teacher'"),
        (lambda crew: [*crew, {**crew[2], "name": "z", "supervisors": ["nobody"]}], "nobody"),
        (lambda crew: [*crew, {**crew[2], "name": "z", "supervisors": []}], "not among"),
        (lambda crew: [*crew, {**crew[2], "name": "z", "unparsable": [[0] * 59] * 3}], "z: unparsable"),
        (lambda crew: [*crew, {**crew[2], "name": "z", "samples": np.zeros((3, 59, 9))}], "cannot be paired"),
    ],
)
def test_bad_systems(change, message):
    with pytest.raises(ValueError, match=message):
        score_systems(change(systems()), resamples=10)
