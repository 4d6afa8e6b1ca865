"""Scores of single examples: kept, computed from again, and held against the results beside them."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY, Measure, score_systems
from trl_weaks.study.tasks.base import Example, Splits

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
KEPT = sorted((FOLDER / "results" / "scores").glob("*.json.gz"))
TEXTS, SEEDS = 60, (3, 5)
ROWS = ("weak", "methods", "comparisons", "ceiling", "weak_mean", "examples")
ROLES = {"one": "weak", "two": "weak", "student": "method", "ceiling": "ceiling"}


@dataclass
class Small:
    """A task without data; what the script asks of one."""

    kind: str
    classes: tuple[str, ...] = ("a", "b", "c")
    name: str = "small"
    said: str = "text"

    def splits(self, seed: int) -> Splits:
        """Cut as a study cuts them."""
        return Splits((), (), (), tuple(Example(f"{seed // 100}/{i}", self.said, "abc"[i % 3]) for i in range(TEXTS)))

    def label(self, example: Example) -> int:
        return "abc".index(example.target)

    def statistics(self, completion: str, example: Example) -> list[float]:
        return [float(completion == example.target), 1.0]

    def total(self, means: np.ndarray) -> dict[str, np.ndarray]:
        return {"whole": means[..., 1], "slot_f1": means[..., 0] / means[..., 1]}


class Seed:
    """What a study reads for one seed."""

    def __init__(self, task: Small, seed: int):
        self.task, self.seed, self.splits, self.data = task, seed, task.splits(seed), f"{seed} {task.said}"


def answers(draw: np.random.Generator, kind: str, ability: float, gold: str) -> dict[str, Any]:
    said = gold if draw.random() < ability else draw.choice(list("abc"))
    if kind == "completions":
        return {"completion": said}
    sure = draw.dirichlet(np.ones(3)) + 2.0 * (np.array(list("abc")) == said)
    return {"probabilities": (sure / sure.sum()).tolist(), "vacuity": None}


def shared(votes: Sequence[str]) -> list[float]:
    """The most frequent classes have the vote to equal parts; the share of each is how right it is."""
    most = max(votes.count(one) for one in "abc")
    best = [one for one in "abc" if votes.count(one) == most]
    return [(one in best) / len(best) for one in "abc"]


def study(
    folder: Path, kind: str, seeds: Sequence[int] = SEEDS, beta: float = 0.1, text: str = "text"
) -> dict[str, Any]:
    """The folder of a finished study, its answers drawn; and its results, by loops over what was drawn."""
    task, right = Small(kind, said=text), dict[str, list[list[float]]]()
    for seed in seeds:
        draw, votes = np.random.default_rng(seed), np.zeros((TEXTS, 3))
        ballots: list[list[str]] = [[] for _ in range(TEXTS)]
        for name, ability in zip(ROLES, (0.4, 0.5, 0.7, 0.95), strict=True):
            place = folder / f"seed-{seed}" / "predictions" / name
            place.mkdir(parents=True)
            rows = []
            for i, example in enumerate(task.splits(seed).test):
                row = answers(draw, kind, ability, example.target)
                rows.append({"id": example.id, **row})
                if kind == "classes":
                    votes[i] += np.array(row["probabilities"]) * (ROLES[name] == "weak")
                    ballots[i] += ["abc"[int(np.argmax(row["probabilities"]))]] * (ROLES[name] == "weak")
            (place / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            said = [row.get("completion") or "abc"[int(np.argmax(row["probabilities"]))] for row in rows]
            gold = [example.target for example in task.splits(seed).test]
            right.setdefault(name, []).append([float(a == b) for a, b in zip(said, gold, strict=True)])
        if kind == "classes":
            gold = [example.target for example in task.splits(seed).test]
            voted = [float("abc"[int(np.argmax(vote))] == b) for vote, b in zip(votes, gold, strict=True)]
            right.setdefault("mean_vote", []).append(voted)
            ties = [shared(votes)["abc".index(b)] for votes, b in zip(ballots, gold, strict=True)]
            right.setdefault("majority_vote", []).append(ties)
    classes = kind == "classes"
    of_all = {"slot_f1": lambda means: means[..., 0] / means[..., 1], "whole": lambda means: means[..., 1]}
    measure = ACCURACY if classes else Measure("Slot F1", of_all)
    samples = {name: np.array(table) for name, table in right.items()}
    if not classes:
        samples = {name: np.stack([table, np.ones_like(table)], axis=-1) for name, table in samples.items()}
    roles = ROLES | (dict.fromkeys(("mean_vote", "majority_vote"), "baseline") if classes else {})
    systems = [{"name": n, "label": n, "role": roles[n], "samples": samples[n]} for n in samples]
    systems[2] |= {"supervisors": ["two"]}
    results = score_systems(systems, measure=measure, resamples=500)
    environment = {"date": f"2026-11-2{len(seeds)} 10:00", "machine": "mine", "versions": {"torch": "2"}}
    config = {"weak_weights": None, "beta": beta, "seeds": list(seeds), "text": text}
    results |= {"seeds": list(seeds), "config": config, "environment": environment, "diagnostics": {"of": "one run"}}
    results |= {"stage_seconds": {"labels": 1.5 * len(seeds)}, "command": f"run {seeds}", "commit": "abc"}
    results["comparisons"] = compare_systems(samples, measure, ["student", "two", "ceiling", "student"])
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "study.json").write_text(json.dumps({"task": "small"}))
    return results


@pytest.fixture(params=["classes", "completions"])
def kept(request, scores, tmp_path, monkeypatch):
    """A published study with its scores: the script, its folder, and the results."""
    results = study(tmp_path / "run", request.param)
    monkeypatch.setattr(scores, "RESULTS", tmp_path)
    monkeypatch.setattr(scores, "FOLDER", tmp_path / "scores")
    monkeypatch.setattr(scores, "config_class", lambda name: lambda **given: SimpleNamespace(**given))
    monkeypatch.setattr(scores, "task_of", lambda name, config: Small(request.param, said=config.text))
    monkeypatch.setattr(scores, "seed_runs", lambda config, task, methods: [Seed(task, s) for s in config.seeds])
    (tmp_path / "mine.json").write_text(json.dumps(results))
    return scores, tmp_path, results


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


def test_after_a_kill_between_results_and_scores_nothing_is_added(kept):
    """Whichever of the two came to its end, what is there is found not to be of one study."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    scores.keep("mine", folder / "run", None)
    old = scores.path_of("mine").read_bytes(), (folder / "mine.json").read_bytes()
    study(folder / "more", kind, (4,))
    study(folder / "third", kind, (9,))
    scores.add("mine", folder / "more", None)
    new = scores.path_of("mine").read_bytes(), (folder / "mine.json").read_bytes()
    for kept_bytes, published in ((old[0], new[1]), (new[0], old[1])):
        scores.path_of("mine").write_bytes(kept_bytes)
        (folder / "mine.json").write_bytes(published)
        with pytest.raises(SystemExit, match="mine is published with other numbers"):
            scores.add("mine", folder / "third", None)


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


