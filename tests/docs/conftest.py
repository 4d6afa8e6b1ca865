"""The scripts of the evidence lie beside its pages and are no part of the package: each is a fixture of its name."""

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from evidence_study import Seed, Small, study

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"


def _script(name: str):
    @pytest.fixture(name=name)
    def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.syspath_prepend(str(FOLDER))
        return importlib.import_module(name)

    return script


account, adding, answers, curves, make, mistakes, scores = map(
    _script, ("account", "adding", "answers", "curves", "make", "mistakes", "scores")
)


@pytest.fixture(params=["classes", "completions"])
def kept(request, scores, tmp_path, monkeypatch):
    """A published study with its scores: the script, its folder, and the results."""
    results = study(tmp_path / "run", request.param)
    monkeypatch.setattr(scores, "RESULTS", tmp_path)
    monkeypatch.setattr(scores, "FOLDER", tmp_path / "scores")
    monkeypatch.setattr(scores, "config_class", lambda name: lambda **given: SimpleNamespace(**given))
    monkeypatch.setattr(scores, "task_of", lambda name, config: Small(request.param, said=config.text))
    monkeypatch.setattr(scores, "seed_runs", lambda config, task, methods: [Seed(task, s) for s in config.seeds])
    (tmp_path / "mine.json").write_text(json.dumps(results))
    return scores, tmp_path, results
