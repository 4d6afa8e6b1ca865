"""The script that counts what a student corrects and copies, against counting by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from trl_weaks.metrics.selective import area_under_risk
from trl_weaks.study.tasks.base import Example

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
GOLD = ["a", "a", "b", "b", "c", "c"]
CROWD = [["a", "a", "a", "a", "a", "c"], ["a", "b", "b", "b", "a", "c"]]
STUDENT = [["a", "b", "b", "a", "b", "c"], ["b", "b", "b", "b", "c", "a"]]


@pytest.fixture
def run(mistakes):
    tests = [Example(str(i), f"text {i}", gold) for i, gold in enumerate(GOLD)]
    doubts = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    return mistakes.Run(tests, GOLD, {"crowd": CROWD, "student": STUDENT}, {"vacuity": {"student": doubts}})


def test_every_answer_is_of_one_kind(mistakes, run):
    found = mistakes.kinds(run, "student", "crowd")
    assert found.tolist() == [
        ["kept", "lost", "corrected", "copied", "other mistake", "kept"],
        ["lost", "copied", "kept", "kept", "corrected", "lost"],
    ]


def test_shares_are_of_the_wrong_answers_or_of_the_right_ones(mistakes, run):
    found = mistakes.shares(mistakes.kinds(run, "student", "crowd"))
    assert {kind: (one["of"], one["share"]) for kind, one in found.items()} == {
        "corrected": (5, 2 / 5), "copied": (5, 2 / 5), "other mistake": (5, 1 / 5),
        "kept": (7, 4 / 7), "lost": (7, 3 / 7),
    }  # fmt: skip
    assert all(0 <= one["interval"][0] <= one["share"] <= one["interval"][1] <= 1 for one in found.values())


def test_the_interval_is_that_of_a_bootstrap_in_loops(mistakes):
    draw = np.random.default_rng(3)
    found = draw.choice(["corrected", "copied", "kept", "lost"], size=(2, 60), p=[0.3, 0.2, 0.3, 0.2])
    shares = []
    for _ in range(4000):
        picked = found[:, draw.integers(0, 60, 60)]
        shares.append((picked == "corrected").sum() / np.isin(picked, ["corrected", "copied", "other mistake"]).sum())
    expected = np.quantile(shares, [0.025, 0.975])
    np.testing.assert_allclose(mistakes.shares(found)["corrected"]["interval"], expected, atol=0.02)


def test_risk_is_the_mean_of_each_seeds_own_order(mistakes, run):
    run.doubts["1 - confidence"] = {"student": np.array([[0.5] * 6, [0.2] * 6])}
    curves = mistakes.risks(run)
    curve = curves["vacuity, student"]
    half = curve["coverage"].index(0.5)  # three of least vacuity: of the first seed 0, 1, 2, of the second 5, 4, 3
    assert curve["risk"][half] == pytest.approx((1 / 3 + 1 / 3) / 2, abs=1e-4)
    assert curve["risk"][-1] == pytest.approx((3 / 6 + 3 / 6) / 2, abs=1e-4)
    alike = curves["1 - confidence, student"]  # nothing to sort by: all are answered, or none
    assert alike["risk"] == [0.5] * 20 and alike["area"] == 0.5 and "ahead" not in alike
    assert curve["ahead"] == pytest.approx(0.5 - curve["area"])


def test_area_and_its_interval_are_those_of_a_bootstrap_in_loops(mistakes):
    """Doubts with ties; the areas by the package's own, text by text."""
    random = np.random.default_rng(1)
    wrong = random.random((2, 80)) < 0.4
    vacuity = np.round(np.clip(0.3 * wrong + random.random((2, 80)) * 0.7, 0, 1), 1)
    doubts = {"vacuity": {"s": vacuity}, "1 - confidence": {"s": np.round(random.random((2, 80)), 1)}}
    answers = [["b" if one else "a" for one in seed] for seed in wrong]
    found = mistakes.risks(mistakes.Run([], ["a"] * 80, {"s": answers}, doubts))["vacuity, s"]

    def areas(picked):
        made = []
        for tables in doubts.values():
            each = [
                area_under_risk((1 - tables["s"][k][picked]).tolist(), (~wrong[k][picked]).tolist()) for k in (0, 1)
            ]
            made.append(sum(each) / 2)
        return made

    own, other = areas(np.arange(80))
    assert (found["area"], found["ahead"]) == (pytest.approx(own), pytest.approx(other - own))
    drawn = np.array([areas(random.integers(0, 80, 80)) for _ in range(1500)])
    np.testing.assert_allclose(found["area_interval"], np.quantile(drawn[:, 0], [0.025, 0.975]), atol=0.015)
    expected = np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975])
    np.testing.assert_allclose(found["ahead_interval"], expected, atol=0.015)
    low, high = np.array(found["interval"]).T
    assert (low <= found["risk"]).all() and (found["risk"] <= high).all()
    assert found["interval"][-1] == pytest.approx(np.quantile(_error_rates(wrong, random), [0.025, 0.975]), abs=0.02)
    made = {"shares": {"s": mistakes.shares(np.array([["corrected", "kept"]]))}, "crowd": "c", "seeds": [0, 1]}
    text = mistakes.tables(made | {"risk": {"vacuity, s": found}, "examples": [], "columns": []})
    assert f"| vacuity, s | {found['area']:.3f} [" in text and f"| {found['ahead']:+.3f} [" in text


