"""The scripts of the evidence lie beside its pages and are no part of the package: each is a fixture of its name."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"


def _script(name: str):
    @pytest.fixture(name=name)
    def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.syspath_prepend(str(FOLDER))
        return importlib.import_module(name)

    return script


account, answers, curves, make, mistakes, scores = map(
    _script, ("account", "answers", "curves", "make", "mistakes", "scores")
)
