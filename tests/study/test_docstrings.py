"""The examples in the docstrings of the study run as printed."""

import doctest
import importlib

import pytest

MODULES = ["tasks.base", "tasks.metrics", "methods", "report.compare"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"trl_weaks.study.{name}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0 and found.failed == 0
