"""A stranger's task and methods, each an object in one file of theirs: run, resumed, compared, and refused by name."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import processes
import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_from_disk
from safetensors.torch import load_file

import trl_weaks
from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS, NotComputable
from trl_weaks.aggregation.boosted import boosted_weights
from trl_weaks.losses import LOSSES, register_loss
from trl_weaks.study import ClassificationTask, Example, Method, PreferenceMethod, Splits, run_study
from trl_weaks.study.config import ClassificationConfig, ClassStudyConfig, CompletionStudyConfig, SlotFillingConfig
from trl_weaks.study.field_methods import OF_THE_PAPER, class_field, completion_field, field_comparisons
from trl_weaks.study.methods import choose_methods
from trl_weaks.study.pipeline import completions
from trl_weaks.study.pipeline.check_settings import try_method
from trl_weaks.study.pipeline.completions import _labels_of as labels_of
from trl_weaks.study.pipeline.label_views import transformed
from trl_weaks.study.pipeline.predictions import predict_completions, read_predictions
from trl_weaks.study.pipeline.refined_labels import ANSWERS, COUNTED, HALVES, Refinement, refined_folder
from trl_weaks.study.pipeline.room import check_room
from trl_weaks.study.pipeline.run import KINDS, claim, leave_out_refused, optional_rows, seed_runs
from trl_weaks.study.pipeline.students.training import refuse_broken_weights
from trl_weaks.study.report.results import score_systems
from trl_weaks.study.table_config import ClassTableConfig, CompletionTableConfig
from trl_weaks.study.tasks.checks import check_splits, measure_of
from trl_weaks.study.tasks.find import in_own_folder
from trl_weaks.study.tasks.table import ClassTable, CompletionTable
from trl_weaks.supervisors.classifier import WeakClassifier

SIZE = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 64}
SMALL = {
    "tiny_models": dict.fromkeys(["gpt2", "opt", "llama"], SIZE),
    "weak_models": ["tiny:gpt2", "tiny:opt"],
    "workers": 1,
    "weak_training": {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 5e-3},
    "student_training": {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 5e-3},
}
COMPLETIONS = SMALL | {"num_candidates": 2, "max_new_tokens": 6}
SHORT = {"student_model": "tiny:llama", "tiny_models": SMALL["tiny_models"] | {"llama": SIZE | {"max_length": 8}}}
CAPS = {"num_gold": 24, "num_weak": 16, "num_validation": 4, "num_test": 12}

ANYWAY = ("ceiling", "strong_on_a", "joint_answer")  # rows beside the methods

TASK_FILE = """
from trl_weaks.study import CompletionTask, Example, Splits


class Sums(CompletionTask):
    name = "sums"

    def splits(self, seed):
        made = [Example(f"{a}-{b}", f"{a} + {b}", a + b) for a in range(9) for b in range(9)]
        return Splits(made[:30], made[30:55], made[55:60], made[60:])

    def prompt(self, example):
        return f"{example.text} =\\n"

    def completion(self, example):
        return str(example.target)

    def score(self, completion, example):
        return {"exact_match": float(completion.strip() == str(example.target)), "length": float(len(completion))}


TASK = Sums()
"""
METHODS_FILE = """
from trl_weaks.aggregation import COMPLETION_AGGREGATORS, CompletionAggregator
from trl_weaks.losses import register_loss
from trl_weaks.study import Method


def shortest(candidates):
    return [min(candidates, key=lambda candidate: (len(candidate.text), candidate.text, candidate.finished))]


COMPLETION_AGGREGATORS["shortest"] = CompletionAggregator(shortest)


@register_loss("absolute")
def absolute(logits, targets, progress):
    return (logits.softmax(-1) - targets).abs().sum(-1)


def squared(logits, targets, progress):
    return (logits.softmax(-1) - targets).pow(2).sum(-1)


def short(labels):
    return labels.filter(lambda row: len(row["completion"]) % 2 == 0 or row["example_id"].endswith("0"))


