"""The account of the hypotheses; the scripts by which trained students answer the rest of a split, or train on."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"


def results(pairs, seeds=3):
    """`(first, second, difference, interval, p_value)`; every seed shows the difference."""
    names = {name for first, second, *_ in pairs for name in (first, second)}
    rows = {name: {"slu_f1_per_seed": [0.0] * seeds} for name in names}
    compared = []
    for first, second, difference, interval, p_value in pairs:
        rows[first] = {"slu_f1_per_seed": [difference] * seeds}
        sure = {"standard_error": 0.01, "freedom": 2.0, "bootstrap_sd": 0.01}
        pair = {"first": first, "second": second, "difference": difference, "interval": interval, "p_value": p_value}
        compared.append(pair | sure)
    made = {"measure": "slu_f1", "weak": {}, "methods": rows, "comparisons": compared}
    return made | {"seeds": list(range(seeds))}


def test_pairs_not_run_count_in_holms_correction(account):
    """Three pairs, one run with p = 0.02: its p is 0.06, as with two others of p = 1."""
    family = next(family for family in account.PLAN if family.results == ["slots_smollm2_rest"])
    ran = results([("joint", "joint_answer", 0.03, [0.01, 0.05], 0.02)])
    first, *others = account.pairs(family, {"slots_smollm2_rest": ran})
    assert first["p"] == pytest.approx(0.06) and account.verdict(first) == "unresolved"
    assert [(row["p"], account.verdict(row)) for row in others] == [(1.0, "not run")] * 2
    assert account.planned("slots_smollm2_rest", {"slots_smollm2_rest": ran})["joint", "joint_answer"] == first["p"]
    assert account.planned("field_slots", {}) is None


def test_of_two_studies_of_a_pair_that_with_more_seeds_counts(account):
    """And the other one's table has no p of the plan, which is not its own."""
    family = next(family for family in account.PLAN if family.results[0] == "slots_smollm2")
    new = results([("naive", "gpt2", 0.2, [0.1, 0.3], 0.9)], seeds=1)
    old = results([("naive", "gpt2", 0.1, [0.05, 0.15], 0.001)], seeds=3)
    found = {"slots_smollm2": new, "slots_smollm2_four": old}
    (row,) = [row for row in account.pairs(family, found) if row["second"] == "gpt2"]
    assert (row["study"], row["p"]) == ("slots_smollm2_four", pytest.approx(0.012))
    pair = ("naive", "gpt2")
    assert account.planned("slots_smollm2_four", found)[pair] == row["p"]
    assert account.planned("slots_smollm2", found)[pair] is None


def test_the_same_pair_in_several_studies_has_the_p_of_each(account):
    names = [f"curve_strength_{size}" for size in (250, 500, 1000, 2000)]
    found = {
        name: results([("naive", "mean_vote", 0.1, [0.05, 0.15], p)])
        for name, p in zip(names, (0.3, 0.001, 0.01, 0.5), strict=True)
    }
    planned = [account.planned(name, found)["naive", "mean_vote"] for name in names]
    assert planned == pytest.approx([0.6, 0.004, 0.03, 0.6])  # 4 * 0.001, 3 * 0.01, 2 * 0.3, at least that


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
        (0.03, [None, 0.05], 0.01, [0.03, 0.03, 0.03], "unresolved"),
        (0.03, [0.01, 0.05], 0.001, [0.03], "unresolved, 1 seed"),
        (0.03, [0.01, 0.05], 0.001, [0.03, 0.03], "unresolved, 2 seeds"),
    ],
)
def test_the_verdict_is_the_plans_rule(account, difference, interval, p, each, expected):
    row = {"comparison": {"difference": difference, "interval": interval, "bootstrap_sd": 0.01}, "each": each, "p": p}
    assert account.verdict(row) == expected
    del row["comparison"]["bootstrap_sd"]  # of a study before intervals allowed for few seeds
    alone = ", by the bootstrap alone" if "**" in expected else ""
    assert account.verdict(row) == expected + alone


