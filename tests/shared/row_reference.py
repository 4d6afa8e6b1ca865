"""What a labelled row trains, with loops over characters, and tokenizers of several kinds to try it with.

It shares nothing with the package; of a tokenizer it takes ids and offsets alone.
"""

import math
import re
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "wake",
    "me",
    "at",
    "fünf",
    '{"date":',
    '"today"}',
    "naïve",
    "cafe\u0301",
    "日本語",
    "🕔",
    "a",
    "b-c",
    "x",
    "ﷺ",
]
SPACES = [" ", "  ", "\n", "\t", "\u00a0", "\u3000"]
SPECIAL = ["<pad>", "<unk>", "<eos>"]


@cache
def tokenizer(kind: str, size: int, seed: int) -> PreTrainedTokenizerFast:
    """Trained on words in an order that the seed gives; the same on every run."""
    words = WORDS[seed:] + WORDS[:seed]
    corpus = [" ".join(words), "\n".join(words[::2]), " ".join(words[1::2] * 2)]
    letters = sorted(set("".join(corpus + SPACES)))
    given = {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "byte-level BPE":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **given)
    elif kind == "WordPiece":
        raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
        raw.normalizer, raw.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(initial_alphabet=letters, **given)
    elif kind == "Unigram":
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(unk_token="<unk>", initial_alphabet=letters, **given)
    else:
        raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(**given)
    raw.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")


def groups(tokenizations: list[list[tuple[int, int]]], atoms_of, count: int) -> list[int]:
    """The unit of each atom: neighbours are one while a token lies over both, or a tokenization has nothing yet."""
    covers = [[atoms_of(*span) for span in spans] for spans in tokenizations]
    unit, units, waiting = 0, [], set(range(len(covers)))
    for atom in range(count):
        across = any(atom in atoms and atom - 1 in atoms for spans in covers for atoms in spans)
        if units and not across and not waiting:
            unit, waiting = unit + 1, set(range(len(covers)))
        units.append(unit)
        waiting -= {which for which, spans in enumerate(covers) if any(atoms[0] == atom for atoms in spans)}
    return [min(u, max(unit - 1, 0)) for u in units] if waiting else units


def atoms(text: str, unit: str):
    """What a span lies over, in words or characters; and how many there are."""
    if unit == "span":
        return (lambda a, b: list(range(a, max(b, a + 1)))), len(text) + 1
    words = [m.span() for m in re.finditer(r"\S+", text)]

    def of(a: int, b: int) -> list[int]:
        over = [i for i, (start, end) in enumerate(words) if start < b and end > a]
        after = [i for i, (_, end) in enumerate(words) if end > a]
        return over or after[:1] or [len(words) - 1]

    return of, len(words)


def expected_row(row: dict, tok: PreTrainedTokenizerFast, unit: str, split: str = "confidence") -> dict | None:
    """Ids, labels, and for each trained token (unit, log-probability of the unit under each supervisor)."""
    prompt, text = row["prompt"], row["completion"]
    whole = prompt + text + ("" if text.endswith(tok.eos_token) else tok.eos_token)
    encoded = tok(whole, return_offsets_mapping=True)
    ids, alone = encoded["input_ids"], tok(prompt)["input_ids"]
    begin = next((i for i, (x, y) in enumerate(zip(ids, alone, strict=False)) if x != y), len(alone))  # TRL's boundary
    spans = []
    for a, b in encoded["offset_mapping"]:
        if a >= len(prompt) + len(text):
            spans.append((len(text), len(text)))
        else:
            spans.append(tuple(min(max(x - len(prompt), 0), len(text)) for x in (a, b)))
    learnt = [i for i in range(begin, len(ids)) if row.get("weak_finished", True) or spans[i][0] < len(text)]
    if not learnt:
        return None
    sources = []
    for theirs, logps in zip(row["weak_offsets"], row["weak_logps"], strict=True):
        ends = any(spans[i][0] >= len(text) for i in learnt)
        kept = [(tuple(s), lp) for s, lp in zip(theirs, logps, strict=True) if ends or s[0] < len(text)]
        sources.append(kept)
    of, count = atoms(text, unit)
    units = groups([[s for s, _ in source] for source in sources] + [[spans[i] for i in learnt]], of, count)
    token_units = {i: units[of(*spans[i])[0]] for i in learnt}
    logps = {
        i: [sum(lp for s, lp in source if units[of(*s)[0]] == u) for source in sources] for i, u in token_units.items()
    }
    labels = [x if i in token_units else -100 for i, x in enumerate(ids)]
    if 0 in token_units:  # nothing predicts it; the other tokens of its unit keep their equal shares
        unit = token_units.pop(0)
        left = sum(u == unit for u in token_units.values())
        part = left / (left + 1)
        own = {i: [x + math.log(part) if split == "eq8" else x * part for x in logps[i]] for i in token_units}
        logps = {i: own[i] if u == unit else logps[i] for i, u in token_units.items()}
    return {"ids": ids, "labels": labels,
            "units": token_units, "logps": logps, "weights": row["weak_weights"]}  # fmt: skip
