"""Markdown tables: one helper, and a name that holds a bar breaks none."""

import ast
import doctest
from pathlib import Path

import trl_weaks
from trl_weaks import markdown


def test_the_example_runs():
    assert doctest.testmod(markdown) == (0, 1)


def test_every_row_has_as_many_cells_as_the_head():
    text = markdown.table(["a", "b|c"], [["x\ny", "|"], [1, None]])
    assert text == "| a | b\\|c |\n| --- | --- |\n| x y | \\| |\n| 1 | None |"


def test_tables_are_written_by_the_helper():
    """What assembles a table from strings of its own forgets to escape; docstrings are no tables of values."""
    package, own = Path(trl_weaks.__file__).parent, set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in said]
        if any(isinstance(text, str) and "|---" in text.replace(" ", "") for text in texts):
            own.add(path.relative_to(package).as_posix())
    assert not own
