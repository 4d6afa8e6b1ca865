"""Registries: what is registered under a name is found under it, and nothing is replaced in silence."""

import argparse
import copy
import doctest
import pickle

import pytest

import trl_weaks.registry
from trl_weaks.registry import Choices, Registry


def registry() -> Registry:
    found = Registry("fruit")

    @found.register("pear")
    class Pear: ...

    @found.register()
    def apple(): ...

    return found


def test_names_stand_in_their_order_and_the_decorator_changes_nothing():
    fruits = registry()
    assert fruits.names() == list(fruits) == ["pear", "apple"] and len(fruits) == 2
    assert fruits["apple"].__name__ == "apple" and fruits.get("pear").__name__ == "Pear"
    assert fruits.register("golden")(fruits["apple"]) is fruits["apple"] is fruits["golden"]


def test_an_unknown_name_is_answered_by_the_nearest_and_all_choices():
    with pytest.raises(ValueError, match=r"no fruit 'aple'\. Did you mean 'apple'\? Choose one of pear, apple"):
        registry().get("aple")
    with pytest.raises(ValueError, match=r"no fruit 'xyz'\. Choose one of pear, apple"):
        registry().get("xyz")
    with pytest.raises(KeyError):
        registry()["xyz"]
    assert registry().get("xyz", None) is None


def test_a_second_object_of_one_name_is_refused_and_the_same_file_read_twice_is_not():
    fruits, first = registry(), type("Plum", (), {"__module__": "mine"})
    fruits.register("plum")(first)
    again = type("Plum", (), {"__module__": "mine"})
    assert fruits.register("plum")(again) is fruits["plum"] is again
    with pytest.raises(ValueError, match=r"a fruit 'plum' already, mine\.Plum"):
        fruits.register("plum")(type("Plum", (), {"__module__": "theirs"}))
    assert fruits["plum"] is again


def test_an_object_made_again_of_the_users_function_takes_its_place_and_of_another_does_not():
    class Holder:
        def __init__(self, function):
            self.function = function

    def mine(): ...

    def other(): ...

    fruits = registry()
    fruits["fig"] = Holder(mine)
    fruits["fig"] = again = Holder(mine)
    assert fruits["fig"] is again
    with pytest.raises(ValueError, match="there is a fruit 'fig' already"):
        fruits["fig"] = Holder(other)
    fruits["kiwi"] = Holder(Registry)  # the package's
    with pytest.raises(ValueError, match="there is a fruit 'kiwi' already"):
        fruits["kiwi"] = Holder(Registry)


def test_a_registry_is_filled_and_emptied_like_a_dict():
    fruits = registry()
    fruits["plum"] = len
    with pytest.raises(ValueError, match="a fruit 'plum' already"):
        fruits["plum"] = min
    assert fruits.pop("plum") is len and "plum" not in fruits
    fruits["plum"] = min
    assert fruits["plum"] is min and fruits.names() == ["pear", "apple", "plum"]


@pytest.mark.parametrize("name", ["two words", "1st", "a,b", 3])
def test_a_name_is_a_plain_word(name):
    with pytest.raises(ValueError, match="under a plain word"):
        registry().register(name)(object)


def test_what_the_check_refuses_is_not_registered():
    def check(entry, name):
        raise TypeError(f"{name} is no good")

    fruits = Registry("fruit", check)
    with pytest.raises(TypeError, match="stone is no good"):
        fruits.register("stone")(object)
    assert not len(fruits)


def test_choices_are_live_in_a_parser_made_before():
    fruits = registry()
    parser = argparse.ArgumentParser()
    parser.add_argument("--fruit", choices=Choices(fruits, first=("none",)))
    fruits.register("plum")(object())
    assert parser.parse_args(["--fruit", "plum"]).fruit == "plum"
    assert "{none,pear,apple,plum}" in parser.format_help()
    assert list(fruits.choices) == fruits.choices == ["pear", "apple", "plum"] and fruits.choices[-1] == "plum"
    copied = copy.deepcopy({"choices": fruits.choices})["choices"]
    fruits.register("fig")(object())
    assert copied == ["pear", "apple", "plum", "fig"]
    assert pickle.loads(pickle.dumps(fruits.choices)) == ["pear", "apple", "plum", "fig"]


def test_the_examples_run():
    assert doctest.testmod(trl_weaks.registry) == (0, 4)
