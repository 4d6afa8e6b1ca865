"""What can be chosen by name says how: a short example that runs, and what to look at beside it."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import trl_weaks
from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS, transforms
from trl_weaks.losses import LOSSES
from trl_weaks.study.tasks.base import TASKS

PACKAGE = Path(trl_weaks.__file__).parent
NEEDS_CROWD_KIT = ("wawa", "mace", "glad")
VALUE = re.compile(r"\d|'[^']+'")
DEFINED = re.compile(r"^(?:class|def) (\w+)", re.M)


def documented() -> dict[str, object]:
    """`kind name` -> the class or function whose docstring a reader of that name is shown."""
    found = {
        f"{registry.kind} {name}": getattr(entry, "choose", entry)
        for registry in (LOSSES, AGGREGATORS, COMPLETION_AGGREGATORS, TASKS)
        for name, entry in registry.items()
    }
    found |= {f"transform {name}": entry for name, entry in vars(transforms).items() if name[0] != "_"}
    found.pop("transform Composed")  # `compose` makes it
    return {
        name: entry
        for name, entry in found.items()
        if inspect.isroutine(entry) or isinstance(entry, type)
        if entry.__module__.startswith("trl_weaks.")
        if not name.startswith("transform") or entry.__module__ == transforms.__name__
    }


ENTRIES = documented()


def names_of_the_package() -> set[str]:
    return {name for file in PACKAGE.rglob("*.py") for name in DEFINED.findall(file.read_text(encoding="utf-8"))}


def lacking(text: str, known: set[str]) -> list[str]:
    """What a docstring has not; empty where it has all."""
    examples = doctest.DocTestParser().get_examples(text)
    lines = sum(len((one.source + one.want).splitlines()) for one in examples)
    _, also, rest = text.partition("See also:")
    named = re.findall(r"\[`([\w.~]+)`\]", rest.split("\n\n")[0])
    found = [] if examples else ["no example (`>>>`)"]
    if examples and not 3 <= lines <= 10:
        found.append(f"an example of {lines} lines, not three to ten")
    if examples and not any(VALUE.search(one.want) for one in examples):
        found.append("no number or text that the example is expected to print")
    if not also or len(named) < 2:
        found.append("no `See also:` with two names or more, such as [`NaiveLoss`]")
    return found + [f"a `See also:` with {name!r}, which is not there" for name in named if name not in known]


def test_every_kind_is_looked_at():
    assert {name.split()[-1] for name in ENTRIES} >= {"naive", "mean", "wawa", "mbr", "classes", "Filter", "compose"}
    assert len(ENTRIES) >= 35


def test_every_docstring_has_an_example_and_what_is_related():
    known = names_of_the_package()
    found = {name: lacking(inspect.getdoc(entry) or "", known) for name, entry in ENTRIES.items()}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_example_runs(name):
    if name.split()[-1] in NEEDS_CROWD_KIT:
        pytest.importorskip("crowdkit.aggregation")
    (test,) = doctest.DocTestFinder(recurse=False).find(ENTRIES[name], name)
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed == 0, "".join(said)


GOOD = "Short.\n\n>>> a = 1\n>>> a + 1\n2\n\nSee also: [`NaiveLoss`] and [`mean`]."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Short.", "no example"),
        (GOOD.replace(">>> a + 1\n2\n", ">>> a == 1\nTrue\n"), "no number or text"),
        (GOOD.replace(">>> a = 1\n", ""), "2 lines"),
        (GOOD.replace("See also", "And"), "no `See also:`"),
        (GOOD.replace(" and [`mean`]", ""), "no `See also:`"),
        (GOOD.replace("mean", "average"), "'average', which is not there"),
    ],
)
def test_what_is_lacking_is_said(text, problem):
    assert any(problem in found for found in lacking(text, {"NaiveLoss", "mean"}))
    assert lacking(GOOD, {"NaiveLoss", "mean"}) == []