SAID = {  # of the plan's tables: words that are no name of a row
    "the supervisors' joint answer (Eq. 6) on the test prompts": "joint_answer",
}
NOT_IN_TABLES = set("F G C".split())  # families that the plan names in words


def test_the_account_has_the_pairs_of_the_plans_tables(account):
    plan = (FOLDER / "plan.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d) \| `(\w+)` \| ([^|]+) \|", plan, flags=re.M)
    written = {(name, first, SAID.get(rest, rest)) for name, first, rest in rows}
    made = set()
    for family in account.PLAN:
        for name, _, first, seconds in family.hypotheses:
            named = ", ".join(f"`{second}`" for second in seconds)
            made.add((name, first, "joint_answer" if name == "S8" else named))
    assert {row for row in made if row[0][0] not in NOT_IN_TABLES} == written
    as_h = {(name[1:], first, seconds) for name, first, seconds in written if name[0] == "H"}
    for letter in "FG":
        assert {(name[1:], first, seconds) for name, first, seconds in made if name[0] == letter} == as_h


def test_every_pair_of_a_plan_stands_in_the_command_that_runs_it(account):
    import answers
    import make

    asked_of = {name: given.split(" --compare ")[1].split() for name, given in make.STUDIES.items() if " --c" in given}
    asked_of |= {name: table.pairs for name, table in answers.TABLES.items()}
    for family in account.PLAN:
        for name in family.results[:1]:
            if name in asked_of:
                asked = asked_of[name]
                said = {(first, second) for _, _, first, seconds in family.hypotheses for second in seconds}
                pairs = set(zip(asked[::2], asked[1::2], strict=True))
                assert said == pairs if name in make.STUDIES else said <= pairs, name


def test_the_table_has_every_hypothesis(account):
    table = account.table({"slots_smollm2_rest": results([("joint", "naive", 0.012, [-0.01, 0.03], 0.3)])})
    assert (  # 5.65 and, at 0.05 / 3, 9.83 standard errors with two degrees of freedom
        "| R3 | joint decoding beats independent labels | `joint` | `naive` | +0.012 [-0.010, +0.030] | 3 of 3 | 0.9 "
        "| 0.057, 0.098 | unresolved |" in table
    )
    assert table.count("\n") == 1 + sum(1 + sum(len(h[3]) for h in family.hypotheses) for family in account.PLAN)
    page = (FOLDER / "account.md").read_text(encoding="utf-8")
    assert "<!-- account of all results -->\n\n| " in page and "<!-- end of account -->" in page


# the rest of a split

SLOTS = [("date", "monday"), ("person", "bo"), ("person", "ann"), ("date", "today"), ("date", "friday")]
SIZES = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 128}


@pytest.fixture
def study(tmp_path, answers):
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
    config |= {"weak_models": ["tiny:gpt2"], "student_model": "tiny:gpt2", "tiny_models": {"gpt2": SIZES}}
    named = {name: {"label": name} for name in ("joint", "naive", "joint_answer", "ceiling")}
    found = {"config": config, "weak": {"gpt2": {"label": "gpt2"}}, "methods": named}
    (run / "results.json").write_text(json.dumps(found))
    (run / "study.json").write_text(json.dumps({"task": "slot_filling"}))
    for seed in (0, 1):
        for name in ("labels", "weak/gpt2", *(f"students/{one}" for one in ("joint", "naive", "ceiling"))):
            stamp(run, seed, name, f"{name} {seed}")
    for seed in (0, 1):
        stamp(run, seed, "labels", "labels", answers.run_of(run, str(data), seed, num_test=2).data)
    return run, str(data)


def stamp(run, seed, name, key, data=""):
    folder = run / f"seed-{seed}" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"key": key, "spec": {"data": data}}))


