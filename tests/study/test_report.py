"""The files of a report: what stands in them, when it is refused, and that they are whole or absent."""

import json
import sys

import numpy as np
import pytest
from readable import unreadable

from trl_weaks.metrics.agreement import slot_agreement
from trl_weaks.study import files
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.report import markdown
from trl_weaks.study.report.results import ACCURACY
from trl_weaks.study.report.story import Story
from trl_weaks.study.report.write import write_report

STORY = Story(
    title="A test of reports",
    about=["The sentences are made up."],
    notes=["Tiny models show the plumbing, not the effect."],
    command="accelerate launch examples/slot_filling.py",
    stage_seconds={"weak": 61.2},
    preference={"pairs kept": 17},
)


def system(name, role, rate, seed, runs=2, **more):
    samples = (np.random.default_rng(seed).uniform(size=(runs, 300)) < rate).astype(float)
    return {"name": name, "label": name.title(), "role": role, "samples": samples, **more}


def crew(ceiling=0.8):
    return [
        system("gpt", "weak", 0.4, 0, unparsable=np.zeros((2, 300))),
        system("opt", "weak", 0.5, 1, unparsable=np.eye(2, 300)),
        system("bayes|aux", "method", 0.65, 2, extra={"auroc": 0.71}),
        system("ceiling", "ceiling", ceiling, 3),
    ]


def write(folder, systems=None, **more):
    options = {
        "seeds": [0, 1],
        "config": {"learning_rate": 1e-3, "path": folder / "x"},
        "environment": {"machine": "two cores", "date": "today", "versions": {"torch": "2.13", "trl": "1.16"}},
        "agreement": slot_agreement({"gpt": [[("date", "today")], []], "opt": [[("date", "today")], [("time", "x")]]}),
        "word_confidences": {"gpt": ([0.9, 0.5, 0.1], [1, 1, 0]), "opt": ([0.8, 0.8, 0.4], [1, 0, 0])},
        "story": STORY,
        "measure": ACCURACY,
        "resamples": 200,
    }
    return write_report(folder, systems or crew(), **(options | more))


def table_rows(text):
    return {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}


