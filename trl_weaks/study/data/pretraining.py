"""Pre-training rows for small models: read sentences, then find a span and copy it. No label of the task is used.

Sources of TRL prompt-completion rows, in the form of the task's short prompt:

- `reading`: unlabelled sentences, to be continued from their first word. It comes first: a model that reads already
  learns to copy in 300 to 500 steps, one with absolute positions (GPT-2, OPT) did not in 5,000 steps without.
- `jumble`: a few words in a row without sense, for the first copies.
- `copying`: unlabelled sentences. The answer is a part of the sentence: all from some word on, " wake me up at five"
  -> {"": " up at five"}, or short spans behind the word before them, -> {"at": " five"}.
- `dialogues`: turns annotated in another ontology (Schema-Guided Dialogue).

In both, words are replaced in prompt and answer alike, so that the answer cannot be remembered and has to be copied.
What was tried on models of 0.1 to 0.6 M parameters (one seed, share of copied tokens right after about 50 s on one
core): long copies and short spans 0.88, short spans only 0.31. Asking for the words behind blanks in a copy of the
sentence taught no copying within five minutes, and a vocabulary of 2,000 pieces slowed it down.
"""

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from trl_weaks.columns import COMPLETION, PROMPT
from trl_weaks.study.data.prompts import FILLER_LEAD
from trl_weaks.study.data.targets import Slot, encode_slots

TURNS = "turns.jsonl.gz"
LEAD = FILLER_LEAD["short"]
_EMPTY_KEPT = 0.25  # of the turns without slots: half of all turns would teach "{}" and nothing else


def curriculum(sentences: Sequence[str], plan: Mapping[str, Any], seed: int = 0) -> list[dict[str, str]]:
    """Rows in the order to train on: reading comes first, then copying.

    Args:
        sentences: unlabelled.
        plan: `reading`, passes over the sentences; `jumbled_copying`, rows of words without sense; `copying`, passes,
            with `mixed_reading` rows of reading for each row of copying; `random_share` and `clean_share` of copying;
            of `training` the batch size, so that the rows of a batch are of much the same length.
        seed: with the rest, determines the rows.
    """
    batch = (plan.get("training") or {}).get("per_device_train_batch_size", 8)
    shares = {name: plan[name] for name in ("random_share", "clean_share") if name in plan}
    read = list(reading(sentences))
    rows = [row for epoch in range(plan.get("reading", 0)) for row in by_length(read, batch, epoch)]
    jumbled = jumble(sentences, plan.get("jumbled_copying", 0), seed)
    rows += by_length(list(copying(jumbled, seed, random_share=0.1)), batch, seed)
    copies = [row for epoch in range(plan.get("copying", 0)) for row in copying(sentences, epoch, **shares)]
    mixed = round(plan.get("mixed_reading", 0) * len(copies))
    return rows + by_length(copies + random.Random(seed).choices(read, k=mixed), batch, seed)


def copying(
    texts: Sequence[str], seed: int = 0, random_share: float = 0.5, clean_share: float = 0.0, long_share: float = 0.5
) -> Iterator[dict[str, str]]:
    """One row for each sentence of at least three words; shorter ones are passed over.

    Args:
        texts: unlabelled sentences; words are what white space separates.
        seed: with the texts, determines the rows.
        random_share: probability that a word is replaced: by another word of the texts, in one case of ten by 2 to 8
            random letters.
        clean_share: share of the sentences that keep all their words.
        long_share: share of the rows whose answer is the rest of the sentence.

    Raises:
        ValueError: a share outside [0, 1].
    """
    _check(random_share, clean_share, long_share)
    rng = random.Random(f"copying:{seed}")
    pool = sorted({word for text in texts for word in text.split()})
    for text in texts:
        words = text.split()
        if len(words) < 3:
            continue
        if rng.random() >= clean_share:
            words = [_other(pool, rng) if rng.random() < random_share else word for word in words]
        if rng.random() < long_share:
            answer = [("", " ".join(words[rng.randrange(1 + len(words) // 2) :]))]
        else:
            answer = _spans(words, rng)
        # Not `encode_slots`: keys may be empty, and a stand-alone "&" is a word like any other here.
        completion = json.dumps({key: LEAD + value for key, value in answer}, ensure_ascii=False)
        yield {PROMPT: f"{LEAD}{' '.join(words)}\n", COMPLETION: completion}


def reading(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """One row for each sentence of at least two words: it goes on behind its first word."""
    for text in texts:
        first, _, rest = text.strip().partition(" ")
        if rest:
            yield {PROMPT: LEAD + first, COMPLETION: LEAD + rest}


def jumble(texts: Iterable[str], size: int, seed: int = 0) -> list[str]:
    """`size` sentences of three to six words drawn from those of the texts, each word as likely as any other."""
    rng = random.Random(f"jumble:{seed}")
    pool = sorted({word for text in texts for word in text.split()})
    return [" ".join(rng.choices(pool, k=rng.randint(3, 6))) for _ in range(size)]


def by_length(rows: Sequence[dict[str, str]], batch_size: int, seed: int = 0) -> list[dict[str, str]]:
    """The rows in a random order in which those of one batch, read in sequence, are of much the same length."""
    rng = random.Random(f"by_length:{seed}")
    shuffled = rng.sample(rows, len(rows))
    window = 20 * batch_size
    ordered = []
    for start in range(0, len(shuffled), window):
        near = sorted(shuffled[start : start + window], key=lambda row: len(row[PROMPT]) + len(row[COMPLETION]))
        batches = [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
        if len(batches[-1]) == batch_size:  # a short one stays at the end, so that batches do not shift
            rng.shuffle(batches)
        ordered += [row for batch in batches for row in batch]
    return ordered


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
        yield {PROMPT: f"{LEAD}{' '.join(words)}\n", COMPLETION: encode_slots(named, LEAD)}


def read_turns(folder: Path) -> Iterator[dict]:
    """The rows of `turns.jsonl.gz`, one at a time. Raises ValueError naming file, line and field of a bad one."""
    path = Path(folder) / TURNS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there; turns of dialogues are needed, one JSON object with text and slots a line"
        )
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


def _check(*shares: float) -> None:
    for share in shares:
        if not 0 <= share <= 1:
            raise ValueError(f"{share} is not a probability, in [0, 1]")


def _spans(words: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """One to three (word, the one to eight words after it), in order and apart."""
    found: dict[str, str] = {}
    start = 0
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        if start > len(words) - 2:
            break
        key = rng.randrange(start, len(words) - 1)
        end = key + 1 + min(rng.choice((1, 2, 3, 4, 5, 6, 8)), len(words) - 1 - key)
        found.setdefault(words[key], " ".join(words[key + 1 : end]))
        start = end
    return list(found.items())


def _other(pool: list[str], rng: random.Random) -> str:
    return _letters(rng) if rng.random() < 0.1 else rng.choice(pool)


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(ascii_lowercase, k=rng.randint(2, 8)))


def _disguised(words: list[str], spans: list[tuple[int, int]], share: float, rng: random.Random) -> list[str]:
    words = list(words)
    for start, end in spans:
        for position in range(start, end):
            if rng.random() < share:
                words[position] = _letters(rng)
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
