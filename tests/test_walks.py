"""One new file in the package is enough for a loss, an aggregator or a task: nothing else has to name it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trl_weaks
from trl_weaks.registry import Registry, import_registering

PACKAGE = Path(trl_weaks.__file__).parent
FILES = {
    "losses/toy_loss.py": """
from .base import register_loss

@register_loss("toy_loss")
def toy_loss(logits, targets, progress):
    return (logits.softmax(-1) - targets).square().sum(-1)
""",
    "aggregation/toy_vote.py": """
from .base import AGGREGATORS

@AGGREGATORS.register("toy_vote")
def toy_vote(votes, weights):
    return votes[:, 0]
""",
    "aggregation/answers/toy_choice.py": """
from .completions import COMPLETION_AGGREGATORS, CompletionAggregator

COMPLETION_AGGREGATORS["toy_choice"] = CompletionAggregator(lambda candidates: [min(candidates, key=lambda c: c.text)])
""",
    "study/tasks/toy_task.py": """
from trl_weaks.study.tasks.base import TASKS, ClassificationTask, Example, Splits

@TASKS.register()
class Toy(ClassificationTask):
    name, classes = "toy_task", ("even", "odd")

    def splits(self, seed):
        made = [Example(str(n), f"Is {n} odd?", n % 2) for n in range(20)]
        return Splits(made[:5], made[5:10], made[10:15], made[15:])
""",
}
SEEN = """
import contextlib, io, json, sys
from trl_weaks.cli import main

def said(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(list(arguments))
    return out.getvalue()

found = {"label": said("label", "--help"), "study": said("study", "--help"), "torch": "torch" in sys.modules}
from trl import TrlParser
from trl_weaks import WeakClassificationConfig, WeakSupervisionConfig
from trl_weaks.study.field_methods import class_field, completion_field
from trl_weaks.study.pipeline.launch import parse
from trl_weaks.study.pipeline.run import methods_of, seed_runs
from trl_weaks.study.tasks.find import config_class, task_of

options = ["--output_dir", "x", "--use_cpu", "--bf16", "false", "--weak_loss", "toy_loss", "--gamma_max", "0"]
(classes,) = TrlParser(WeakClassificationConfig).parse_args_and_config([*options, "--pooling", "toy_vote"])
(completions,) = TrlParser(WeakSupervisionConfig).parse_args_and_config(options)
found["losses"] = [type(one.build_loss()).__name__ for one in (classes, completions)]
found["rows"] = [[*class_field()], [*completion_field()]]
config = parse(config_class("toy_task"), ["--methods", "loss_toy_loss", "on_toy_vote", "--output_dir", "x"])
task = task_of("toy_task", config)
(run,) = seed_runs(config, task, methods_of(config, task))
found["task"], found["stages"] = [task.name, len(run.splits.test)], [stage.folder.name for stage in run.stages()]
print(json.dumps(found))
"""


def test_a_file_dropped_into_the_package_is_found_everywhere(tmp_path):
    copy = tmp_path / "trl_weaks"
    shutil.copytree(PACKAGE, copy, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (copy / name).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert out.returncode == 0, out.stderr[-3000:]
    found = json.loads(out.stdout.splitlines()[-1])
    assert "toy_choice" in found["label"] and "toy_task" in found["study"] and not found["torch"]
    assert found["losses"] == ["toy_loss", "toy_loss"]
    assert {"on_toy_vote", "loss_toy_loss"} <= set(found["rows"][0])
    assert {"on_toy_choice", "loss_toy_loss"} <= set(found["rows"][1])
    assert found["task"] == ["toy_task", 5] and {"loss_toy_loss", "on_toy_vote"} <= set(found["stages"])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of files that register, or do not; each says that it was imported."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    texts = {
        "__init__": "seen = []",
        "fig": "@FRUITS.register('fig')\ndef fig(): ...",
        "pear": "@FRUITS.register('pear')\ndef pear(): ...",
        "plum": "FRUITS['plum'] = 'a plum'",
        "late": "def later():\n    FRUITS['late'] = 1",
        "said": "TEXT = 'FRUITS.register'",
        "other": "@HERBS.register('mint')\ndef mint(): ...",
        "asks": "FRUITS['asks'] = sorted(FRUITS)",
    }
    for name, text in texts.items():
        start = "" if name == "__init__" else "from shelf import seen; from stock import FRUITS, HERBS\n"
        (folder / f"{name}.py").write_text(f"{start}{text}\n{'' if not start else f'seen.append({name!r})'}\n")
    made = "from trl_weaks.registry import Registry\nHERBS = Registry('herb')\n"
    (tmp_path / "stock.py").write_text(f"{made}FRUITS = Registry('fruit', package='shelf', variable='FRUITS')\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shelf", "stock"):
            del sys.modules[name]


def test_only_files_that_register_are_imported_and_only_when_the_registry_is_read(package):
    import shelf
    from stock import FRUITS, HERBS

    assert shelf.seen == [] and not HERBS.names()
    assert FRUITS.names() == ["fig", "pear", "asks", "plum"] and FRUITS["asks"] == []
    assert shelf.seen == ["asks", "fig", "pear", "plum"]
    import_registering("shelf", "HERBS")
    assert HERBS.names() == ["mint"] and "late" not in shelf.seen and "said" not in shelf.seen


def test_their_order_does_not_tell_which_file_was_imported_first(package):
    import shelf.pear
    from stock import FRUITS

    assert shelf.seen == ["pear"] and FRUITS.names() == ["fig", "pear", "asks", "plum"]


@pytest.mark.parametrize(
    "read",
    [
        len,
        list,
        repr,
        lambda r: "pear" in r,
        lambda r: r.get("pear"),
        lambda r: r["pear"],
        lambda r: r.unknown("x"),
        lambda r: r.choices[0],
        lambda r: r.pop("pear"),
    ],
)
def test_every_way_of_reading_finds_them(read, package):
    import shelf
    from stock import FRUITS

    assert read(FRUITS) and shelf.seen


def test_a_name_of_the_package_is_taken_before_its_file_was_imported(package):
    from stock import FRUITS

    with pytest.raises(ValueError, match=r"a fruit 'pear' already, shelf\.pear\.pear"):
        FRUITS["pear"] = len


def test_a_file_that_cannot_be_imported_says_so_every_time(package, tmp_path):
    from stock import FRUITS

    (tmp_path / "shelf" / "rotten.py").write_text("from stock import FRUITS\nFRUITS['rotten'] = 1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            FRUITS.names()
    assert isinstance(FRUITS, Registry)