def test_results_json_has_the_agreed_shape(tmp_path):
    returned = write(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    method = found["methods"]["bayes|aux"]
    assert set(method) >= {"label", "accuracy", "accuracy_per_seed", "pgr", "pgr_interval", "pgr_per_weak"}
    assert isinstance(found["ceiling"], float) and found["methods"]["ceiling"]["accuracy"] == found["ceiling"]
    assert list(found["weak"]) == ["gpt", "opt"] and found["seeds"] == [0, 1] and found["pgr_refused"] is None
    assert found["config"]["learning_rate"] == 1e-3 and found["environment"]["versions"]["trl"] == "1.16"
    assert found["calibration"]["gpt"]["bins"]["accuracy"][3] is None  # an empty bin; JSON has no NaN
    assert found["agreement"]["exact_match"] == 0.5 and found["preference"] == {"pairs kept": 17}
    low, high = method["pgr_interval"]
    assert low < method["pgr"] < high and method == returned["methods"]["bayes|aux"]


def test_a_column_of_what_cannot_be_read_stands_where_something_is_read_and_is_explained(tmp_path):
    def first_table():
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        return text, table_rows(text.partition("## ")[0])

    write(tmp_path)
    text, rows = first_table()
    assert rows["system"].endswith("| unparsable |") and "Unparsable is the share of answers" in text
    assert rows["Opt"].endswith("| 0.3% |") and rows["Ceiling"].endswith("| – |")
    write(tmp_path, [{k: v for k, v in row.items() if k != "unparsable"} for row in crew()])
    text, rows = first_table()
    assert "nparsable" not in text and {row.count(" | ") for row in rows.values()} == {4}


def test_report_says_what_the_results_say(tmp_path):
    results = write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    row, method = table_rows(text)["Bayes\\|Aux"], results["methods"]["bayes|aux"]
    first = next(line for line in text.splitlines() if line.startswith("| Bayes"))
    low, high = method["accuracy_interval"]
    assert f"{method['accuracy']:.4f} ± {(high - low) / 2:.4f}" in first
    assert " ".join(f"{value:.4f}" for value in method["accuracy_per_seed"]) in first
    assert f"{results['weak_mean']:.4f} / {method['accuracy']:.4f} / {results['ceiling']:.4f}" in first
    assert markdown.pgr_text(method["pgr"], method["pgr_interval"]) in first
    assert "0.7100" in row  # the last table with this system: other scores
    assert "| 0.3% |" in text  # two of 600 outputs of opt did not parse
    for words in ("A test of reports", "made up", "plumbing", "accelerate launch", "| weak | 61 |", "pairs kept: 17"):
        assert words in text
    for words in ("two cores", "today", "torch 2.13", "seeds: 0, 1", "300 test examples", "exact match"):
        assert words in text
    assert "![" in text and "(pgr.png)" in text and "(reliability.png)" in text
    assert all(line.count(" | ") == first.count(" | ") for line in text.split("\n\n")[1].splitlines())


def test_pgr_is_refused_with_the_reason(tmp_path):
    results = write(tmp_path, crew(ceiling=0.45))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["methods"]["bayes|aux"]["pgr"] is None is found["methods"]["bayes|aux"]["pgr"]
    assert "PGR is refused.** PGR is undefined: the ceiling" in text and "does not exceed opt" in text
    first = next(line for line in text.splitlines() if line.startswith("| Bayes"))
    assert "| refused |" in first and f"{results['ceiling']:.4f}" in first
    assert found["pgr_refused"] == results["pgr_refused"]
    assert (tmp_path / "pgr.png").is_file()


def test_supervisors_and_a_ceiling_at_the_floor_are_told_with_the_remedy(tmp_path):
    """0.5 is what the largest of two even classes gives: opt's 0.5 is no better, gpt's 0.4 even worse."""
    assert write(tmp_path / "high")["at_floor"] == []  # answers of which many are right
    assert "At the floor" not in (tmp_path / "high" / "report.md").read_text(encoding="utf-8")
    assert write(tmp_path / "classes", floor=0.5)["at_floor"] == ["gpt", "opt"]
    text = (tmp_path / "classes" / "report.md").read_text(encoding="utf-8")
    assert "most frequent class (Accuracy 0.5000): Gpt; Opt." in text and "`num_gold`" in text
    assert "`student_model`" not in text
    none = [system("gpt", "weak", 0, 0), system("opt", "weak", 0.3, 1), system("mine", "method", 0, 2)]
    none[2]["samples"][:, :3] = 1.0  # three right of 300: the interval reaches down to none
    assert write(tmp_path / "text", [*none, system("top", "ceiling", 0, 3)])["at_floor"] == ["gpt", "mine", "top"]
    text = (tmp_path / "text" / "report.md").read_text(encoding="utf-8")
    assert "nothing right (Accuracy 0.0000): Gpt; Mine; Top." in text
    assert "`student_model`" in text and "`num_gold`" in text


def test_an_unresolved_gap_is_printed_as_unbounded(tmp_path):
    systems = crew()
    systems[3]["samples"] = systems[1]["samples"].copy()
    for run in systems[3]["samples"]:
        run[np.flatnonzero(run == 0)[:3]] = 1  # better on three sentences, worse on two
        run[np.flatnonzero(run == 1)[-2:]] = 0
    results = write(tmp_path, systems)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert results["methods"]["bayes|aux"]["pgr_interval"] == [-np.inf, np.inf]
    assert "[−∞, +∞]" in text and "too small to tell the ceiling" in text
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["methods"]["bayes|aux"]["pgr_interval"] == [None, None]


def test_no_number_is_raw_and_none_is_nan(tmp_path):
    """Agreement and settings may hold what has no value, and floats of seventeen digits."""
    third = 1 / 3
    agreement = {"pairs": [{"first": "gpt", "second": "opt", "exact_match": third, "span_f1": np.nan}]}
    agreement |= {"exact_match": third, "span_f1": np.nan, "all_agree": third}
    told = {"share": third, "of none": np.nan, "each": {"a": third, "b": None}, "list": [third, np.inf]}
    environment = {"machine": "two cores", "load": third}
    write(tmp_path, agreement=agreement, story=Story(preference=told), environment=environment)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert unreadable(text) == []
    assert "- share: 0.3333" in text and "- of none: –" in text and "- each: a 0.3333, b –" in text
    assert "- list: 0.3333, –" in text and "| gpt, opt | 0.3333 | – |" in text


def test_figures_stand_in_the_report(tmp_path):
    curves = [{"name": "mine", "points": [[1, 0.5], [2, 0.4]]}, {"name": "untrained", "points": []}]
    write(tmp_path, curves=curves)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("pgr.png", "reliability.png", "agreement.png", "curves.png"):
        assert text.count(f"]({name})") == 1 and (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, config={})
    for file in ("report.md", "results.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_least_report(tmp_path):
    bare = {"agreement": None, "word_confidences": None, "story": None}
    write(tmp_path, [system("w", "weak", 0.4, 0), system("c", "ceiling", 0.8, 1)], **bare)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Calibration" not in text and "Agreement" not in text and "Preference" not in text
    assert "PGR against each" not in text and not (tmp_path / "reliability.png").exists()


def test_without_matplotlib_the_report_says_so(tmp_path, monkeypatch):
    (tmp_path / "pgr.png").write_bytes(b"an old figure")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "`pgr.png` was left out: matplotlib could not be imported" in text and "trl-weaks[plots]" in text
    assert "`reliability.png` was left out" in text and "![" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "results.json"]


def test_runs_must_match_the_seeds(tmp_path):
    with pytest.raises(ValueError, match="gpt: samples of 2 runs for the 3 seeds"):
        write(tmp_path / "out", seeds=[0, 1, 2])
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    target.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(target, b"new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_environment_names_versions_and_no_host():
    import platform

    found = describe_environment(packages=("numpy", "surely-not-installed"))
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["surely-not-installed"] == "not installed"
    assert "usable cores" in found["machine"] and platform.node() not in str(found)


def test_a_gain_audit_with_too_few_methods_is_one_sentence():
    from trl_weaks.study.report.diagnostics.base import Diagnostics, diagnose, diagnostics_section

    few = {f"m{i}": {"misfit": [0.1 * i], "disagreement": [0.2]} for i in range(2)}
    found = diagnose(Diagnostics(few), {"m0": [0.5], "m1": [0.6], "w": [0.4]}, {"m0": ["w"], "m1": ["w"]})
    text = diagnostics_section(found, {"m0": "M0", "m1": "M1"})
    assert "rank correlation of a diagnostic with the realised gain needs 3 methods, and has 2." in text
    assert "| diagnostic |" not in text