def test_seeds_of_two_runs_are_what_one_run_of_all_is(kept, make, monkeypatch):
    """In whatever order; and the table names both runs."""
    scores, folder, results = kept
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    whole = study(folder / "whole", kind, (3, 4, 5, 6))
    scores.keep("mine", folder / "run", None)
    study(folder / "more", kind, (6, 4))
    scores.add("mine", folder / "more", None, "run more path/to/data")
    found = scores.read(folder / "mine.json")
    assert found["seeds"] == found["config"]["seeds"] == scores.kept_of("mine").seeds == [3, 4, 5, 6]
    assert {key: found[key] for key in ROWS} == {key: whole[key] for key in ROWS}
    assert found["stage_seconds"] == {"labels": 6.0} and "diagnostics" not in found
    assert found["at_floor"] == []
    said = make.source(found)
    assert said.startswith(
        "Made by `run (3, 5)`; seeds 3, 5; 60 examples; 2026-11-22; mine; torch 2; published at commit"
    )
    assert "; and by `run more path/to/data`; seeds 6, 4; 60 examples; 2026-11-22; mine;" in said
    study(folder / "third", kind, (1,))
    scores.add("mine", folder / "third", None)
    assert [part["seeds"] for part in scores.read(folder / "mine.json")["parts"]] == [[3, 5], [6, 4], [1]]


