"""Self-supervised pre-training of a small student: find a span, copy it into JSON. No label of the task is used.

Two sources of TRL prompt-completion rows, both made one at a time from a stream:

- `span_copy`: an unlabelled sentence, and the same sentence with one to three spans blanked; the answer gives each
  blank's words. "wake me up at five pm\\nwake me up at _k_\\n" -> {"k": "five pm"}.
- `dialogues`: turns annotated in another ontology (Schema-Guided Dialogue), in the task's own short format.

In both, a share of the words to copy is replaced by random letter strings, in prompt and answer alike, so that the
answer cannot be remembered and has to be copied: small models otherwise learn fillers by heart. The share of 60 % is
ours.
"""

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase

from trl_weaks.columns import COMPLETION, PROMPT
from trl_weaks.study.data.targets import Slot, encode_slots

_MARKER = re.compile(r"_[a-z]_")
_EMPTY_KEPT = 0.25  # of the turns without slots: half of all turns would teach "{}" and nothing else


def span_copy(texts: Iterable[str], seed: int = 0, random_share: float = 0.6) -> Iterator[dict[str, str]]:
    """One row for each sentence of at least two words and without a marker; others are passed over.

    Args:
        texts: unlabelled sentences; words are what white space separates.
        seed: with the texts, determines the rows.
        random_share: probability that a word of a span is replaced by 2 to 8 random letters.

    Raises:
        ValueError: a share outside [0, 1].
    """
    _check(random_share)
    rng = random.Random(f"span copy:{seed}")
    for text in texts:
        words = text.split()
        if len(words) < 2 or _MARKER.search(text):
            continue
        spans = _spans(len(words), rng)
        words = _disguised(words, spans, random_share, rng)
        blanked, slots, position = [], [], 0
        for (start, end), letter in zip(spans, rng.sample(ascii_lowercase, len(spans)), strict=True):
            blanked += [*words[position:start], f"_{letter}_"]
            slots.append((letter, " ".join(words[start:end])))
            position = end
        blanked += words[position:]
        yield {PROMPT: f"{' '.join(words)}\n{' '.join(blanked)}\n", COMPLETION: encode_slots(slots)}


def dialogues(turns: Iterable[dict], seed: int = 0, random_share: float = 0.6) -> Iterator[dict[str, str]]:
    """A row for each turn whose slots are runs of its words, in the form of the task's short prompt.

    Text is lower-cased and loses its marks, as SLURP's has none. Three quarters of the turns without slots are left
    out, and so are turns whose slots overlap.

    Args:
        turns: `{"text": str, "slots": [[slot name, filler], ...]}`, see `read_turns`.
        seed: with the turns, determines the rows.
        random_share: probability that a word of a filler is replaced by 2 to 8 random letters.

    Raises:
        ValueError: a share outside [0, 1].
    """
    _check(random_share)
    rng = random.Random(f"dialogues:{seed}")
    for turn in turns:
        words = _plain(turn["text"])
        slots = [(name, _plain(filler)) for name, filler in turn["slots"]]
        spans = _find(words, [filler for _, filler in slots])
        if not words or spans is None or (not slots and rng.random() >= _EMPTY_KEPT):
            continue
        words = _disguised(words, spans, random_share, rng)
        named: list[Slot] = [
            (name, " ".join(words[start:end])) for (name, _), (start, end) in zip(slots, spans, strict=True)
        ]
        yield {PROMPT: " ".join(words) + "\n", COMPLETION: encode_slots(named)}


def read_turns(folder: Path) -> Iterator[dict]:
    """The rows of `turns.jsonl.gz`, one at a time. Raises ValueError naming file, line and field of a bad one."""
    path = Path(folder) / "turns.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                turn = json.loads(line)
                fine = isinstance(turn["text"], str) and all(
                    isinstance(name, str) and isinstance(filler, str) for name, filler in turn["slots"]
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error!r}; an object with text and slots is needed"
                ) from error
            if not fine:
                raise ValueError(f"{path}, line {number}: 'text' and the slots' names and fillers must be strings")
            yield turn


def _check(random_share: float) -> None:
    if not 0 <= random_share <= 1:
        raise ValueError(f"random_share {random_share} is a probability, in [0, 1]")


def _spans(length: int, rng: random.Random) -> list[tuple[int, int]]:
    """One to three spans of one to four words, in order, with at least one word between two of them."""
    spans: list[tuple[int, int]] = []
    for _ in range(rng.randint(1, 3)):
        size = min(rng.choice((1, 1, 2, 2, 3, 4)), length - 1)
        start = rng.randrange(length - size + 1)
        if all(start > end or start + size < begin for begin, end in spans):
            spans.append((start, start + size))
    return sorted(spans)


def _disguised(words: list[str], spans: list[tuple[int, int]], share: float, rng: random.Random) -> list[str]:
    words = list(words)
    for start, end in spans:
        for position in range(start, end):
            if rng.random() < share:
                words[position] = "".join(rng.choices(ascii_lowercase, k=rng.randint(2, 8)))
    return words


def _plain(text: str) -> list[str]:
    """Lower-case words without punctuation at their ends; "john's" becomes "john 's"."""
    words = re.sub(r"'s\b", " 's", text.lower()).split()
    return [bare for bare in (word.strip('.,?!;:"()[]') for word in words) if bare]


def _find(words: list[str], fillers: list[list[str]]) -> list[tuple[int, int]] | None:
    """Where each filler stands, no two overlapping: after the one before it if possible, else the first free place."""
    spans: list[tuple[int, int]] = []
    for filler in fillers:
        size = len(filler)
        places = [(i, i + size) for i in range(len(words) - size + 1) if size and words[i : i + size] == filler]
        free = [place for place in places if all(place[0] >= end or place[1] <= begin for begin, end in spans)]
        if not free:
            return None
        last = spans[-1][1] if spans else 0
        spans.append(next((place for place in free if place[0] >= last), free[0]))
    return spans