METHODS = [
    Method("brier", "Squared error", loss=squared, settings={"gamma_max": 0.0}),
    Method("shortest", aggregator="shortest", loss="absolute", settings={"gamma_max": 0.0}),
    Method("short", transform=short, loss="naive", settings={"gamma_max": 0.0}, supervisors=("gpt2",)),
]
"""


MADE: dict = {}
exec(TASK_FILE, MADE)
Sums = MADE["Sums"]


class Parity(ClassificationTask):
    name, classes = "parity", ("even", "odd")

    def splits(self, seed):
        made = [Example(str(n), f"Is {n} odd?", "odd" if n % 2 else "even") for n in range(80)]
        return Splits(made[:30], made[30:55], made[55:60], made[60:])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "sums.py").write_text(TASK_FILE)
    (folder / "mine.py").write_text(METHODS_FILE)
    (folder / "small.json").write_text(json.dumps(COMPLETIONS | CAPS | {"student_model": "tiny:llama"}))
    return folder


def command(files, *more):
    options = ["--config", "small.json", "--methods", "naive", "mine.py", "--output_dir", "run"]
    options += ["--compare", "brier", "naive", "short", "ceiling"]
    return ["-m", "trl_weaks.cli", "study", "--task", "sums.py", *options, *more]


def test_one_command_runs_a_strangers_task_and_methods_and_again_does_nothing(files):
    done = processes.run(command(files), cwd=files)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((files / "run" / "results.json").read_text())
    assert list(results["methods"]) == ["naive", "brier", "shortest", "short", *ANYWAY]
    assert results["measure"] == "exact_match" and results["examples"] == 12
    assert results["methods"]["short"]["supervisors"] == ["gpt2"] and "length" in results["methods"]["brier"]
    assert [(pair["first"], pair["second"]) for pair in results["comparisons"]] == [
        ("brier", "naive"),
        ("short", "ceiling"),
    ]
    report = (files / "run" / "report.md").read_text()
    assert "## Comparisons" in report and "Squared error" in report and "trl-weaks study --task sums.py" in report
    stamps = {path: path.stat().st_mtime_ns for path in (files / "run").glob("**/stage.json")}
    assert processes.run(command(files), cwd=files).returncode == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (files / "run").glob("**/stage.json")}
    changed = METHODS_FILE.replace("% 2 == 0", "% 2 == 1").replace(".abs().sum(-1)", ".abs().mul(2).sum(-1)")
    (files / "mine.py").write_text(changed)
    assert processes.run(command(files), cwd=files).returncode == 0
    redone = {path for path, time in stamps.items() if path.stat().st_mtime_ns != time}
    assert {path.parent.relative_to(files / "run" / "seed-0").as_posix() for path in redone} == {
        "students/short",
        "predictions/short",
        "students/shortest",
        "predictions/shortest",
    }, "code that changed is seen, by what it changes alone"


def test_the_folder_is_named_after_the_task_and_holds_no_other_ones_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_own_folder(CompletionStudyConfig(**COMPLETIONS), Sums()).output_dir == "runs/sums"
    away = type("Away", (Parity,), {"name": "../even: or odd?"})()
    assert in_own_folder(ClassStudyConfig(**SMALL), away).output_dir == "runs/_even_or_odd_"
    config = ClassStudyConfig(**SMALL, output_dir="here")
    claim(config, Parity())
    assert in_own_folder(config, Parity()) == config
    with pytest.raises(ValueError, match="here holds the study of the task 'parity', not of 'sums'. Name another"):
        run_study(Sums(), ["naive"], None, "here", **COMPLETIONS | CAPS | {"student_model": "tiny:llama"})
    named = {ClassificationConfig(task=task).output_dir for task in ("entertainment", "intent")}
    assert named == {"runs/classification", "runs/classification_intent"}
    assert SlotFillingConfig().output_dir == "runs/slot_filling"


def test_a_study_in_one_call(tmp_path):
    mine = Method("mine", transform=lambda labels: labels.select(range(10)), loss="naive", settings={"gamma_max": 0.0})
    settings = COMPLETIONS | CAPS | {"compare": ["mine", "naive"]}
    found = run_study(Sums(), ["naive", mine], "tiny", tmp_path, **settings)
    page = (tmp_path / "view.html").read_text()
    assert (
        '"id":"6-6"' in page
        and '"systems":["naive","mine","ceiling","strong_on_a","joint_answer"]' in page
        and "12 test ex" in page
    )
    assert found.report.is_file() and 0 <= found["mine"]["exact_match"] <= 1
    assert found.results["comparisons"][0]["first"] == "mine" and found["gpt2"]["role"] == "weak"
    with pytest.raises(KeyError, match="no row 'other'; there are"):
        _ = found["other"]


def test_a_classification_task_of_ones_own(tmp_path):
    kept = Method("first", transform=lambda votes: votes.select(range(12)), loss="naive", settings={"gamma_max": 0.0})
    found = run_study(
        Parity(), ["naive", kept], "tiny", tmp_path, **SMALL | CAPS | {"compare": ["first", "mean_vote"]}
    )
    assert '"text":"odd"' in (tmp_path / "view.html").read_text()
    assert found.results["classes"] == ["even", "odd"] and found.results["measure"] == "accuracy"
    assert found["first"]["role"] == "method" and len(found.results["comparisons"]) == 1


def test_half_b_without_gold_has_a_ceiling_on_half_a(tmp_path):
    class Unlabelled(Sums):
        def splits(self, seed):
            found = super().splits(seed)
            return replace(found, half_b=[replace(example, target=None) for example in found.half_b])

        def completion(self, example):
            assert example.target is not None, "gold of half B was asked for"
            return super().completion(example)

    found = run_study(Unlabelled(), ["naive"], "tiny", tmp_path, **COMPLETIONS | CAPS | {"num_weak": 10})
    assert (
        list(found.results["methods"]) == ["naive", "ceiling", "joint_answer"]
        and "half B has none" in found["ceiling"]["label"]
    )


class Changed(Sums):
    """A task with one thing wrong."""

    def __init__(self, change=None, **methods):
        self.change = change
        for name, method in methods.items():
            setattr(self, name, method)

    def splits(self, seed):
        found = super().splits(seed)
        return self.change(found) if self.change else found


class Unlabelled(Sums):
    """Has its tiny student pre-trained."""

    def unlabelled(self, size):
        return ["1 + 1 =", "2 + 3 =", "7 + 1 ="]


class Needy(Sums):
    def __init__(self, size):
        self.size = size


class ByTheSeed(Sums):
    """Another test split for every seed."""

    def splits(self, seed):
        found = super().splits(seed)
        return replace(found, test=found.test[seed:])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("no_task", {}, "Unknown task 'no_task'. Known: classification, slot_filling, completions, classes;"),
        ("slot_fillings", {}, "Did you mean 'slot_filling'"),
        ("nowhere.py", {}, "no such file: .*nowhere.py"),
        (Changed(lambda s: None), {}, "task 'sums': `splits` gave a NoneType"),
        (Changed(lambda s: replace(s, half_b=[])), {}, "task 'sums': `half_b` is empty"),
        (Changed(lambda s: replace(s, test=[{"id": "1"}])), {}, "`test`, example 0 is a dict; it must be an `Exam"),
        (Changed(lambda s: replace(s, test=[Example("x", " ", 1)])), {}, "the text ' ' must not be empty"),
        (Changed(lambda s: replace(s, test=[Example(7, "7", 1)])), {}, "the id 7 must be text"),
        (Changed(lambda s: replace(s, test=[Example("0-0", "z", 1)])), {}, "id '0-0' is in `half_a` already; ids mus"),
        (Changed(lambda s: replace(s, test=[Example("x", "0  + 0", 1)])), {}, "stands in `half_a` too .example '0-0'"),
        (Changed(lambda s: replace(s, test=[Example("x", "z")])), {}, "`test`, example 0 .'x'.: there is no target"),
        (ByTheSeed(), {"seeds": [0, 1]}, r"the test splits of the seeds \[0, 1\] differ, so they cannot be paired"),
        (Changed(score=lambda c, e: {"f": float("nan")}), {}, "example '6-6', the answer '12': the score nan is no f"),
        (Changed(score=lambda c, e: {"f": math.nan if e.target > 15 else 1.0}), {}, "'8-8', the answer '16': the sco"),
        (Changed(score=lambda c, e: {"f": None}), {}, "example '6-6', the answer '12': the score None is no finite"),
        (Changed(score=lambda c, e: {"f": np.ones(2)}), {}, "the score array.* is no finite number"),
        (Changed(score=lambda c, e: 1.0), {}, "`score` gave 1.0; it must give a dict of scores by name"),
        (Changed(score=lambda c, e: dict.fromkeys("ab" if c else "ba", 1.0)), {}, r"gives \['a', 'b'\] for the gold"),
        (Changed(lambda s: replace(s, half_a=None)), {}, "a split is no list of `Example`s"),
        (dict, {}, "the task is <class 'dict'>; it must be a CompletionTask"),
        (Needy, {}, "is a class that its `from_config` cannot make from the settings alone: .*size.* Give a task"),
        (Changed(), {"compare": ["naive", "naive"]}, "the row 'naive' is compared with itself"),
        (Changed(score=lambda c, e: {}), {}, "it has no score"),
        (Changed(score=lambda c, e: dict.fromkeys("ab"[: 1 + bool(c)], 1.0)), {}, "the answer '': 1 scores, where"),
        (
            Changed(score=lambda c, e: {"m": 1.0, "pgr": 0.5}),
            {},
            "a score cannot be called 'pgr', as every row has an",
        ),
        (Changed(score=lambda c, e: {"m": 1.0, "m_interval": 0.5}), {}, "a score cannot be called 'm_interval'"),
        (Changed(score=lambda c, e: {1: 1.0}), {}, "the name 1 of a score is no text"),
        (
            Changed(score=lambda c, e: {"m": {}["x"]}),
            {},
            "example '6-6', the answer '12': `score` raised KeyError.'x'",
        ),
        (
            Changed(score=lambda c, e: {"m": 1 / len(c)}),
            {},
            "example '6-6', the answer '': `score` raised ZeroDivision",
        ),
        (
            Changed(score=lambda c, e: {"wer": float(c != str(e.target))}),
            {},
            "the headline score 'wer' is 0 for gold answers and 1 for empty ones. Higher must be better",
        ),
        (
            Changed(lambda s: replace(s, half_b=[*s.half_b, Example("x", "z"), Example("y", "zz")])),
            {},
            "25 of the 27 examples of `half_b` have gold, and 'x' has none. The ceiling needs all",
        ),
        (Changed(completion=lambda e: 5), {}, "its completion is 5; it must be text"),
        (Changed(), {"num_gold": 0}, "`num_gold` must be a whole number, at least 1; got 0"),
        (Changed(), {"num_test": -5}, "`num_test` must be a whole number, at least 1; got -5"),
        (Changed(), {"num_weak": 9.0}, "`num_weak` must be a whole number, at least 1; got 9.0"),
        (Changed(), {"num_validation": True}, "`num_validation` must be a whole number, at least 0; got True"),
        (Changed(), {"max_examples": -1}, "`max_examples` must be a whole number, at least 1; got -1"),
        (Changed(), {"workers": "2"}, "`workers` must be a whole number, at least 1; got '2'"),
        (Changed(), {"seeds": 3}, "`seeds` must be a list; got 3"),
        (Changed(), {"seeds": [0, -1]}, r"`seeds` must be whole numbers from 0 to 2\*\*32 - 1; got \[0, -1\]"),
        (Changed(), {"seeds": [0.5]}, "`seeds` must be whole numbers"),
        (Changed(), {"seeds": [2**32]}, "`seeds` must be whole numbers"),
        (Changed(), {"compare": "naive ceiling"}, "`compare` must be a list; got 'naive ceiling'"),
        (Changed(), {"weak_models": "tiny:gpt2"}, "`weak_models` must be a list; got 'tiny:gpt2'"),
        (Changed(), {"nun_gold": 3}, "unknown setting 'nun_gold'. Did you mean 'num_gold'"),
        (Changed(), {"num_gold": 31}, "`num_gold` asks for 31 examples; the task 'sums' has 30 in `half_a`"),
        (Changed(), {"use_peft": True}, "`use_peft`: an adapter on random weights cannot be loaded again"),
        (Changed(), {"pretraining": {"sentences": 3}}, "`pretraining`: the task 'sums' has no unlabelled text"),
        (Changed(), {"compare": ["naive"]}, "`compare` takes rows two by two"),
        (Changed(), {"compare": ["naive", "other"]}, "`compare`: there is no row 'other'; there are gpt2"),
        (Changed(), {"weak_models": []}, "`weak_models` is empty"),
        (Changed(prompt=lambda e: [{"role": "user", "content": e.text}]), {}, "is messages, and the tokenizer of"),
        (
            Changed(completion=lambda e: "long " * 60 + e.id),
            {},
            "has .* tokens of prompt and .* of completion .and an",
        ),
        (
            Changed(prompt=lambda e: e.text * (99 if e.id == "8-8" else 1)),
            {},
            "`test`, example '8-8': its prompt has .* tokens for supervisor 'gpt2', its answer may have 6: more than "
            "the 64 positions of gpt2. Lower `max_new_tokens`, raise `max_length`",
        ),
        (
            Changed(prompt=lambda e: e.text * (20 if e.id == "3-4" else 1)),
            {},
            "`half_b`, example '3-4': its prompt has",
        ),
        (
            Changed(prompt=lambda e: e.text * (20 if e.id == "0-0" else 1)),
            {},
            "`half_a`, example '0-0': it has .* end",
        ),
        (Changed(completion=lambda e: "z" * (80 if e.id == "6-3" else 1)), {}, "`validation`, example '6-3': it has"),
        (
            Changed(completion=lambda e: "z" * (80 if e.id == "3-4" else 1)),
            {},
            "`half_b`, .*'3-4': .* for the student",
        ),
        (Changed(), SHORT, "`.*: more than the 8 positions of llama"),
        (Unlabelled(), SHORT, ".* tokens for the student.* 8 positions of llama"),
        (Changed(prompt=lambda e: None), {}, "`half_a`, example 0 .'0-0'.: its prompt holds a NoneType; it must be a"),
        (
            Changed(prompt=lambda e: "" if e.id == "8-8" else "p"),
            {},
            "`test`, example 20 .'8-8'.: its prompt is empty",
        ),
        (
            Changed(prompt=lambda e: " "),
            {},
            "example 0 .'0-0'.: its prompt is ' '; it must be text, or a list of mess",
        ),
        (
            Changed(prompt=lambda e: 7 if e.id == "3-3" else "p"),
            {},
            "example 0 .'3-3'.: its prompt holds a int; it mu",
        ),
        (Changed(prompt=lambda e: [e.text]), {}, "its prompt holds a list; it must be a string or a list of messages"),
        (
            Changed(prompt=lambda e: [{"role": "user", "content": "x"}] if e.id == "8-8" else "p"),
            {},
            "example 20 .'8-8'.: its prompt mixes text and messages",
        ),
        (
            Changed(prompt=lambda e: f"{e.text} = {e.target if e.id == '6-6' else ''}"),
            {},
            "`test`, example 0 .'6-6'.: its prompt changes where 0 stands in its target's place, 12. The answer must ",
        ),
        (
            Changed(prompt=lambda e: f"{e.text} {12 // e.target if e.target else '-'}"),
            {},
            "its prompt changes where 1 s",
        ),
        (
            Changed(prompt=lambda e: e.text + str([e.target].index(sum(map(int, e.id.split("-")))))),
            {},
            "its prompt cannot be made with another target, 1: ValueError",
        ),
        (
            Changed(prompt=lambda e: f"{random.random()}"),
            {},
            "its prompt is another one at the next call; let it depend",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_named_before_any_training(task, settings, message, tmp_path, monkeypatch):
    def train(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("trl_weaks.study.pipeline.students.completions.train", train)
    monkeypatch.setattr("trl_weaks.study.pipeline.pretrain.train", train)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_study(task, ["naive"], "tiny", tmp_path, **COMPLETIONS | settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no list METHODS"),
        ("METHODS = []", "has no list METHODS"),
        ("METHODS = [3]", r"METHODS\[0\] is a int, not a `Method`"),
        ("METHODS = [Method('naive', loss='bayesian')]", "two methods are called 'naive'; rename one"),
        ("METHODS = [Method('a'), Method('a', 'again')]", "two methods are called 'a'"),
        ("METHODS = [Method('ceiling')]", "cannot be called 'ceiling'"),
        ("METHODS = [Method('gpt2')]", "has the name of a supervisor"),
        ("METHODS = [Method('../x')]", "made of letters"),
        ("METHODS = [Method('a', supervisors=('bob',))]", "there is no supervisor 'bob'; there are"),
        ("METHODS = [Method('a', transform=3)]", "`transform` is 3, which cannot be called"),
        ("METHODS = [Method('a', settings=None)]", "`settings` is None; it must be a dict"),
        ("METHODS = [Method('a', label=3)]", "`label` is 3; it must be text"),
        ("METHODS = [Method('a', supervisors='gpt2')]", r"give a list: \['gpt2'\]"),
        ("METHODS = [Method('a', loss='naive', settings={'weak_loss': 'bayesian'})]", "decide the same; remove one"),
        ("METHODS = [Method('a', loss='nave')]", "method 'a': .*nave"),
        ("METHODS = [Method('a', labels='both')]", "method 'a': 'both' is no completion aggregator; known: indep"),
        (
            "METHODS = [Method('a', settings={'gama_max': 0})]",
            "method 'a' has an unknown setting 'gama_max'. Did you mean 'gamma_max'",
        ),
        ("METHODS = [Method('a', supervisors=('gpt2', 'gpt2'))]", "`supervisors` names one twice"),
        ("METHODS = [Method('a', 'Same'), Method('b', 'Same')]", "the methods 'a' and 'b' have one label, 'Same'"),
        (
            "METHODS = [Method('a', labels='joint', aggregator='mbr')]",
            "`labels='joint'` and `aggregator='mbr'` decide",
        ),
        ("METHODS = [Method('a', transform=lambda: 1)]", "'a': `transform` is called with .labels.: too many pos"),
        ("METHODS = [Method('a', transform=lambda x: x, after='naive')]", "called with .labels, trained.: too many"),
        ("METHODS = [Method('a', loss=lambda x, y: x)]", "method 'a': `loss` raised TypeError.* for logits .4, 7."),
        ("METHODS = [Method('a', loss=lambda x, y, p: x.sum())]", "must return one number per row, shape .4,."),
        ("METHODS = [Method('a', loss=lambda x, y, p: x.sum(-1) / 0)]", "it must give finite numbers"),
        ("1 / 0", "cannot be run: ZeroDivisionError"),
    ],
)
def test_a_file_of_methods_that_cannot_be_used_is_named(text, message, tmp_path):
    path = tmp_path / "methods.py"
    path.write_text(f"from trl_weaks.study import Method\n{text}\n")
    with pytest.raises(ValueError, match=message):
        run_study(Sums(), ["naive", str(path)], "tiny", tmp_path / "run", **COMPLETIONS)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            Method("a", labels="trusted"),
            {},
            "`labels='trusted'` learns from the gold of the validation split, which has",
        ),
        (Method("a", labels="boosted"), {}, "`labels='boosted'` learns from the gold"),
        (Method("a"), {"calibrate": True}, "`calibrate=True` learns from the gold"),
        (Method("a", loss=lambda x, y, p: (x * torch.ones(3)).sum(-1)), {}, "`loss` raised RuntimeError.* .4, 2."),
    ],
)
def test_what_classes_need_is_asked_before_any_training(method, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_study(Parity(), [method], "tiny", tmp_path, **SMALL | CAPS | {"num_validation": 0} | settings)


def test_a_loss_that_is_tried_keeps_its_state_and_may_be_for_one_vocabulary(tmp_path):
    class Counts:
        calls = 0
        linear_in_targets = False

        def __call__(self, logits, targets, progress):
            self.calls += 1
            return (logits * torch.ones(400)).sum(-1)

    loss = Counts()
    try_method(Method("a", loss=loss, transform=len), Sums())
    assert loss.calls == 0


def test_a_student_with_broken_weights_is_not_scored(tmp_path):
    """Its answers would be scored like any other's; the loss is finite where it is tried."""

    def breaks(logits, targets, progress):
        return (logits - targets).sum(-1) * (math.nan if len(logits) > 4 else 1.0)

    settings = COMPLETIONS | CAPS | {"student_model": "tiny:llama", "stages": ["weak", "label", "student"]}
    with pytest.raises(ValueError, match="a: after training the model has weights that are no finite numbers"):
        run_study(Sums(), [Method("a", loss=breaks, settings={"gamma_max": 0.0})], None, tmp_path, **settings)


