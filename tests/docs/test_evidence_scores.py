"""Scores of single examples: kept, computed from again, and held against the results beside them."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_study import SEEDS, TEXTS, stamped, study

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
KEPT = sorted((FOLDER / "results" / "scores").glob("*.json.gz"))


def test_everything_comes_out_again(kept):
    scores, folder, results = kept
    path = scores.keep("mine", folder / "run", None)
    found = scores.kept_of("mine")
    made = scores.again(found, results)
    assert scores.wrong(found, results) == scores.differences(made, results) == []
    assert made["comparisons"][0]["interval"] == pytest.approx(results["comparisons"][0]["interval"])
    assert made["methods"]["student"]["pgr_interval"] == pytest.approx(results["methods"]["student"]["pgr_interval"])
    assert made["methods"]["student"]["supervisors"] == ["two"]
    if results["measure"] == "accuracy":  # a shared vote is right in part
        assert not np.isin(found.samples["majority_vote"], (0, 1)).all()
    else:
        assert made["methods"]["student"]["whole"] == 1
    said = json.loads(gzip.decompress(path.read_bytes()))
    assert said["examples"] == TEXTS and len(said["data"]) == 2 and "0/3" not in json.dumps(said)  # no id
    before = path.read_bytes()
    assert scores.keep("mine", folder / "run", None).read_bytes() == before


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (("methods", "student", "pgr"), "methods student pgr"),
        (("comparisons", 1, "p_value"), "comparisons 1 p_value"),
        (("comparisons", 0, "interval", 1), "comparisons 0 interval 1"),
    ],
)
def test_a_changed_number_of_the_results_is_found(kept, where, said):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    place: Any = results
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] += 1e-4
    (found,) = scores.wrong(scores.kept_of("mine"), results)
    assert found.startswith(said)


@pytest.mark.parametrize("missing", ["comparisons", "pgr", "student"])
def test_what_the_results_lack_is_found(kept, missing):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    place = {"comparisons": results, "pgr": results["methods"]["student"], "student": results["methods"]}[missing]
    del place[missing]
    assert scores.wrong(scores.kept_of("mine"), results) != [] or missing == "comparisons"
    if missing == "comparisons":  # no pairs were asked for, as far as these results know
        assert scores.again(scores.kept_of("mine"), results)["comparisons"] == []


def test_a_limit_without_bound_is_null_in_both(kept, monkeypatch):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    results["comparisons"][0]["interval"] = [None, 0.1]
    made = scores.again(scores.kept_of("mine"), results)
    monkeypatch.setattr(scores, "compare_systems", lambda *given, **more: [{"interval": [-np.inf, 0.1]}])
    assert scores.again(scores.kept_of("mine"), results)["comparisons"] == [{"interval": [None, 0.1]}]
    assert made["comparisons"][0]["interval"][0] is not None


def test_scores_of_another_study_than_the_published_one_are_not_kept(kept):
    scores, folder, results = kept
    study(folder / "other", "classes" if results["measure"] == "accuracy" else "completions", (5, 8))
    path = scores.keep("mine", folder / "run", None)
    before = path.read_bytes()
    with pytest.raises(
        SystemExit, match="mine is published with other numbers than these scores make: scores of seed"
    ):
        scores.keep("mine", folder / "other", None)
    assert path.read_bytes() == before


def test_a_run_of_other_data_than_is_named_is_refused(kept):
    scores, folder, _ = kept
    stamped(folder / "run", SEEDS, text="another")
    with pytest.raises(ValueError, match="seed-3/students/student was made of other data than --data_dir has"):
        scores.keep("mine", folder / "run", None)
    assert not scores.path_of("mine").is_file()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"at_floor": ["one"]}, "at_floor"),
        ({"config": {"seeds": [3]}}, "config seeds"),
        ({"parts": [{"seeds": [3, 99]}]}, "seeds 1: 99, 5"),
        ({"labels_right": {"noise_50": [0.5]}}, "labels_right of noise_50"),
    ],
)
def test_what_is_not_of_these_seeds_is_found(kept, changed, said):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    if "config" in changed:
        changed = {"config": results["config"] | changed["config"]}
    (found, *_) = scores.wrong(scores.kept_of("mine"), {"at_floor": [], **results} | changed)
    assert said in found


@pytest.mark.parametrize("given", [["mine", "--keep", "nowhere"], ["mine", "--add", "nowhere", "--data_dir", "no"]])
def test_a_wrong_folder_is_one_line(kept, monkeypatch, given):
    scores, folder, _ = kept
    scores.keep("mine", folder / "run", None)
    monkeypatch.setattr("sys.argv", ["scores.py", *given])
    with pytest.raises(SystemExit, match="nowhere is not the folder of a finished study"):
        scores.main()
    monkeypatch.setattr("sys.argv", ["scores.py", "mine", "--keep", str(folder / "run")])
    stamped(folder / "run", SEEDS, text="another")
    with pytest.raises(SystemExit, match="was made of other data"):
        scores.main()


def test_answers_that_are_not_those_of_the_results_are_refused(kept):
    scores, folder, results = kept
    path = folder / "run" / "seed-5" / "predictions" / "student" / "predictions.jsonl"
    other = (folder / "run" / "seed-5" / "predictions" / "one" / "predictions.jsonl").read_text()
    path.write_text(other)
    with pytest.raises(ValueError, match="student: the answers score"):
        scores.keep("mine", folder / "run", None)


def test_what_is_not_kept_or_not_finished_is_refused(kept):
    scores, folder, _ = kept
    with pytest.raises(SystemExit, match="of mine no scores of single examples are kept"):
        scores.kept_of("mine")
    with pytest.raises(SystemExit, match="not the folder of a finished study"):
        scores.keep("mine", folder / "nothing", None)


@pytest.mark.parametrize("values", [(0, 1), (0, 0.5, 1), (0, 1 / 3, 2 / 3, 1)])
@pytest.mark.parametrize("count", [1, 7, 8, 61])
def test_what_is_kept_is_what_it_was(scores, monkeypatch, tmp_path, count, values):
    """Bits where answers are right or wrong; and a vote that classes share is neither."""
    monkeypatch.setattr(scores, "FOLDER", tmp_path)
    right = np.random.default_rng(count).choice(values, (2, count))
    scores.write("mine", scores.Kept("small", [1, 2], ["a", "b"], "c", {"row": right, "texts": right[..., None] * 3}))
    found = scores.kept_of("mine")
    assert np.array_equal(found.samples["row"], right)
    assert np.array_equal(found.samples["texts"], right[..., None] * 3)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_the_published_results_are_those_of_the_kept_scores(path, scores):
    name = path.name.removesuffix(".json.gz")
    assert scores.wrong(scores.kept_of(name), scores.read(scores.RESULTS / f"{name}.json")) == []


def test_of_every_study_that_names_its_commit_the_scores_are_kept(scores):
    """Both came on the same day; a file that is lost is missed."""
    every = {path.stem: scores.read(path) for path in scores.RESULTS.glob("*.json")}
    named = {name for name, found in every.items() if "commit" in found or "parts" in found}
    assert {path.name.removesuffix(".json.gz") for path in KEPT} >= named


def test_the_mistakes_are_of_the_seeds_of_their_study(scores):
    for path in (scores.RESULTS / "mistakes").glob("*.json"):
        if (study := scores.RESULTS / path.name).is_file():
            assert scores.read(path)["seeds"] == scores.read(study)["seeds"], path.name


def test_a_table_by_another_score_of_the_task(kept, make):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    found = scores.kept_of("mine")
    own = scores.score_table(found, results, results["measure"])
    assert own == make.tables({**results, "comparisons": []}) and "| student | 0." in own
    if results["measure"] == "slot_f1":  # a score of which every text has all
        assert "| student | 1.000 [1.000, 1.000] |  |" in scores.score_table(found, results, "whole")
    with pytest.raises(SystemExit, match=f"small has no score nothing; it has {results['measure']}"):
        scores.score_table(found, results, "nothing")


def test_the_command_prints_that_table_and_takes_nothing_else(kept, monkeypatch, capsys):
    scores, folder, results = kept
    scores.keep("mine", folder / "run", None)
    monkeypatch.setattr("sys.argv", ["scores.py", "mine", "--score", results["measure"]])
    scores.main()
    assert capsys.readouterr().out == scores.score_table(scores.kept_of("mine"), results, results["measure"]) + "\n"
    monkeypatch.setattr("sys.argv", ["scores.py", "mine", "--score", "accuracy", "--keep", "run"])
    with pytest.raises(SystemExit):
        scores.main()
    assert "--score takes one name" in capsys.readouterr().err


def test_the_page_has_the_exact_states_that_the_command_prints(scores):
    table = scores.score_table(
        scores.kept_of("dialogues_smollm2"), scores.read(scores.RESULTS / "dialogues_smollm2.json"), "exact_state"
    )
    assert f"{table}\n" in (FOLDER / "dialogues.md").read_text(encoding="utf-8")
