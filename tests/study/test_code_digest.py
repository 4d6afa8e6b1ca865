"""Whatever changes what a callable does, as far as it carries it along, changes its digest; nothing else does."""

import functools

import numpy as np
import pytest
import torch

from trl_weaks.study.code_digest import code_digest, code_module


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
