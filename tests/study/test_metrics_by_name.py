"""Scores of one answer by name: against plain counts, and refused by name."""

import sys

import numpy as np
import pytest

from trl_weaks.study.tasks.metrics import metric_by_name


@pytest.mark.parametrize(
    ("said", "gold", "f1"),
    [("the red house", "a red car", 0.5), ("", "", 1.0), ("", "x", 0.0), ("x x y", "x y y", 2 / 3), ("An x.", "x", 1)],
)
def test_token_f1_counts_shared_words(said, gold, f1):
    assert metric_by_name("token_f1")(said, gold)["token_f1"] == pytest.approx(f1)


def test_exact_match_and_functions_of_ones_own(tmp_path):
    assert metric_by_name("exact_match")(" 42\n", "42") == {"exact_match": 1.0}
    path = tmp_path / "mine.py"
    path.write_text(
        "def same(said, gold):\n    return said == gold\n"
        "def both(said, gold):\n    return {'a': 1, 'b': 0.5}\n"
        "def nothing(said, gold):\n    return {}\n"
        "def odd(said, gold):\n    return float('nan')\n"
    )
    assert metric_by_name(f"{path}:same")("a", "a") == {"same": 1.0}
    assert metric_by_name(f"{path}:both")("a", "a") == {"a": 1.0, "b": 0.5}
    with pytest.raises(ValueError, match="gives no number for 'a'"):
        metric_by_name(f"{path}:nothing")("a", "a")
    with pytest.raises(ValueError, match="gives odd = nan for 'a', no number"):
        metric_by_name(f"{path}:odd")("a", "a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("operator:nothing", "operator has no function 'nothing'"),
        ("no.module:f", "there is no module 'no.module'"),
        ("mine.py", "name the function as well, mine.py:function"),
        ("broken_module:f", "broken_module cannot be imported: ZeroDivisionError"),
        ("nowhere.py:f", "no such file: .*nowhere.py"),
        ("exact_macth", "'exact_macth' is neither exact_match"),
    ],
)
def test_an_unknown_metric_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a module is looked for where the command is given
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match=message):
        metric_by_name(name)


def test_numbers_of_any_library_are_scores_and_what_is_none_stands_beside_them(tmp_path, monkeypatch):
    class Loaded:
        def compute(self, predictions, references):
            assert predictions == ["a"] and references == ["b"]
            return {"f1": np.float32(0.5), "precisions": [1.0], "note": "x", "count": np.int64(3), "none": None}

    monkeypatch.setattr("evaluate.load", lambda name: Loaded())
    assert metric_by_name("mine")("a", "b") == {"f1": 0.5, "count": 3.0}