def say(folder, ids, texts, keys):
    folder.mkdir(parents=True)
    (folder / "of.json").write_text(json.dumps(keys))
    rows = [{"id": name, "completion": text} for name, text in zip(ids, texts, strict=True)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_rest_is_what_the_study_did_not_read(answers, study, monkeypatch):
    monkeypatch.setattr(answers, "DEVEL", 1)
    for split, ids in (("test", ["test2", "test3", "test4"]), ("devel", ["devel2"])):
        run, left = answers.of_seed(*study, 0, split)
        assert [example.id for example in left] == ids and run.config.num_test == 2


def test_the_score_is_that_of_the_rest_alone(answers, study, monkeypatch):
    pairs = ("joint", "joint_answer", "naive", "joint_answer")
    table = answers.Table(("joint", "naive", "joint_answer", "ceiling"), "ceiling", pairs, seeds=(0, 1))
    monkeypatch.setitem(answers.TABLES, "mine", table)
    monkeypatch.setattr(answers, "PART", 2)
    gold = [json.dumps(dict([slot])) for slot in SLOTS[2:]]
    said = {  # of both seeds: answers that are right
        "ceiling": [[1, 1, 1], [1, 1, 1]],
        "joint": [[1, 1, 0], [1, 1, 1]],
        "naive": [[1, 0, 0], [1, 1, 0]],
        "joint_answer": [[0, 0, 1], [0, 0, 1]],
        "gpt2": [[0, 0, 1], [0, 1, 0]],
    }
    for system, seeds in said.items():
        for seed, right in enumerate(seeds):
            texts = [text if ok else "{}" for text, ok in zip(gold, right, strict=True)]
            run = answers.run_of(*study, seed)
            for first in (0, 2):
                ids = [f"test{i + 2}" for i in range(first, min(first + 2, 3))]
                keys = answers.keys_of(run, system)
                say(answers.place(run, "test", system, first), ids, texts[first : first + 2], keys)
    made = answers.score("mine", *study)
    f1 = [0, 1 / 2, 4 / 5, 1]  # of three slots, so many are said, and nothing wrong
    each = {name: row["slu_f1_per_seed"] for name, row in {**made["weak"], **made["methods"]}.items()}
    assert made["examples"] == 3 and each == {
        name: pytest.approx([f1[sum(right)] for right in seeds]) for name, seeds in said.items()
    }
    assert made["methods"]["joint"]["pgr"] == pytest.approx(((f1[2] + f1[3]) / 2 - f1[1]) / (1 - f1[1]))
    differences = {(one["first"], one["second"]): one["difference"] for one in made["comparisons"]}
    assert differences == {
        ("joint", "joint_answer"): pytest.approx((f1[2] + f1[3]) / 2 - f1[1]),
        ("naive", "joint_answer"): pytest.approx((f1[1] + f1[2]) / 2 - f1[1]),
    }


def test_answers_to_other_sentences_are_refused(answers, study, monkeypatch):
    monkeypatch.setitem(answers.TABLES, "mine", answers.Table(("joint",), "joint", (), seeds=(0,)))
    run = answers.run_of(*study, 0)
    for system in ("gpt2", "joint"):
        keys = answers.keys_of(run, system)
        say(answers.place(run, "test", system, 0), ["test3", "test2", "test4"], ["{}"] * 3, keys)
    with pytest.raises(ValueError, match="its ids are not those"):
        answers.score("mine", *study)


def test_answers_of_a_student_that_was_trained_anew_are_refused_and_given_again(answers, study, monkeypatch):
    monkeypatch.setitem(answers.TABLES, "mine", answers.Table(("joint",), "joint", (), seeds=(0,)))
    run = answers.run_of(*study, 0)
    ids = ["test2", "test3", "test4"]
    for system in ("gpt2", "joint"):
        say(answers.place(run, "test", system, 0), ids, ["{}"] * 3, answers.keys_of(run, system))
    answers.score("mine", *study)
    stamp(study[0], 0, "students/joint", "another")
    with pytest.raises(SystemExit, match="has answers of another joint than is there"):
        answers.score("mine", *study)
    asked = []
    monkeypatch.setattr(answers, "loaded", lambda run, system: [])
    monkeypatch.setattr(answers, "answer_part", lambda run, models, part, folder: asked.append(folder.parent.name))
    answers.answer("mine", *study, [0], [])
    assert asked == ["joint"]
    answers.score("mine", *study)


def test_other_rows_than_the_studys_are_refused(answers, study):
    run, train = answers.run_of(*study, 0), Path(study[1]) / "train.jsonl"
    train.write_text(train.read_text().replace("please", "now").replace("train 1 ", "train one "))
    with pytest.raises(SystemExit, match="has other rows than those that seed 0"):
        answers.run_of(*study, 0)
    with pytest.raises(SystemExit, match="has no seed 9"):
        answers.run_of(*study, 9)
    with pytest.raises(SystemExit, match="--data_dir: .*nowhere"):
        answers.run_of(study[0], str(study[0] / "nowhere"), 0)
    with pytest.raises(SystemExit, match="imitator is not trained to its end; relabelled.py trains it"):
        answers.keys_of(run, "imitator")


def test_missing_answers_are_named_with_what_to_do(answers, study, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["answers.py", "score", "slots_smollm2_rest", str(study[0]), "--data_dir", study[1]]
    )
    with pytest.raises(SystemExit, match=r"predictions.jsonl is missing; `answers.py answer`"):
        answers.main()


def test_what_is_answered_is_not_answered_again(answers, study, monkeypatch):
    monkeypatch.setattr(answers, "PART", 1)
    say(answers.place(answers.run_of(*study, 0), "test", "naive", 1), ["test3"], ["{}"], ["students/naive 0"])
    asked, models = [], []
    monkeypatch.setattr(answers, "loaded", lambda run, system: models.append((run.seed, system)))
    monkeypatch.setattr(answers, "answer_part", lambda run, models, part, place: asked.append((part[0].id, place)))
    answers.answer("slots_smollm2_rest", *study, [0], ["naive"])
    assert [name for name, _ in asked] == ["test2", "test4"] and models == [(0, "naive")]
    assert [folder.name for _, folder in asked] == ["part-0", "part-2"]


def test_longer_training_changes_the_epochs_and_nothing_else(answers, study, monkeypatch):
    import longer

    run, trained = answers.run_of(*study, 0), []
    run.config.student_training = {"num_train_epochs": 1, "learning_rate": 2e-4}

    def note(what):
        return lambda *given: trained.append((what, given[0], given[-1].name, run.config.student_training))

    monkeypatch.setattr(run, "train_student", note("weak"))
    monkeypatch.setattr(run, "train_gold", note("gold"))
    folder = longer.train(run, "joint", 3)
    longer.train(run, "ceiling", 3)
    settings = {"num_train_epochs": 3, "learning_rate": 2e-4}
    assert [(what, place, said) for what, _, place, said in trained] == [
        ("weak", "joint_3", settings),
        ("gold", "ceiling_3", settings),
    ]
    assert trained[0][1].name == "joint" and trained[1][1] == "half_b"
    assert answers.keys_of(run, "joint_3") == ["students/joint 0, 3 epochs"]
    longer.train(run, "joint", 3)
    assert len(trained) == 2  # it is there
    (folder / "done.json").unlink()  # killed: weights alone may be half written
    (folder / "checkpoint-1").mkdir()
    longer.train(run, "joint", 3)
    assert len(trained) == 3 and (folder / "checkpoint-1").is_dir()
    stamp(study[0], 0, "students/joint", "from other labels")
    longer.train(run, "joint", 3)
    assert len(trained) == 4 and not (folder / "checkpoint-1").exists()
    with pytest.raises(SystemExit, match="no student 'oint' to train longer"):
        longer.train(run, "oint", 3)


def test_random_mistakes_are_as_many_as_the_supervisors(answers, study, monkeypatch):
    import relabelled

    train = Path(study[1]) / "train.jsonl"
    slots = [(("date", "person")[i % 2], f"day{i}") for i in range(200)]
    rows = [{"id": f"t{i}", "sentence": f"on day{i} please", "slots": [s]} for i, s in enumerate(slots)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = answers.run_of(*study, 0, num_weak=150)  # other rows than the study's
    half_b = run.splits.half_b
    said = [
        {"example_id": e.id, "completion": run.task.completion(e) if i % 3 else "{}"} for i, e in enumerate(half_b)
    ]
    monkeypatch.setattr(run, "labels", lambda mode: said[:-1] if mode == "joint" else None)
    found = relabelled.labels_of(run)
    gold = {example.id: run.task.completion(example) for example in half_b[:-1]}
    assert found["imitator"].keys() == found["randomly_wrong"].keys() == gold.keys()
    told = {name: relabelled.told(run, labels) for name, labels in found.items()}
    right = 99  # of 149; the others say nothing: F1 = 2 * 99 / (99 + 149)
    assert told["imitator"] == {"rows": 149, "score": pytest.approx(2 * right / (right + 149)), "gold": right / 149}
    assert told["randomly_wrong"]["score"] == pytest.approx(told["imitator"]["score"], abs=0.01)
    some, all_ = (relabelled.wrong_at_random(run, half_b, share) for share in (0.2, 1.0))
    assert all(some[name] in (gold[name], all_[name]) for name in gold)  # what is wrong stays wrong
    assert some == relabelled.wrong_at_random(run, half_b, 0.2)


def test_more_sentences_are_the_studys_and_those_behind_them(answers, study, monkeypatch):
    import relabelled
    from datasets import Dataset

    run, more = answers.run_of(*study, 0), answers.run_of(*study, 0, num_weak=6)
    known, asked, taught = [e.id for e in run.splits.half_b], [], []
    monkeypatch.setattr(run, "labels", lambda mode: Dataset.from_list([{"example_id": name} for name in known]))
    monkeypatch.setattr(relabelled, "loaded", lambda run, system: asked.append(system))
    monkeypatch.setattr(relabelled, "WeakEnsemble", lambda models, weights: None)
    monkeypatch.setattr(
        relabelled, "label_completions", lambda ensemble, rows, **given: rows.select_columns("example_id")
    )
    monkeypatch.setattr(run.factory, "student", lambda *given: "untrained")
    monkeypatch.setattr(
        relabelled, "methods_of", lambda *given: [type("M", (), {"name": name}) for name in ("naive", "joint")]
    )
    monkeypatch.setattr(
        relabelled,
        "train_on_weak",
        lambda *given: taught.append((given[0], list(given[1]["example_id"]), given[2].name)),
    )
    folder = relabelled.train_on_more(run, more, "joint_3100")
    assert taught == [("untrained", [e.id for e in more.splits.half_b], "joint")] and asked == ["joint_answer"]
    assert len(known) == 4 and len(taught[0][1]) == 6
    assert json.loads((folder / "done.json").read_text()) == {"rows": 6, "key": "labels, joint_3100"}
    assert relabelled.train_on_more(run, more, "joint_3100") == folder and len(taught) == 1
    with pytest.raises(SystemExit, match="is not the first part"):
        relabelled.train_on_more(run, answers.run_of(*study, 1, num_weak=6), "joint_3100")


def test_a_difference_of_rounding_is_no_lead(account, make):
    """0.1 + 0.2 - 0.3 is above 0 as numbers of a computer are: such a seed is not ahead."""
    rounding = 0.1 + 0.2 - 0.3
    assert rounding > 0 and make.seeds_above([0.2, 0.2, rounding, -rounding, -0.1]) == 2
    wide = {"interval": [0.001, 0.4], "difference": 0.1, "p_value": 0.01, "bootstrap_sd": 0.1}
    row = {"comparison": wide, "each": [0.2, 0.2, rounding], "p": 0.01}
    assert account.verdict(row) == "unresolved"
    assert account.verdict(row | {"each": [0.2, 0.2, 0.01]}) == "**confirmed**"
    behind = {"comparison": wide | {"interval": [-0.4, -0.001], "difference": -0.1}, "p": 0.01}
    assert account.verdict(behind | {"each": [-0.2, -0.2, -rounding]}) == "unresolved"
    assert account.verdict(behind | {"each": [-0.2, -0.2, -0.01]}) == "**refuted**"
