"""The account of the hypotheses, and the script that answers the rest of a test split."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"


@pytest.fixture
def account(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import account

    return account


@pytest.fixture
def rest(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import rest

    return rest


def results(pairs, seeds=3):
    """`(first, second, difference, interval, p_value)`; every seed shows the difference."""
    names = {name for first, second, *_ in pairs for name in (first, second)}
    rows = {name: {"slu_f1_per_seed": [0.0] * seeds} for name in names}
    compared = []
    for first, second, difference, interval, p_value in pairs:
        rows[first] = {"slu_f1_per_seed": [difference] * seeds}
        compared.append(
            {"first": first, "second": second, "difference": difference, "interval": interval, "p_value": p_value}
        )
    return {"measure": "slu_f1", "weak": {}, "methods": rows, "comparisons": compared}


def test_pairs_not_run_count_in_holms_correction(account):
    """Three pairs, one run with p = 0.02: its p is 0.06, as with two others of p = 1."""
    family = next(family for family in account.PLAN if family.results == ["slots_smollm2_rest"])
    ran = results([("joint", "joint_answer", 0.03, [0.01, 0.05], 0.02)])
    first, *others = account.pairs(family, {"slots_smollm2_rest": ran})
    assert first["p"] == pytest.approx(0.06) and account.verdict(first) == "unresolved"
    assert [(row["p"], account.verdict(row)) for row in others] == [(1.0, "not run")] * 2


@pytest.mark.parametrize(
    ("difference", "interval", "p", "each", "expected"),
    [
        (0.03, [0.01, 0.05], 0.01, [0.03, 0.03, 0.03], "**confirmed**"),
        (-0.03, [-0.05, -0.01], 0.01, [-0.03, -0.03, -0.03], "**refuted**"),
        (0.03, [0.01, 0.05], 0.05, [0.03, 0.03, 0.03], "unresolved"),  # p
        (0.03, [0.01, 0.05], 0.01, [0.07, 0.03, -0.01], "unresolved"),  # three seeds of two signs, close to 0
        (0.05, [0.03, 0.07], 0.01, [0.1, 0.06, -0.01], "**confirmed**"),  # further from 0 than half the width
        (0.03, [0.01, 0.05], 0.01, [0.07, 0.07, 0.0, -0.02], "**confirmed**"),  # more seeds: p says it
        (0.03, [None, None], 0.01, [0.07, 0.03, -0.01], "unresolved"),
    ],
)
def test_the_verdict_is_the_plans_rule(account, difference, interval, p, each, expected):
    row = {"comparison": {"difference": difference, "interval": interval}, "each": each, "p": p}
    assert account.verdict(row) == expected


def test_power_against_drawing_studies(account):
    """Of studies with a standard error of 1, four in five find a difference of half the width times FOUND."""
    half = norm.ppf(0.975)
    drawn = np.random.default_rng(0).normal(account.FOUND * half, 1, 200_000)
    assert np.mean(np.abs(drawn) > half) == pytest.approx(0.8, abs=0.005)


def test_every_pair_of_a_plan_stands_in_the_command_that_runs_it(account):
    import make

    for family in account.PLAN:
        for name in family.results:
            if name in make.STUDIES and name != "slots_smollm2_joint":
                asked = make.STUDIES[name].split(" --compare ")[1].split()
                said = {(first, second) for _, _, first, seconds in family.hypotheses for second in seconds}
                assert said == set(zip(asked[::2], asked[1::2], strict=True)), name


def test_the_table_has_every_hypothesis(account):
    table = account.table({"slots_smollm2_rest": results([("joint", "naive", 0.012, [-0.01, 0.03], 0.3)])})
    assert (
        "| R3 | joint decoding beats independent labels | `joint` | `naive` | +0.012 [-0.010, +0.030] | 3 of 3 | 0.9 "
        "| 0.029 | unresolved |" in table
    )
    assert table.count("\n") == 1 + sum(1 + sum(len(h[3]) for h in family.hypotheses) for family in account.PLAN)


# the rest of the test split

SLOTS = [("date", "monday"), ("person", "bo"), ("person", "ann"), ("date", "today"), ("date", "friday")]


@pytest.fixture
def study(tmp_path):
    """A finished study of two seeds that asked two of five test sentences."""
    data, run = tmp_path / "slurp", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    for split, count in (("train", 12), ("devel", 4), ("test", 5)):
        slots = [SLOTS[i % 5] for i in range(count)]
        rows = [{"id": f"{split}{i}", "sentence": f"{split} {i} {s[1]}", "slots": [s]} for i, s in enumerate(slots)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "slot_types.txt").write_text("date\nperson\n")
    config = {"dataset": "slurp", "num_gold": 4, "num_weak": 4, "num_validation": 2, "num_test": 2, "seeds": [0, 1]}
    sizes = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 128}
    config |= {"weak_models": ["tiny:gpt2"], "student_model": "tiny:gpt2", "tiny_models": {"gpt2": sizes}}
    labels = {name: {"label": name} for name in ("joint", "naive", "joint_answer")}
    (run / "results.json").write_text(json.dumps({"config": config, "methods": labels}))
    (run / "study.json").write_text(json.dumps({"task": "slot_filling"}))
    return run, str(data)


def say(folder, ids, answers):
    folder.mkdir(parents=True)
    rows = [{"id": name, "completion": text} for name, text in zip(ids, answers, strict=True)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_rest_is_what_the_study_did_not_ask(rest, study):
    run, left = rest.of_seed(*study[:1], study[1], 0)
    assert [example.id for example in left] == ["test2", "test3", "test4"] and run.config.num_test is None


def test_the_score_is_that_of_the_rest_alone(rest, study, monkeypatch):
    monkeypatch.setattr(rest, "PART", 2)
    gold = [json.dumps(dict([slot])) for slot in SLOTS[2:]]
    nothing = "{}"
    said = {  # of both seeds: answers that are right
        "joint": [[1, 1, 1], [1, 1, 1]],
        "naive": [[1, 0, 0], [1, 1, 0]],
        "joint_answer": [[0, 0, 0], [0, 0, 1]],
    }
    for system, seeds in said.items():
        for seed, right in enumerate(seeds):
            texts = [text if ok else nothing for text, ok in zip(gold, right, strict=True)]
            for first in (0, 2):
                ids = [f"test{i + 2}" for i in range(first, min(first + 2, 3))]
                say(rest.place(study[0], seed, system, first), ids, texts[first : first + 2])
    made = rest.score(study[0], study[1], [0, 1])
    f1 = lambda right, slots=3: 2 * right / (right + slots)  # noqa: E731  what is said is right, the rest is missing
    each = {name: row["slu_f1_per_seed"] for name, row in made["methods"].items()}
    assert each["joint"] == [1.0, 1.0] and made["examples"] == 3
    assert each["naive"] == pytest.approx([f1(1), f1(2)]) and each["joint_answer"] == pytest.approx([0, f1(1)])
    differences = {(one["first"], one["second"]): one["difference"] for one in made["comparisons"]}
    assert differences["naive", "joint_answer"] == pytest.approx((f1(1) + f1(2) - f1(1)) / 2)
    assert set(differences) == set(zip(rest.PAIRS[::2], rest.PAIRS[1::2], strict=True))


def test_answers_of_other_sentences_are_refused(rest, study, monkeypatch):
    monkeypatch.setattr(rest, "PART", 3)
    for system in rest.SYSTEMS:
        say(rest.place(study[0], 0, system, 0), ["test3", "test2", "test4"], ["{}"] * 3)
    with pytest.raises(ValueError, match="its ids are not those"):
        rest.score(study[0], study[1], [0])


def test_what_is_answered_is_not_answered_again(rest, study, monkeypatch):
    monkeypatch.setattr(rest, "PART", 1)
    say(rest.place(study[0], 0, "naive", 1), ["test3"], ["{}"])
    asked, models = [], []
    monkeypatch.setattr(rest, "loaded", lambda run, root, system: models.append((root.name, system)))
    monkeypatch.setattr(rest, "answer_part", lambda run, models, part, folder: asked.append((part[0].id, folder)))
    rest.answer(study[0], study[1], [0], ["naive"])
    assert [name for name, _ in asked] == ["test2", "test4"] and models == [("seed-0", "naive")]
    assert [folder.name for _, folder in asked] == ["part-0", "part-2"]
