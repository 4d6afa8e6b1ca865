"""The examples of all docstrings run as printed; those of the trainers in `trainer/test_docstrings.py`, on a model."""

import doctest
import importlib
from pathlib import Path

import pytest

import trl_weaks

PACKAGE = Path(trl_weaks.__file__).parent
ON_A_MODEL = {f"trainer/weak_{kind}_trainer.py" for kind in ("supervision", "preference", "classification")}
FILES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text("utf-8")]


@pytest.mark.parametrize("file", [one for one in FILES if one.as_posix() not in ON_A_MODEL], ids=str)
def test_the_examples_run_as_printed(file):
    if file.as_posix() == "aggregation/crowd.py":
        pytest.importorskip("crowdkit.aggregation")
    module = importlib.import_module(".".join(("trl_weaks", *file.with_suffix("").parts)).removesuffix(".__init__"))
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    for test in tests:
        runner.run(test, out=said.append)
    assert "".join(said) == ""