@pytest.mark.parametrize(
    ("seeds", "beta", "text", "changed", "said"),
    [
        ((5, 6), 0.1, "text", {}, r"mine has seeds \[5\] already"),
        ((6,), 0.2, "text", {}, "is another study than mine: beta"),
        ((6,), 0.1, "text", {"gamma": 1}, "is another study than mine: gamma"),
        ((6,), 0.1, "text", {"methods": {"student": {"supervisors": ["one"]}}}, "mine: other rows"),
        ((6,), 0.1, "text", {"methods": {"student": {"label": "another"}}}, "mine: other rows"),
        ((106,), 0.1, "text", {}, "was made of other data than mine"),
        ((6,), 0.1, "another", {}, "was made of other data than mine"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(kept, seeds, beta, text, changed, said):
    scores, folder, results = kept
    path = scores.keep("mine", folder / "run", None)
    kind = "classes" if results["measure"] == "accuracy" else "completions"
    made = study(folder / "more", kind, seeds, beta, text)
    for row, values in changed.get("methods", {}).items():
        made["methods"][row] |= values
    made["config"] |= {"gamma": 1} if "gamma" in changed else {}
    if text != "text":  # the same settings, another folder of data under the same name
        made["config"]["text"] = "text"
        scores.task_of = lambda name, config: Small(kind, said=text)
    (folder / "more" / "results.json").write_text(json.dumps(made))
    before = path.read_bytes(), (folder / "mine.json").read_bytes()
    with pytest.raises(SystemExit, match=said):
        scores.add("mine", folder / "more", None)
    assert before == (path.read_bytes(), (folder / "mine.json").read_bytes())


def test_new_seeds_may_be_run_alone_where_the_scores_are_kept(kept, make, monkeypatch):
    scores, folder, _ = kept
    monkeypatch.setattr(make, "RESULTS", folder)
    with pytest.raises(SystemExit, match=r"has seeds \[3, 5\], which --seeds leaves out"):
        make.refuse_fewer_seeds("mine", ["--seeds", "7"])
    scores.keep("mine", folder / "run", None)
    make.refuse_fewer_seeds("mine", ["--seeds", "7"])
    with pytest.raises(SystemExit, match=r"has seeds \[5\], which --seeds leaves out"):
        make.refuse_fewer_seeds("mine", ["--seeds", "3", "7"])
    kind = "classes" if scores.read(folder / "mine.json")["measure"] == "accuracy" else "completions"
    study(folder / "more", kind, (7,))
    make.published(folder / "more", "mine", None)
    assert scores.read(folder / "mine.json")["seeds"] == [3, 5, 7]
    study(folder / "all", kind, (3, 5, 7, 8))
    make.published(folder / "all", "mine", None)
    assert scores.read(folder / "mine.json")["seeds"] == scores.kept_of("mine").seeds == [3, 5, 7, 8]


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
    named = {path.stem for path in scores.RESULTS.glob("*.json") if "commit" in scores.read(path)}
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


def test_the_page_has_the_exact_states_that_the_command_prints(scores):
    table = scores.score_table(
        scores.kept_of("dialogues_smollm2"), scores.read(scores.RESULTS / "dialogues_smollm2.json"), "exact_state"
    )
    assert f"{table}\n" in (FOLDER / "dialogues.md").read_text(encoding="utf-8")
