"""The pages and figures of the evidence say what the results beside them say."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from trl_weaks.study.field_methods import class_field, completion_field

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
RESULTS = sorted((FOLDER / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_page_holds_the_tables_of_its_results(path, make):
    results = make.read(path)
    pages = [page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md")]
    assert any(
        f"<!-- tables of results/{path.name} -->\n\n{make.block(path.stem, results)}\n" in page for page in pages
    )
    assert results["environment"]["date"] and results["seeds"] and "/tmp/" not in path.read_text(encoding="utf-8")


def test_every_table_says_how_where_and_when_it_was_made(make):
    pages = {page.name: page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md")}
    blocks = [(name, found) for name, page in pages.items() for found in make.BLOCK.finditer(page)]
    assert len(blocks) >= len(RESULTS)
    for name, found in blocks:
        results = make.read(FOLDER / "results" / f"{found[2]}.json")
        assert f"\n\nMade by `{results['command']}`; seed" in found[0], (name, found[2])
        assert results["environment"]["date"].split()[0] in found[0].rsplit("\n\n", 2)[1]


def test_no_page_has_a_table_that_its_results_do_not_make(make):
    assert make.make(check=True) == []


def test_a_changed_number_is_found(make):
    """The guard itself: one digit of one table."""
    page = (FOLDER / "scenarios.md").read_text(encoding="utf-8")
    changed = page.replace("| 0.696 [", "| 0.697 [", 1)
    assert changed != page and make.page_with_tables(changed) == page == make.page_with_tables(page)


def test_an_empty_block_takes_no_other_with_it(make):
    page = (FOLDER / "intents.md").read_text(encoding="utf-8")
    first = "<!-- tables of results/intent_minilm.json -->\n\n"
    emptied = page[: page.index(first) + len(first)] + page[page.index("<!-- end of tables -->") :]
    assert len(emptied) < len(page) and make.page_with_tables(emptied) == page


def test_a_comparison_says_in_how_many_seeds_it_holds(make):
    results = {
        "measure": "accuracy",
        "weak": {
            "w": {"label": "Weak", "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "accuracy_per_seed": [0.4, 0.6]}
        },
        "methods": {
            "m": {"label": "Mine", "accuracy": 0.55, "accuracy_interval": [0.5, 0.6], "accuracy_per_seed": [0.6, 0.5]}
        },
        "comparisons": [
            {"first": "m", "second": "w", "difference": 0.05, "interval": [None, 0.2]}
            | {"p_value": 0.0625, "p_holm": 0.125}
        ],
    }
    assert make.tables(results).splitlines()[-1] == "| Mine | Weak | +0.050 [-∞, +0.200] | 1 of 2 | 0.062 | 0.12 |"


def test_the_figures_have_the_words_of_the_results(make, tmp_path):
    """Words, not bytes: another font or processor moves a line by a hair."""

    def words(path: Path) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text(encoding="utf-8"))

    made = make.draw(tmp_path)
    assert {path.name for path in made} == {path.name for path in (FOLDER / "figures").glob("*.svg")}
    for path in made:
        assert words(path) == words(FOLDER / "figures" / path.name) != []


def test_published_results_name_no_folder_of_the_machine(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "RESULTS", tmp_path / "results")
    make.RESULTS.mkdir()
    ran = {
        "config": {"data_dir": "/home/me/slurp", "output_dir": "/home/me/x"},
        "mcnemar": [1],
        "command": "run /home/me",
    }
    (tmp_path / "results.json").write_text(json.dumps(ran))
    path = make.publish(tmp_path / "results.json", "mine", "run path/to/slurp")
    assert "/home" not in path.read_text() and "mcnemar" not in make.read(path)


def test_fewer_seeds_do_not_take_the_place_of_more(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "RESULTS", tmp_path / "results")
    make.RESULTS.mkdir()
    ran = tmp_path / "results.json"
    for seeds, written in (([0, 1], True), ([0], False), ([0, 2, 3], False), ([0, 1, 2], True)):
        before = {path: path.read_text() for path in make.RESULTS.iterdir()}
        ran.write_text(json.dumps({"config": {}, "seeds": seeds}))
        if written:
            assert make.read(make.publish(ran, "mine"))["seeds"] == seeds
        else:
            with pytest.raises(SystemExit, match=r"has seeds that .* has not, \[1\]; move it away"):
                make.publish(ran, "mine")
            assert {path: path.read_text() for path in make.RESULTS.iterdir()} == before


def test_fewer_seeds_are_refused_before_they_are_run(make, monkeypatch):
    monkeypatch.setattr("trl_weaks.study.pipeline.launch.launch", lambda *given: pytest.fail("it was run"))
    left_out = make.read(make.RESULTS / "intent_minilm.json")["seeds"][1:]
    assert len(left_out) > 1
    with pytest.raises(SystemExit, match=re.escape(f"has seeds {left_out}, which --seeds leaves out")):
        make.run("intent_minilm", "data", ["--seeds", "0", "99"], "runs")


def test_every_file_of_results_that_a_page_names_is_there():
    pages = [FOLDER.parents[1] / "README.md", *FOLDER.parent.rglob("*.md")]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"\bresults/([\w/]+\.json(?:\.gz)?)", page.read_text(encoding="utf-8"))
    }
    named -= {(page, name) for page, name in named if "NAME" in name}
    assert len(named) > 10 and [one for one in named if not (FOLDER / "results" / one[1]).is_file()] == []


def test_every_forest_plot_is_linked_from_its_table(make):
    pages = "".join(page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md"))
    for path in RESULTS:
        if make.has_forest_plot(path.stem, make.read(path)):
            assert f"[Figure](figures/{path.name.replace('.json', '.svg')})" in pages


def test_of_one_strength_the_study_with_the_most_seeds_is_drawn(make, tmp_path, monkeypatch):
    import curves

    config = {"weak_models": ["tiny:gpt2", "tiny:opt", "tiny:gpt_neox"], "task": "scenario"}
    row = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "pgr": 0.5, "pgr_interval": [0.3, None]}

    def of(size, seeds, vote):
        rows = {"naive": row, "ceiling": row, "mean_vote": row | {"accuracy": vote}}
        sizes = {"num_gold": size, "student_model": "pypi:minilm"}
        return {"config": config | sizes, "seeds": list(range(seeds)), "weak_mean": 0.4, "methods": rows}

    plots = {}
    monkeypatch.setattr(curves, "_plot", lambda path, lines, *given, **more: plots.update({path.stem: lines}))
    curves.draw({"a": of(1000, 3, 0.6), "b": of(1000, 5, 0.7), "c": of(300, 1, 0.3), "d": {"seeds": [0]}}, tmp_path)
    assert [point[:2] for point in plots["curve_strength"]["mean vote"]] == [(300, 0.3), (1000, 0.7)]
    assert plots["curve_strength_pgr"] == {"student": [(300, 0.5, [0.3, None]), (1000, 0.5, [0.3, None])]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["scenario_minilm"], "--run needs --data_dir"),
        (["dialogues_smollm2"], "--run needs --data_dir: a folder with turns.jsonl.gz"),
        (["field_slots", "--data_dir", "slurp"], "field_slots is on the grammar of the package"),
    ],
)
def test_a_study_without_its_data_or_with_others_is_refused_with_what_to_do(given, message, make, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make.py", "--run", *given])
    with pytest.raises(SystemExit):
        make.main()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "scenario_minilm",
        "scenario_minilm_field",
        "annotators_intent_minilm_seed0",
        "trusted_scenario_minilm_seed0",
        "scenario_minilm_10_seeds",
        "scenario_smollm2",
        "intent_minilm",
        "intent_minilm_9_epochs",
        "slots_smollm2",
        "slots_smollm2_four",
        "dialogues_smollm2",
        "field_classification",
        "field_slots",
    ],
)
def test_a_study_is_run_with_the_command_that_its_results_name(name, make, monkeypatch, tmp_path):
    """What `--run` starts, and what it says it started; and where there are results, that these came of the same."""
    seen = {}
    monkeypatch.setattr(
        "trl_weaks.study.pipeline.launch.launch",
        lambda *given: seen.update(task=given[0], given=given[1], said=given[2]),
    )
    monkeypatch.setattr(make, "published", lambda *given: None)
    monkeypatch.setattr(make, "refuse_fewer_seeds", lambda *given: None)
    data = "" if name in make.EMBEDDED else "data"
    where = "path/to/dialogues" if name == "dialogues_smollm2" else "path/to/slurp"
    make.run(name, data, ["--seeds", "0"], str(tmp_path))
    said, given = (["--data_dir", where], ["--data_dir", data]) if data else ([], [])
    assert seen["said"].startswith("trl-weaks study --task ")
    assert seen["said"].endswith(" ".join(["--seeds 0", *said])) and seen["said"].count("--seeds") == 1
    assert {one for one in seen["given"] if "{" in one} <= set(shlex.split(seen["said"]))  # a shell reads it so
    assert seen["given"][-len(given) - 4 :] == ["--seeds", "0", *given, "--output_dir", str(tmp_path / name)]
    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.tasks.find import config_class

    config = parse(config_class(seen["task"]), seen["given"])
    if (path := make.RESULTS / f"{name}.json").is_file():
        kept = make.read(path)["config"]
        settings = ["methods", "num_gold", "num_weak", "num_test", "student_training"]
        settings += ["task"] * hasattr(config, "task")
        for setting in settings + ["compare"] * bool(config.compare):
            assert getattr(config, setting) == kept[setting]


@pytest.mark.parametrize(
    "name",
    ["scenario_minilm", "annotators_intent_minilm_seed0", "slots_smollm2_four", "dialogues_smollm2", "field_slots"],
)
def test_other_settings_than_the_published_are_refused_before_they_are_run(name, make, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr("trl_weaks.study.pipeline.launch.launch", lambda *given: started.append(given))
    monkeypatch.setattr(make, "published", lambda *given: None)
    data = None if name in make.EMBEDDED else "data"
    seeds = ["--seeds", *map(str, make.read(make.RESULTS / f"{name}.json")["seeds"])]
    make.run(name, data, [*seeds, "--workers", "1"], str(tmp_path))
    assert len(started) == 1
    with pytest.raises(SystemExit, match=rf"{name}\.json was made with other settings: num_test\. Leave"):
        make.run(name, data, [*seeds, "--num_test", "17"], str(tmp_path))
    assert len(started) == 1
    make.run(name, data, [*seeds, "--num_tests", "17"], str(tmp_path))  # the study knows no such setting, and says so
    assert len(started) == 2


def test_the_rows_that_cost_more_than_a_tenth_over_one_student_are_those_that_the_page_names():
    """The table's numbers against the sentence below it; and every row of the field is in the table."""
    text = (FOLDER.parent / "reference" / "field.md").read_text(encoding="utf-8")
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and line.count(" | ") == 6]
    costs = {row: cell[4] for cell in cells for row in re.findall(r"`(\w+)`", cell[1])}
    assert set(class_field()) | set(completion_field()) <= {*costs, "naive", "on_glad", "on_mace", "on_wawa"}
    dear = {
        row for row, cost in costs.items() if any(float(n) > 1.1 for n in re.findall(r"\d\.\d", cost.split(":")[0]))
    }
    named = {"on_glad", "on_mace", "on_student_dawid_skene", "trusted", "on_mbr", "on_rover", "ilr"}
    named |= {method.name for method in class_field().values() if method.after}
    named |= {"prefer_cdpo", "prefer_cw", "prefer_surest"}
    cheap_beside_dear = {"on_wawa", "surer_half", "strong_on_a", "naive"}  # in the same cell
    assert dear - cheap_beside_dear == named


def test_results_are_of_a_changed_commit_only_where_code_was_changed(make, tmp_path, monkeypatch):
    """What the evidence writes itself, before it asks for the commit, is no change of the code."""
    folder = tmp_path / "docs" / "evidence"
    (folder / "results" / "scores").mkdir(parents=True)
    files = [folder / "results" / "a.json", folder / "index.md", folder / "make.py", tmp_path / "code.py"]
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for path in files:
        path.write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(make, "FOLDER", folder)
    clean = make.commit()
    assert re.fullmatch(r"[0-9a-f]{7,}", clean)
    for path, said in zip(files, (clean, clean, f"{clean}-dirty", f"{clean}-dirty"), strict=True):
        path.write_text("2")
        assert make.commit() == said, path
        path.write_text("1")
    (folder / "results" / "scores" / "new.json.gz").write_text("2")
    assert make.commit() == clean
    monkeypatch.setattr(make, "FOLDER", tmp_path.parent)
    assert make.commit() is None