def test_answers_may_hold_every_line_end_that_unicode_knows(tmp_path):
    answers = ["a\u2028b", "a\u0085b", "a\x1cb\x0b\x0c", "a\r\nb", ""]

    class Says:
        name = "says"

        def answer(self, prompts, **_):
            return [[(answers[int(prompt)], True)] for prompt in prompts]

        def score_fitting(self, prompts, completions, names):
            return [None] * len(prompts)  # as for answers longer than its context

    rows = [{"example_id": f"\u2029{n}", "prompt": str(n)} for n in range(len(answers))]
    predict_completions(Says(), rows, tmp_path, 1, 4, 2)
    assert [row["completion"] for row in read_predictions(tmp_path, [row["example_id"] for row in rows])] == answers


def test_json_lines_are_not_cut_at_other_line_ends():
    package = Path(trl_weaks.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert not [path for path, text in texts.items() if re.search(r"json\.loads\b.*splitlines", text)]


def test_weights_in_pieces_are_looked_at_where_they_lie():
    """A sharded weight is asked for its local part: an operation on the whole would wait for the other processes."""

    def trainer(value):
        piece = SimpleNamespace(to_local=lambda: torch.full((2,), value))
        accelerator = SimpleNamespace(device="cpu", reduce=lambda number, how: number)
        return SimpleNamespace(model=SimpleNamespace(parameters=lambda: [piece]), accelerator=accelerator)

    refuse_broken_weights(trainer(1.0), Path("x"))
    with pytest.raises(ValueError, match="x: after training the model has weights"):
        refuse_broken_weights(trainer(math.inf), Path("x"))


def test_supervisors_get_names_that_no_row_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def names(*models):
        return CompletionStudyConfig(weak_models=models, student_model="x").supervisor_names

    assert names("runs/student", "b") == ["student_1", "b_2"] and names("me/ceiling", "b") == ["ceiling_1", "b_2"]
    assert names(".", "..") == [tmp_path.name.lower(), tmp_path.parent.name.lower()]
    assert names("me/A", "tiny:opt") == ["a", "opt"]


def test_methods_that_are_no_list_are_refused_and_models_may_be_paths(tmp_path):
    with pytest.raises(ValueError, match="`methods` must be a list of names and `Method`s; got 3"):
        run_study(Sums(), 3, "tiny", tmp_path)
    config = CompletionStudyConfig(weak_models=(tmp_path / "A", "b"), student_model=tmp_path / "C", seeds=range(2))
    assert config.supervisor_names == ["a", "b"] and config.seeds == [0, 1]
    assert config.student_model == str(tmp_path / "C")


def test_a_split_may_be_a_generator_and_methods_are_names_or_methods():
    found = check_splits(Sums(), replace(Sums().splits(0), half_a=(one for one in Sums().splits(0).half_a)))
    assert found == replace(found, half_a=tuple(Sums().splits(0).half_a)) and len(found.half_a) == 30
    with pytest.raises(ValueError, match="a method is a name or a `Method`, not 3"):
        run_study(Sums(), ["naive", 3], "tiny", "none", **COMPLETIONS)


@pytest.mark.parametrize("registry", [AGGREGATORS, COMPLETION_AGGREGATORS])
def test_what_is_no_aggregator_is_refused_when_it_is_registered(registry):
    with pytest.raises(ValueError, match="aggregator 'stranger' is 3; give"):
        registry["stranger"] = 3
    with pytest.raises(ValueError, match=r"give CompletionAggregator\(function\)"):
        COMPLETION_AGGREGATORS["stranger"] = sorted
    assert "stranger" not in registry


def test_the_users_code_counts_however_a_method_names_it():
    """By its fields, by its settings, or by those of every student."""

    def add(number):
        def mine(*given):
            return number

        for registry in (LOSSES, AGGREGATORS):
            registry.pop("mine", None)
        register_loss("mine")(mine)
        AGGREGATORS["mine"] = mine

    ways = [
        (Method("a", loss="mine"), {}),
        (Method("a", settings={"weak_loss": "mine"}), {}),
        (Method("a", aggregator="mine"), {}),
        (Method("a", settings={"pooling": "mine"}), {}),
        (Method("a"), {"pooling": "mine"}),
        (Method("a"), {}),
    ]
    try:
        add(1)
        before = [method.spec(settings) for method, settings in ways]
        assert before == [method.spec(settings) for method, settings in ways]
        add(2)
        after = [method.spec(settings) for method, settings in ways]
        assert [a != b for a, b in zip(before, after, strict=True)] == [True] * 5 + [False]
    finally:
        del LOSSES["mine"], AGGREGATORS["mine"]


def test_a_transform_must_give_rows(tmp_path):
    for transform, message in ((lambda rows: None, "gave a NoneType"), (lambda rows: rows.select([]), "left none")):
        with pytest.raises(ValueError, match=f"method 'mine': `transform` {message}"):
            run_study(Sums(), [Method("mine", transform=transform)], "tiny", tmp_path, **COMPLETIONS | CAPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: concatenate_datasets([rows, rows.select([2])]), "row 3 the example_id 'c', which has more rows"),
        (lambda rows: rows.map(lambda row: {"example_id": row["example_id"] + "!"}), "row 0 the .*'a!', which is no"),
        (lambda rows: rows.select([1, 1]), "row 1 the example_id 'b', which has more rows than the labels have of it"),
        (lambda rows: rows.remove_columns("example_id"), "left out the column 'example_id'"),
    ],
)
def test_a_transform_adds_no_rows_and_changes_no_id(change, message):
    rows = Dataset.from_dict({"example_id": list("abc"), "weak_weights": [[0.5, 0.5], [1.0], [1.0]]})
    with pytest.raises(ValueError, match=f"method 'mine': `transform` .*{message}"):
        transformed(rows, Method("mine", transform=change))
    kept = transformed(rows, Method("mine", transform=lambda rows: rows.select([2, 0])))
    assert kept["example_id"][:] == ["c", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda e: f"{e.text} {e.target}", "'parity', `half_a`, example 0 .'0'.: its text changes where 'odd' stands"),
        (lambda e: None, "`half_a`, example 0 .'0'.: its text is None; it must be text, or a list of messages"),
        (
            lambda e: e.text * (99 if e.id == "79" else 1),
            "`test`, example '79': its text has .* supervisor 'gpt2': .* 64 ",
        ),
    ],
)
def test_a_text_to_classify_that_cannot_be_read_is_named_before_any_training(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr("trl_weaks.study.pipeline.students.classes.train", lambda *_: 1 / 0)
    task = Parity()
    task.text = text
    with pytest.raises(ValueError, match=message):
        run_study(task, ["naive"], "tiny", tmp_path, **SMALL | CAPS | {"num_test": None})


def test_room_is_counted_to_the_last_token():
    """Against the tokenizer, row by row: a prompt and all new tokens, or a prompt, its answer and the end."""
    config = CompletionStudyConfig(**COMPLETIONS | CAPS | {"student_model": "tiny:llama"})
    (run,) = seed_runs(config, Sums(), [])
    reader = run.factory.reader("tiny:opt", run.texts())
    rows = run.rows(run.splits.test)
    prompts = [len(reader.tokenizer(row["prompt"])["input_ids"]) for row in rows]
    whole = [len(reader.tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in rows]
    reader = replace(reader, positions=max(whole))
    room = max(whole) - max(prompts)
    check_room("it", reader, {"test": rows}, {"test": rows}, room)
    for prompts, gold, more in ((rows, [], 1), ([], rows, 0)):
        with pytest.raises(ValueError, match=f"more than the {max(whole) - 1 + more} positions"):
            check_room(
                "it", replace(reader, positions=max(whole) - 1 + more), {"t": prompts}, {"t": gold}, room + more
            )


def test_a_total_that_divides_by_nothing_is_named():
    class Ratio(Sums):
        def statistics(self, completion, example):
            return [float(completion == str(example.target)), float(bool(completion))]

        def total(self, means):
            return {"precision": np.divide(means[..., 0], means[..., 1])}

    with pytest.raises(ValueError, match="`total` gives precision = .*nan.* for empty answers, no finite number"):
        measure_of(Ratio(), Example("1", "1", 1))


def test_a_score_of_the_whole_test_set_is_no_mean_of_ratios():
    """Micro-averaged precision: its bootstrap and its value are those of sums, by hand."""

    class Ratio(Sums):
        def statistics(self, completion, example):
            return [completion.count("1"), len(completion)]

        def total(self, means):
            nothing = np.zeros_like(means[..., 0])
            return {"share": np.divide(means[..., 0], means[..., 1], out=nothing, where=means[..., 1] > 0)}

    task, example = Ratio(), Example("1-1", "1 + 1", 2)
    answers = {"weak": ["10", "1"], "ceiling": ["1111", "1"], "mine": ["1000", "1"]}
    systems = [
        {"name": name, "label": name, "role": name if name != "mine" else "method",
         "samples": np.array([[task.statistics(text, example) for text in texts]])}
        for name, texts in answers.items()
    ]  # fmt: skip
    found = score_systems(systems, measure=measure_of(task, example), resamples=50)
    assert found["methods"]["mine"]["share"] == pytest.approx(2 / 5) and found["weak"]["weak"]["share"] == 2 / 3


def rows_of(kind: str, size: int, seed: int) -> list[dict]:
    found = []
    for n in random.Random(seed).sample(range(1000), size):
        own = {"text": f"{seed} {n}", "label": "ab"[n % 2]}
        own = own if kind == "classes" else {"prompt": f"{seed} {n} ", "completion": n % 7}
        found.append({"example_id": f"{seed}-{n}"} | own)
    return found


@pytest.mark.parametrize("kind", ["completions", "classes"])
def test_files_alone_make_a_study(kind, tmp_path):
    settings = dict(COMPLETIONS if kind == "completions" else SMALL)
    for number, (name, size) in enumerate({"train_file": 20, "unlabelled_file": 10, "test_file": 8}.items()):
        path = tmp_path / f"{name}.jsonl"
        rows = rows_of(kind, size, number)
        if name == "unlabelled_file":
            rows = [{k: v for k, v in row.items() if k not in ("label", "completion")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings[name] = str(path)
    found = run_study(kind, ["naive"], "tiny", tmp_path / "run", **settings)
    assert list(found.results["methods"])[:2] == ["naive", "ceiling"]
    assert found.results["measure"] == ("exact_match" if kind == "completions" else "accuracy")
    with pytest.raises(ValueError, match="`train_file` is not set"):
        run_study(kind, ["naive"], "tiny", tmp_path / "run", **settings | {"train_file": ""})
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.jsonl"):
        run_study(kind, ["naive"], "tiny", tmp_path / "run", **settings | {"test_file": str(tmp_path / "gone.jsonl")})
    column = "prompt_column" if kind == "completions" else "text_column"
    with pytest.raises(ValueError, match=f"row 0: column 'question' is empty or missing.*--{column}"):
        run_study(kind, ["naive"], "tiny", tmp_path / "run", **settings | {column: "question"})


@pytest.mark.parametrize("given", [{"aggregator": "mbr"}, {"labels": "mbr"}])
def test_a_student_waits_for_the_labels_that_it_reads(given, tmp_path):
    """However the aggregator was named; side by side, it would otherwise begin before they are there."""
    config = CompletionStudyConfig(**COMPLETIONS | CAPS | {"student_model": "tiny:llama", "output_dir": str(tmp_path)})
    (run,) = seed_runs(config, Sums(), [Method("mine", **given)])
    (student,) = [stage for stage in run.stages() if stage.name == "student, mine"]
    assert [stage.name for stage in student.after] == ["weak labels, mbr"]


def test_every_registered_aggregator_and_loss_is_a_row_of_the_field(tmp_path):
    """What is registered later is one too; each is compared with the naive student, Holm-adjusted."""

    @AGGREGATORS.register("toy_first")
    def toy_first(votes, weights):
        return votes[:, 0]

    try:
        rows = class_field()
        assert {"naive", "on_dawid_skene", "on_log_linear", "on_majority", "on_toy_first"} <= set(rows)
        assert set(rows) >= {f"loss_{name}" for name in LOSSES if name not in OF_THE_PAPER}
        settings = SMALL | CAPS | {"methods": ["field"]}
        chosen = ["naive", "on_dawid_skene", "trusted", "two_stage", "surer_half", "selective", "co_supervised"]
        chosen += ["on_raven", "on_student_dawid_skene"]
        chosen = ["field"] if len(rows) < 8 else [*chosen, "on_toy_first"]
        found = run_study(Parity(), chosen, "tiny", tmp_path, **{k: v for k, v in settings.items() if k != "methods"})
        assert set(chosen) - {"field"} <= set(found.results["methods"]), "each after the student that it reads"
        assert "## Report card of the supervisors" in found.report.read_text()
    finally:
        del AGGREGATORS["toy_first"]
    with pytest.raises(ValueError, match="'raven' weighs several votes on one question.*It is for classes"):
        labels_of(Method("mine", aggregator="raven"))
    assert field_comparisons(list(completion_field().values()))[:2] == ["on_joint", "naive"]
    compared = field_comparisons([*class_field().values(), *completion_field().values()])
    assert set(class_field()) | set(completion_field()) == set(compared), "no row of the field goes uncompared"


def test_boosted_labels_weigh_supervisors_by_the_gold_of_the_validation_split(tmp_path):
    """The student's labels are the votes of half B, each supervisor's weight that of boosting on the other split."""
    found = run_study(Parity(), ["boosted"], "tiny", tmp_path, **SMALL | CAPS | {"num_validation": 5})
    assert found["boosted"]["role"] == "method"
    known = load_from_disk(str(tmp_path / "seed-0/labels-boosted/dataset"))
    gold = np.array([int(text[3:].split()[0]) % 2 for text in known["text"]])
    expected = boosted_weights(np.array(known["weak_probs"][:]), gold)
    labels = load_from_disk(str(tmp_path / "seed-0/labels-boosted/boosted"))
    plain = load_from_disk(str(tmp_path / "seed-0/labels/dataset"))
    assert labels["weak_probs"][:] == plain["weak_probs"][:] and len(gold) == 5
    np.testing.assert_allclose(np.array(labels["weak_weights"][:]), np.tile(expected, (len(labels), 1)), atol=1e-9)
    with pytest.raises(ValueError, match="'some': boosting weighs all supervisors"):
        some = Method("some", labels="boosted", supervisors=("opt",))
        run_study(Parity(), [some], "tiny", tmp_path / "some", **SMALL | CAPS)


ONE_SIDED = "every supervisor votes for one class alone"
REFUSED = {
    "on_agreement": ONE_SIDED,
    "on_raven": ONE_SIDED,
    "boosted": "no supervisor is better than chance on the rows with gold",
    "two_stage": ONE_SIDED,  # of the row whose student it reads
}


@pytest.fixture
def stubborn(monkeypatch):
    """Supervisors that each vote for one class alone, and a field of few rows: a function that adds to them."""
    told = WeakClassifier._predictions

    def one_class(self, logits, names):
        if self.name in ("gpt2", "opt"):
            logits = torch.tensor([[2.0, -2.0] if self.name == "gpt2" else [-2.0, 2.0]] * len(logits))
        return told(self, logits, names)

    def few(*more):
        rows = class_field()
        rows["two_stage"] = replace(rows["two_stage"], after="on_agreement")
        kept = {name: rows[name] for name in ("naive", "on_majority", *REFUSED, *more)}
        monkeypatch.setitem(KINDS, "classes", replace(KINDS["classes"], field=lambda: kept))

    monkeypatch.setattr(WeakClassifier, "_predictions", one_class)
    few()
    return few


def test_rows_of_the_field_that_cannot_be_computed_are_told_with_the_reason(tmp_path, stubborn, caplog):
    """The others go on, a second run tries nothing again; a row asked for by name and a bug still end the run."""
    settings = SMALL | CAPS
    found = run_study(Parity(), ["field"], "tiny", tmp_path, **settings)
    assert set(found.results["refused_rows"]) == set(REFUSED) and not set(REFUSED) & set(found.results["methods"])
    report = found.report.read_text()
    assert "## Rows that could not be computed" in report
    for name, reason in REFUSED.items():
        assert reason in found.results["refused_rows"][name] and f"- `{name}`: " in report and name in caplog.text
        with pytest.raises(KeyError, match=f"the row '{name}' could not be computed: .*{reason}"):
            _ = found[name]
    assert found["naive"]["role"] == found["on_majority"]["role"] == "method"
    assert [(pair["first"], pair["second"]) for pair in found.results["comparisons"]] == [("on_majority", "naive")]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/stage.json")}
    again = run_study(Parity(), ["field"], "tiny", tmp_path, **settings)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/stage.json")}
    for part in ("methods", "weak", "refused_rows", "comparisons", "diagnostics"):
        assert json.dumps(again.results[part]) == json.dumps(found.results[part])
    with pytest.raises(NotComputable, match=REFUSED["boosted"]):
        run_study(Parity(), ["naive", "boosted"], "tiny", tmp_path, **settings)

    @AGGREGATORS.register("toy_broken")
    def toy_broken(votes, weights):
        raise TypeError("a bug of the user's")

    try:
        stubborn("on_toy_broken")
        with pytest.raises(TypeError, match="a bug of the user's"):
            run_study(Parity(), ["field"], "tiny", tmp_path, **settings)
    finally:
        del AGGREGATORS["toy_broken"]


def test_only_what_the_field_alone_asks_for_may_be_refused(tmp_path, stubborn):
    def config(*methods):
        settings = SMALL | CAPS | {"student_model": "tiny:llama", "output_dir": str(tmp_path), "seeds": [0, 1]}
        return ClassStudyConfig(**settings | {"methods": list(methods)})

    rows = {"on_majority", *REFUSED}
    assert optional_rows(config("field"), Parity()) == rows
    assert optional_rows(config("naive", "boosted"), Parity()) == set()
    given = optional_rows(config("field", "boosted"), Parity(), [Method("on_raven")])
    assert given == rows - {"boosted", "on_raven"}
    field = KINDS["classes"].field()
    reads = Method("mine", transform=lambda labels, trained: labels, after="on_agreement")
    runs = seed_runs(config("field"), Parity(), [*field.values(), reads], rows)
    for run in runs:
        free = {stage.name for stage in run.stages() if stage.may_refuse}
        students = {f"student, {field[name].label}" for name in rows - {"on_agreement"}}
        assert free == {f"evaluate {name}" for name in rows} | students | {"weak labels, weighted by boosting"}
    texts = CompletionStudyConfig(**COMPLETIONS | CAPS | {"student_model": "tiny:llama", "output_dir": str(tmp_path)})
    field = completion_field()
    (run,) = seed_runs(texts, Sums(), [*field.values()], set(field) - {"naive"})
    free = {stage.name for stage in run.stages() if stage.may_refuse}
    assert {"pairs of naive", "refined labels", "student on the first half of the labels"} <= free
    answered = run.systems["naive"]
    (student,) = answered.after
    assert not any(stage.may_refuse for stage in (answered, student, *student.after)), (
        "what all others are compared with"
    )
    lost = runs[1].systems["boosted"].after[0]
    lost.folder.mkdir(parents=True)
    (lost.folder / "stage.json").write_text(json.dumps({"key": lost.key, "complete": False, "refused": "no gold"}))
    assert leave_out_refused(runs) == {"boosted": "no gold"}, "in one seed of two"
    assert all("boosted" not in run.systems and "boosted" not in {m.name for m in run.methods} for run in runs)


def test_a_row_of_the_field_that_needs_more_supervisors_is_left_out_and_by_name_refused(caplog):
    def chosen(names, supervisors):
        return {method.name for method in choose_methods(names, {}, [], supervisors, class_field())}

    assert chosen(["field"], "abc") == set(class_field())
    assert "left out" not in caplog.text
    assert set(class_field()) - chosen(["field"], "ab") == {"instance_accuracy"}
    assert "'instance_accuracy' needs 3 supervisors or more, and has 2; it is left out" in caplog.text
    alone = set(class_field()) - chosen(["field"], "a")
    lost = {"instance_accuracy", "boosted", "loss_realm_learned", "on_dawid_skene", "on_raven", "on_log_linear"}
    lost |= {"on_agreement", "on_student_dawid_skene"}
    assert lost == {name for name in alone if name[3:] not in ("wawa", "mace", "glad")}
    with pytest.raises(ValueError, match="'instance_accuracy' needs 3 supervisors or more, and has 2. Add"):
        chosen(["instance_accuracy"], "ab")
    mine = Method("mine", supervisors=("a", "b"), min_supervisors=3)
    with pytest.raises(ValueError, match="'mine' needs 3 supervisors or more, and has 2"):
        chosen([mine], "abc")
    with pytest.raises(ValueError, match="'mine': min_supervisors=0 is a number, at least 1"):
        replace(mine, min_supervisors=0)


def test_a_method_may_read_another_ones_student(tmp_path):
    """Whichever is named first; what is read is trained before, and a change of it is seen."""

    def least(labels, trained):
        kept = sorted(labels, key=lambda row: row["example_id"])[: len(labels) // 2]
        seen.append(
            (
                trained.student.name,
                len(trained.known),
                trained.student.answer(["1 + 1 =\n"], 1, trained.max_new_tokens),
            )
        )
        return labels.select([n for n, row in enumerate(labels) if row in kept])

    seen: list = []
    plain = {"transform": least, "loss": "naive", "settings": {"gamma_max": 0.0}}
    own = [Method("second", **plain, after="first"), Method("first", **plain, after="strong_on_a")]
    settings = COMPLETIONS | CAPS | {"stages": ["weak", "label", "student", "ceiling"]}
    run_study(Sums(), own, "tiny", tmp_path, **settings)
    assert [(name, known) for name, known, _ in seen] == [("strong_on_a", 4), ("first", 4)]
    keys = [json.loads((tmp_path / f"seed-0/students/{n}/stage.json").read_text()) for n in ("first", "second")]
    assert keys[0]["spec"]["method"]["after"] == "strong_on_a" and keys[1]["complete"]
    for methods, message in (
        ([own[0]], "method 'second' reads the student of 'first', which is not among the methods; add 'first'"),
        ([replace(own[1], after="second"), own[0]], "in a circle, each after the next: first > second > first"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(Sums(), methods, "tiny", tmp_path / "none", **settings)
    with pytest.raises(ValueError, match="`stages`"):
        run_study(Sums(), [own[1]], "tiny", tmp_path / "none", **settings | {"stages": ["weak", "label", "student"]})
    with pytest.raises(ValueError, match="`after='first'` is for a `transform`"):
        Method("third", after="first")
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").rglob("model.safetensors"))


def test_refined_labels_come_of_two_half_students_and_a_half_done_run_goes_on(tmp_path, monkeypatch):
    settings = COMPLETIONS | CAPS | {"student_model": "tiny:llama"}
    ilr = completion_field()["ilr"]
    judge = Refinement.judge
    monkeypatch.setattr(Refinement, "judge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_study(Sums(), [ilr], "tiny", tmp_path, **settings)
    monkeypatch.setattr(Refinement, "judge", judge)
    folder = tmp_path / "seed-0" / "labels-refined"
    halves = [[json.loads(line) for line in (folder / n / ANSWERS).read_text().splitlines()] for n in HALVES]
    made = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ANSWERS}")}
    found = run_study(Sums(), [ilr], "tiny", tmp_path, **settings)
    assert made == {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ANSWERS}")}
    assert "ilr" in found.results["methods"]
    old, new = load_from_disk(tmp_path / "seed-0" / "labels" / "joint"), load_from_disk(refined_folder(folder.parent))
    ids = [{row["id"] for row in half} for half in halves]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(old["example_id"]) == set(new["example_id"])
    told = json.loads((folder / "judged" / COUNTED).read_text())
    assert told["labels"] == len(old) and told["replaced"] <= len(old) // 2
    assert sum(a["completion"] != b["completion"] for a, b in zip(old, new, strict=True)) == told["replaced"]
    with pytest.raises(ValueError, match="'refined' compares texts"):
        run_study(Parity(), [replace(ilr, settings={})], "tiny", tmp_path / "classes", **SMALL | CAPS)
    with pytest.raises(ValueError, match="method 'ilr'.*judged by all supervisors"):
        run_study(Sums(), [replace(ilr, supervisors=("opt",))], "tiny", tmp_path / "one", **settings)


def test_preference_rows_share_their_pairs_and_start_from_another_rows_student(tmp_path, monkeypatch):
    training = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "label_smoothing": 0.1, "learning_rate": 1e-3}
    more = {"student_model": "tiny:llama", "preference_training": training, "num_preference_candidates": 4}
    settings = COMPLETIONS | CAPS | more
    names, rows = ["prefer_cw", "prefer_surest"], completion_field()
    made, build = [], completions.build_preferences
    monkeypatch.setattr(completions, "build_preferences", lambda *a, **k: made.append(1) or build(*a, **k))
    found = run_study(Sums(), ["naive", *names], "tiny", tmp_path, **settings)
    assert set(names) <= set(found.results["methods"]) and len(made) == 1
    assert {"naive", *names} == set(found.results["diagnostics"]["methods"])
    pairs = load_from_disk(tmp_path / "seed-0" / "pairs" / "naive" / "dataset")
    steps = {
        name: json.loads((tmp_path / "seed-0" / "students" / name / "history.json").read_text()) for name in names
    }
    assert [steps[name][-1]["step"] for name in names] == [-(-len(pairs) // 4), -(-math.ceil(0.3 * len(pairs)) // 4)]
    weights = [load_file(tmp_path / "seed-0" / "students" / name / "model.safetensors") for name in ["naive", *names]]
    assert all(any((one[key] != weights[0][key]).any() for key in one) for one in weights[1:])
    run_study(Sums(), ["naive", *names], "tiny", tmp_path, **settings)
    assert len(made) == 1  # nothing is done again
    with pytest.raises(ValueError, match="'prefer_cw' starts from 'naive', which is no supervised method here"):
        run_study(Sums(), [rows["prefer_cw"]], "tiny", tmp_path / "alone", **settings)
    with pytest.raises(ValueError, match="'prefer_cw' compares texts"):
        run_study(Parity(), ["naive", rows["prefer_cw"]], "tiny", tmp_path / "classes", **SMALL | CAPS)
    later = Method("later", transform=lambda labels, trained: labels, after="prefer_cw")
    with pytest.raises(ValueError, match="'later' reads the student of 'prefer_cw', which is trained on preferences"):
        run_study(Sums(), ["naive", rows["prefer_cw"], later], "tiny", tmp_path / "later", **settings)
    typo = replace(rows["prefer_cw"], settings={"betta": 1})
    with pytest.raises(ValueError, match="method 'prefer_cw' has an unknown setting 'betta'. Did you mean 'beta'"):
        run_study(Sums(), ["naive", typo], "tiny", tmp_path / "typo", **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "cw"}, "`start` names the method"),
        ({"loss": "naive", "start": "naive"}, "loss='naive' is none of cdpo, cw"),
        ({"loss": len, "start": "naive"}, "is none of cdpo, cw"),
        ({"start": "naive", "supervisors": ("opt",)}, "ranked by all supervisors"),
        ({"start": "naive", "labels": "joint"}, "ranked by all supervisors"),
    ],
)
def test_preference_methods_that_cannot_be_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        PreferenceMethod("mine", **given)


def test_gold_of_a_table_is_text_a_number_or_messages(tmp_path):
    rows = [{"prompt": f"p{n}", "completion": gold} for n, gold in enumerate([7, 0.5, True, "x", [{"content": "y"}]])]
    for name in ("train", "half", "test"):
        lines = [json.dumps(row | {"prompt": f"{name} {row['prompt']}"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = {f"{a}_file": str(tmp_path / f"{b}.jsonl") for a, b in (("train", "train"), ("unlabelled", "half"))}
    config = CompletionTableConfig(**files, test_file=str(tmp_path / "test.jsonl"))
    test = CompletionTable(config).splits(0).test
    assert [CompletionTable(config).completion(example) for example in test] == ["7", "0.5", "True", "x", "y"]
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "p", "completion": {"a": 1}}))
    with pytest.raises(
        ValueError, match=r"--test_file .*, row 0: column 'completion' holds .'a': 1.; a gold answer is"
    ):
        CompletionTable(config).splits(0)


TABLE = {
    "train": [{"text": f"a {n}", "label": "xy"[n % 2]} for n in range(20)],
    "unlabelled": [{"text": f"b {n}"} for n in range(4)],
    "test": [{"text": f"c {n}", "label": "xy"[n % 2]} for n in range(4)],
}
ASKED = {
    part: [{"prompt": row["text"]} | ({"completion": row["label"]} if "label" in row else {}) for row in rows]
    for part, rows in TABLE.items()
}


def table(folder, rows, kind, **settings):
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = {f"{name}_file": str(folder / f"{name}.jsonl") for name in rows}
    if kind is ASKED:
        return CompletionTable(CompletionTableConfig(**files, **settings))
    return ClassTable(ClassTableConfig(**files, **settings))


@pytest.mark.parametrize(
    ("kind", "change", "settings", "message"),
    [
        (
            ASKED,
            {"train": [{"prompt": 5, "completion": "x"}]},
            {},
            "row 0: column 'prompt' holds 5; it must be text, or a",
        ),
        (
            ASKED,
            {"train": [{"prompt": ["a"], "completion": "x"}]},
            {},
            "'prompt' holds .'a'.; it must be text, or a list",
        ),
        (
            ASKED,
            {"test": [{"prompt": "a", "completion": 7.0}, {"prompt": "b", "completion": 7}]},
            {},
            "like 7.0, and li",
        ),
        (
            TABLE,
            {"test": [{"text": 5, "label": "x"}]},
            {},
            "--test_file .*, row 0: column 'text' holds 5; it must be te",
        ),
        (TABLE, {"test": [{"text": "d", "label": [{"content": "x"}]}]}, {}, "a gold answer is text, a number."),
        (
            TABLE,
            {"train": [{"text": f"e {n}", "label": "x "} for n in range(9)] + TABLE["train"]},
            {},
            "white space alone",
        ),
        (TABLE, {}, {"id_column": "key"}, "row 0: column 'key' .--id_column. is empty or missing; it has text, label"),
    ],
)
def test_tables_that_would_be_read_wrong_are_named(kind, change, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        found = table(tmp_path, kind | change, kind, **settings)
        found.splits(0)
        _ = found.classes if kind is TABLE else None


def test_a_class_whose_only_row_is_held_out_is_a_class(tmp_path):
    rows = [{"text": f"a {n}", "label": f"only {n}" if n < 18 else "x"} for n in range(20)]
    found = table(tmp_path, TABLE | {"train": rows}, TABLE)
    assert {example.target for example in found.splits(0).validation} & {f"only {n}" for n in range(18)}
    assert found.classes == sorted({row["label"] for row in rows})


def test_the_files_of_a_study_may_list_their_classes_in_orders_of_their_own(tmp_path):
    """`class_encode_column` numbers the classes that a file has: without "bad", "fair" is 0 and no longer 1."""
    names = {"train": ["bad", "fair", "good"] * 4, "unlabelled": ["good", "bad"] * 3, "test": ["fair", "good"] * 3}
    files = {}
    for part, labels in names.items():
        rows = Dataset.from_dict({"text": [f"{part} {i} {label}" for i, label in enumerate(labels)], "label": labels})
        files[f"{part}_file"] = str(tmp_path / f"{part}.parquet")
        rows.class_encode_column("label").to_parquet(files[f"{part}_file"])
    task = ClassTable(ClassTableConfig(**files))
    splits = task.splits(0)
    assert task.classes == ["bad", "fair", "good"]
    for example in (*splits.half_a, *splits.half_b, *splits.validation, *splits.test):
        assert example.text.split()[-1] == example.target


def numbered_files(folder, floats, **columns):
    """A study's files in which gold is a number, as pandas writes them: with a gap in those that are named."""
    files = {}
    for part in ("train", "unlabelled", "test"):
        rows = [dict.fromkeys(columns.values(), f"{part} {k}") | {"gold": k} for k in (2, 10, 0, 2, 10, 0)]
        frame = pandas.DataFrame(rows)
        if part in floats:
            frame = frame.astype({"gold": float})
        if part == "unlabelled" and part in floats:
            frame.loc[1, "gold"] = None
        frame.to_csv(folder / f"{part}.csv", index=False)
        files[f"{part}_file"] = str(folder / f"{part}.csv")
    return files


@pytest.mark.parametrize("floats", [(), ("unlabelled",), ("test",), ("train", "unlabelled", "test")])
def test_classes_that_are_numbers_are_the_same_in_a_file_with_gaps(floats, tmp_path):
    files = numbered_files(tmp_path, floats, text="text")
    task = ClassTable(ClassTableConfig(**files, text_column="text", label_column="gold"))
    splits = task.splits(0)
    assert task.classes == ["0", "10", "2"]
    for example in (*splits.half_a, *splits.half_b, *splits.validation, *splits.test):
        assert example.target in (example.text.split()[-1], None)
    assert sum(example.target is None for example in splits.half_b) == ("unlabelled" in floats)


@pytest.mark.parametrize("floats", [("unlabelled",), ("test",)])
def test_answers_that_one_file_writes_with_a_point_are_refused(floats, tmp_path):
    files = numbered_files(tmp_path, floats, prompt="prompt")
    config = CompletionTableConfig(**files, prompt_column="prompt", completion_column="gold")
    where = rf"--{floats[0]}_file .*, row 0: column 'gold': gold is written like 7.0, and like 7 in --t.*, row 0"
    with pytest.raises(ValueError, match=where):
        CompletionTable(config).splits(0)


def test_answers_with_a_point_are_texts_where_no_file_is_of_whole_numbers(tmp_path):
    rows = [{"prompt": f"p {gold}", "completion": gold} for gold in ("7.0", "7", "2.5")]
    splits = table(tmp_path, dict.fromkeys(ASKED, rows), ASKED).splits(0)
    assert [example.target for example in splits.test] == ["7.0", "7", "2.5"]


def test_classes_of_which_one_file_writes_numbers_in_two_ways_are_refused(tmp_path):
    rows = [{"text": f"t {name}", "label": name} for name in ("7", "8", "7.0")]
    message = "--test_file .*, row 2: column 'label': gold is written like 7.0, and like 7 in .*row 0"
    with pytest.raises(ValueError, match=message):
        table(tmp_path, TABLE | {"test": rows}, TABLE).splits(0)
    whole = [row | {"label": "7"} for row in rows]
    with pytest.raises(ValueError, match=message):
        table(tmp_path, {name: whole for name in TABLE} | {"test": rows}, TABLE).splits(0)
