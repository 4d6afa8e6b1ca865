"""The embedded data: requests to a home assistant, from a grammar of our own writing (`home/*.yaml`).

Every utterance has a side: training (half A, half B and the unlabelled text), validation or test. A hash of each value
of an open class (names, places, titles, ...) puts the value on one side for all slot types at once, and a hash of the
whole text does so for the utterance, whatever the seed and the sizes. A model that has memorised training values
therefore cannot answer test; one that copies from the utterance can. Values of closed classes (dates, rooms, colours,
...) are shared, and surfaces are shared between types: "april" is a month or a person, "ashford" a place or a person,
"the silent river" a song, a film, a book, a podcast or a game, so that only the context tells the type.
"""

import hashlib
import random
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Literal

import yaml

from trl_weaks.study.data.phrases import Phrase, expand, parse
from trl_weaks.study.data.rows import Splits, Utterance, distinct, normalise

Side = Literal["training", "validation", "test"]

_SHARES: dict[Side, range] = {"training": range(0, 6), "validation": range(6, 7), "test": range(7, 10)}  # tenths
_ATTEMPTS = 10_000  # in a row without a new utterance: the grammar is used up


@cache
def _rules() -> dict[str, list[Phrase]]:
    folder = resources.files("trl_weaks.study.data") / "home"
    texts = yaml.safe_load(folder.joinpath("values.yaml").read_text(encoding="utf-8"))
    texts |= yaml.safe_load(folder.joinpath("closed.yaml").read_text(encoding="utf-8"))
    return {name: parse(text) for name, text in (texts | _requests()["words"]).items()}


@cache
def _requests() -> dict[str, dict]:
    file = resources.files("trl_weaks.study.data") / "home" / "requests.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@cache
def _intents() -> list[list[Phrase]]:
    return [parse(text) for text in _requests()["intents"].values()]


def slot_types() -> list[str]:
    """The task's slot types, in prompt order."""
    return [*_requests()["slots"]["open"], *_requests()["slots"]["closed"]]


def intent_names() -> list[str]:
    """What an utterance can be about; every example of this source carries one as its `intent`."""
    return list(_requests()["intents"])


def open_types() -> frozenset[str]:
    """The slot types whose values are disjoint between training, validation and test."""
    return frozenset(_requests()["slots"]["open"])


def load_splits(
    half_a: int = 2000,
    half_b: int = 2000,
    validation: int = 300,
    test: int = 1000,
    seed: int = 0,
) -> Splits:
    """Four sets of distinct utterances with their slots, determined by the sizes and the seed.

    Args:
        half_a, half_b, validation, test: numbers of examples.
        seed: determines them, with the sizes.

    Raises:
        ValueError: a size below 1, or more utterances asked for than the grammar yields.
    """
    for name, size in (("half_a", half_a), ("half_b", half_b), ("validation", validation), ("test", test)):
        if size < 1:
            raise ValueError(f"{name}: size {size} is not a positive number of examples")
    training = _examples("training", half_a + half_b, f"{seed}:labelled")
    return Splits(
        half_a=tuple(training[:half_a]),
        half_b=tuple(training[half_a:]),
        validation=tuple(_examples("validation", validation, f"{seed}:labelled")),
        test=tuple(_examples("test", test, f"{seed}:labelled")),
    )


def unlabelled(size: int, seed: int = 0) -> list[str]:
    """Distinct utterances of the training side, text only: for tokenizers and self-supervised pre-training.

    They may repeat an utterance of half A or half B; never one of validation or test, nor an open value of those.
    """
    return [example.text for example in _examples("training", size, f"{seed}:unlabelled")]


def _examples(side: Side, size: int, seed: str) -> list[Utterance]:
    stream = distinct(_sample(side, random.Random(f"{side}:{seed}")))
    examples = []
    for number in range(size):
        example = next(stream, None)
        if example is None:
            raise ValueError(f"{size} {side} utterances asked for: the grammar yields about {number}; ask for fewer")
        examples.append(example)
    return examples


def _sample(side: Side, rng: random.Random) -> Iterator[Utterance]:
    """An endless stream of utterances of one side, with repeats; it ends when nothing new has come for long."""
    rules, intents = _rules(), _intents()
    open_rules, closed_rules = _requests()["slots"]["open"], _requests()["slots"]["closed"]

    def value(slot_type: str) -> str:
        if slot_type in closed_rules:
            return expand(rules[closed_rules[slot_type]], rules, value, rng)[0]
        while True:
            filler = expand(rules[open_rules[slot_type]], rules, value, rng)[0]
            if _tenth(filler) in _SHARES[side]:
                return filler

    known: set[str] = set()
    misses = 0
    while misses < _ATTEMPTS:
        number = int(rng.random() * len(intents))
        text, slots = expand(intents[number], rules, value, rng)
        if _tenth(text) in _SHARES[side] and text not in known:
            known.add(text)
            misses = 0
            yield Utterance(f"home-{side}-{len(known):06d}", text, tuple(slots), intent_names()[number])
        else:
            misses += 1


def _tenth(text: str) -> int:
    return int.from_bytes(hashlib.sha256(normalise(text).encode()).digest()[:4]) % 10