def _error_rates(wrong, random):
    return [wrong[:, random.integers(0, 80, 80)].mean() for _ in range(4000)]


def test_answers_that_are_not_those_of_the_report_are_refused(mistakes):
    results = {"weak": {}, "methods": {"student": {"accuracy_per_seed": [3 / 6, 3 / 6]}}}
    mistakes.check({"student": STUDENT}, GOLD, results)
    results["methods"]["student"]["accuracy_per_seed"][1] = 4 / 6
    with pytest.raises(ValueError, match="student: .* is right"):
        mistakes.check({"student": STUDENT}, GOLD, results)


def test_slots_are_the_same_in_any_order_and_case(mistakes):
    assert mistakes.slots('{"person": " Ann", "date": " today"}') == mistakes.slots(
        '{"date": " today", "person": " ann"}'
    )
    assert mistakes.slots("nothing that can be read") == ()


@pytest.mark.parametrize("path", sorted((FOLDER / "results" / "mistakes").glob("*.json")), ids=lambda path: path.stem)
def test_a_page_holds_the_tables(path, mistakes):
    made = json.loads(path.read_text(encoding="utf-8"))
    block = f"<!-- tables of results/mistakes/{path.name} -->\n\n{mistakes.tables(made)}\n"
    assert any(block in page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md"))


def test_a_folder_that_is_no_study_is_named(mistakes, tmp_path):
    with pytest.raises(SystemExit, match=f"{tmp_path} is not the folder of a finished study"):
        mistakes.read_run(tmp_path, None, ["naive"], [])


def test_answers_that_are_gone_are_named_without_a_traceback(mistakes, tmp_path, monkeypatch):
    def gone(*given):
        raise FileNotFoundError("seed-0/predictions/naive is missing")

    (tmp_path / "results.json").write_text("{}")
    monkeypatch.setattr(mistakes, "read_run", gone)
    monkeypatch.setattr("sys.argv", ["mistakes.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="^seed-0/predictions/naive is missing$"):
        mistakes.main()


def test_recall_is_counted_by_kind_of_slot(mistakes):
    gold = [(("city", "rome"), ("date", "today")), (("city", "oslo"), ("city", "oslo")), ()]
    said = [
        [(("city", "rome"),), (("city", "oslo"),), (("city", "bonn"),)],
        [(("date", "today"), ("city", "roma")), (("city", "oslo"), ("city", "oslo")), ()],
    ]
    crowd = [[(("city", "rome"),), (), ()]] * 2
    run = mistakes.Run([], gold, {"student": said, "crowd": crowd}, {})
    found = mistakes.recall(run, {"city"}, "crowd")["student"]
    assert {kind: (one["of"], one["share"]) for kind, one in found.items()} == {
        "names": (3, 4 / 6),  # rome once of two, oslo three times of four
        "other slots": (1, 1 / 2),
    }
    assert found["names"]["ahead"] == pytest.approx(4 / 6 - 1 / 3) and found["other slots"]["ahead"] == 1 / 2
    assert found["names"]["interval"][0] <= 4 / 6 <= found["names"]["interval"][1]
    made = {"shares": {}, "recall": {"student": found}, "examples": [], "crowd": "c", "seeds": [0], "columns": []}
    made["shares"]["student"] = mistakes.shares(np.array([["corrected", "kept"]]))
    assert "| student | 66.7% [" in mistakes.tables(made) and "3 names and 1 other slots in gold." in mistakes.tables(
        made
    )
