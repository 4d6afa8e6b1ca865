"""The tables of the evidence are those that its command makes of the results beside it."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "evidence"
RESULTS = sorted((FOLDER / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_page_holds_the_tables_of_its_results(path):
    spec = importlib.util.spec_from_file_location("table", FOLDER / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads(path.read_text(encoding="utf-8"))
    pages = [page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md")]
    assert any(module.tables(results) in page and path.name in page for page in pages)
    assert results["environment"]["date"] and results["seeds"] and "/tmp/" not in path.read_text(encoding="utf-8")
