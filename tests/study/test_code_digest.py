"""Whatever changes what a callable does, as far as it carries it along, changes its digest; nothing else does."""

import datetime
import functools
import importlib
import operator
import random
import re
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from trl_weaks.study.code_digest import code_digest, code_module
from trl_weaks.study.methods import load_module


def plus(k):
    return lambda x: x + k


def by_default(k):
    return lambda x, k=k: x + k


def by_keyword(k):
    return lambda x, *, k=k: x + k


class Held:
    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x

    def method(self, x):
        return x


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def between(low, high):
    return lambda x: (low is None or x >= low) and (high is None or x <= high)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x


def decorated(k):
    @functools.wraps(len)
    def inner(x):
        return len(x) + k

    return inner


MAKERS = {
    "closure": plus,
    "default": by_default,
    "keyword default": by_keyword,
    "partial": lambda k: functools.partial(max, k),
    "partial by keyword": lambda k: functools.partial(print, sep=str(k)),
    "object": Held,
    "object with slots": Slotted,
    "bound method": lambda k: Held(k).method,
    "decorator": decorated,
    "function in an object": lambda k: Held(plus(k)),
    "class made of a function": lambda k: type("made", (), {"__wrapped__": plus(k)}),
    "list in a mapping": lambda k: Held({"a": [1, (k,)]}),
    "set": lambda k: Held({1, k}),
    "object in an object": lambda k: Held(Held(k)),
    "array": lambda k: Held(np.arange(5000) + k * (np.arange(5000) == 2500)),
    "tensor": lambda k: Held(torch.arange(5000) + k * (torch.arange(5000) == 2500)),
    "none in a closure": lambda k: between(*((None, 0.5) if k == 2 else (0.5, None))),
    "getter": lambda k: operator.itemgetter(str(k)),
    "caller of a method": lambda k: operator.methodcaller("m", k),
    "long pattern": lambda k: Held(re.compile("x" * 300 + str(k))),
    "array of objects": lambda k: Held(np.array(["a"] * 2000 + [str(k)] + ["a"] * 2000, dtype=object)),
    "table": lambda k: Held(pd.DataFrame({"id": ["a"] * 2000, "w": [0.0] * 1000 + [float(k)] * 1000})),
    "table of texts": lambda k: Held(pd.DataFrame({"id": ["a"] * 1000 + [str(k)] * 1000})),
    "column": lambda k: Held(pd.Series({str(n): n * k for n in range(2000)})),
    "arrow": lambda k: Held(pa.table({"a": [0] * 2000 + [k]})),
    "dataset": lambda k: Held(Dataset.from_dict({"a": [0] * 2000 + [k]})),
    "random numbers": lambda k: Held(random.Random(k)),
    "random numbers of numpy": lambda k: Held(np.random.default_rng(k)),
    "date": lambda k: Held(datetime.date(2000, 1, k)),
    "object with slots, not called": lambda k: Held(Slots(k)),
    "key of a mapping": lambda k: Held({1: 0} if k == 2 else {"1": 0}),
    "bfloat16": lambda k: Held(torch.full((3,), float(k), dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_carried_along_counts(make):
    assert code_digest(make(2)) == code_digest(make(2)) != code_digest(make(3))


def test_names_stand_for_code_without_source_and_circles_end():
    assert code_digest(len) == code_digest(len) != code_digest(max)
    held = Held(1)
    held.value = held
    assert code_digest(held) == code_digest(held)


def test_where_it_was_written():
    assert code_module(Held(plus(1))) == __name__ == code_module(plus) and code_module(len) == "builtins"


USERS = """
import functools
from types import SimpleNamespace
import numpy as np
import pandas as pd
import torch
import digest_helper
from digest_helper import half, Base
SCALE = 0.5
TABLE = {"a": [1, 2]}
MATRIX = np.eye(2)
DTYPE = torch.float32
OPTIONS = SimpleNamespace(least=0.25)
GOLD = pd.DataFrame({"a": [7, 8]})


def inner(x):
    return x + 1


def loss(logits, targets, progress):
    return SCALE * inner(logits).to(DTYPE)


def by_module(logits, targets, progress):
    return digest_helper.half(logits)


def by_name(logits, targets, progress):
    return [half(row) for row in logits]


def within(logits, targets, progress):
    from digest_inner import third

    return third(logits)


def nested(labels):
    return labels.filter(lambda row: inner(row) in TABLE)


def constant(votes, weights):
    return votes @ MATRIX


def by_options(labels):
    return labels.filter(lambda row: row["a"] > OPTIONS.least and row["a"] in GOLD["a"])


class Sub(Base):
    def __call__(self, x):
        return self.more(x)


@functools.cache
def kept(x):
    return inner(x)


below = lambda logits, targets, progress: (
    inner(logits)
)
OBJECT = Sub()
"""
HELPER = """
FACTOR = 2


def half(x):
    return quarter(x) * FACTOR


def quarter(x):
    return x / 4


class Base:
    def more(self, x):
        return x
"""
INNER = "def third(x):\n    return x / 3\n"
ALL = ["loss", "by_module", "by_name", "within", "nested", "constant", "by_options", "Sub", "OBJECT", "kept", "below"]
CHANGES = {
    "SCALE = 0.5": ["loss"],
    "[1, 2]": ["nested"],
    "np.eye(2)": ["constant"],
    "torch.float32": ["loss"],
    "least=0.25": ["by_options"],
    "[7, 8]": ["by_options"],
    "x + 1": ["loss", "nested", "kept", "below"],
    "FACTOR = 2": ["by_module", "by_name"],
    "x / 4": ["by_module", "by_name"],
    "return x\n": ["Sub", "OBJECT"],
    "x / 3": ["within"],
    "self.more(x)": ["Sub", "OBJECT"],
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a user's three files and gives the digests of what they hold."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(change=lambda text: text):
        for name, text in (("digest_helper", HELPER), ("digest_inner", INNER), ("digest_users", USERS)):
            (tmp_path / f"{name}.py").write_text(change(text))
            sys.modules.pop(name, None)
        sys.modules.pop("trl_weaks_user_digest_users", None)
        importlib.invalidate_caches()
        module = load_module(tmp_path / "digest_users.py")
        return {name: code_digest(getattr(module, name)) for name in ALL}

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its stamp counts whole seconds
    yield write
    for name in ("digest_helper", "digest_inner", "trl_weaks_user_digest_users"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("old", CHANGES)
def test_what_a_users_code_calls_and_reads_counts_in_whichever_file_of_theirs_it_stands(written, old):
    before = written()
    assert before == written()
    changed = written(lambda text: text.replace(old, NEW[old]))
    assert [name for name in ALL if before[name] != changed[name]] == CHANGES[old]


NEW = {
    "SCALE = 0.5": "SCALE = 0.7",
    "[1, 2]": "[3, 2]",
    "least=0.25": "least=0.75",
    "[7, 8]": "[7, 9]",
    "np.eye(2)": "np.ones((2, 2))",
    "torch.float32": "torch.float64",
    "x + 1": "x + 2",
    "FACTOR = 2": "FACTOR = 3",
    "x / 4": "x / 5",
    "return x\n": "return -x\n",
    "x / 3": "x / 6",
    "self.more(x)": "-self.more(x)",
}


def test_comments_and_layout_do_not_count_and_what_counts_is_the_code_that_is_loaded(written, tmp_path):
    before = written()
    del before["within"]  # of what is not loaded yet, the whole file counts
    assert before.items() <= written(lambda text: "# more\n" + text.replace("\n\n\n", "\n\n\n\n# a comment\n")).items()
    module = load_module(tmp_path / "digest_users.py")
    (tmp_path / "digest_users.py").write_text(USERS.replace("0.5", "0.7"))  # and nobody reads it
    assert code_digest(module.loss) == before["loss"]
    assert code_digest(load_module(tmp_path / "digest_users.py").loss) != before["loss"]  # a study reads it again


def test_objects_of_packages_are_their_names_whatever_state_they_are_in():
    import logging

    made = {"__name__": "__main__"}
    exec("import logging\nlogger = logging.getLogger('x')\ndef f(x):\n    logger.info(x)\n    return x", made)
    before = code_digest(made["f"])
    made["logger"].setLevel(logging.ERROR)
    assert code_digest(made["f"]) == before
