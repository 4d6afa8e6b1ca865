"""Random tokenizers, texts, columns, settings and orders: each training row is that of a plain-Python reference.

A case is a labelled row: it goes through the trainer's preparation, and is joined on its `example_id` with what the
contract (`trl_weaks/columns.py`) says of it, worked out here with loops over characters. The reference shares nothing
with the package; of a tokenizer it takes ids and offsets alone.
"""

import logging
import math
import re
from collections import Counter
from functools import cache

import pytest
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

DATASETS = 90
ROWS = 9
CASES = Counter()
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


TOKENIZERS = st.builds(
    tokenizer,
    st.sampled_from(["byte-level BPE", "WordPiece", "Unigram", "word level"]),
    st.sampled_from([270, 300, 340]),
    st.sampled_from([0, 3]),
)
PIECES = st.sampled_from(WORDS) | st.sampled_from(SPACES) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Co"]), min_size=1, max_size=3
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=9).map("".join)


@st.composite
def labelled_rows(draw) -> list[dict]:
    """As labelling stores them: spans of any tokenization, several supervisors, any order."""
    rows = []
    with_finished = draw(st.booleans())
    for number in range(draw(st.integers(ROWS - 1, ROWS + 2))):
        completion = draw(TEXTS.filter(str.strip))
        names = draw(st.lists(st.sampled_from(["ann", "bob", "eve"]), min_size=1, max_size=3, unique=True))
        parts = [draw(st.integers(1, 8)) for _ in names]
        row = {"example_id": f"{number:03d}", "prompt": draw(TEXTS), "completion": completion,
               "weak_supervisors": names, "weak_offsets": [], "weak_logps": [],
               "weak_weights": [part / sum(parts) for part in parts]}  # fmt: skip
        for _ in names:
            cuts = draw(st.sets(st.integers(1, max(1, len(completion) - 1)), max_size=6))
            edges = [0, *sorted(c for c in cuts if c < len(completion)), len(completion)]
            spans = [[a, b] for a, b in zip(edges, edges[1:], strict=False)] + [[len(completion)] * 2]
            row["weak_offsets"].append(spans)
            row["weak_logps"].append([-draw(st.integers(0, 64)) / 16 for _ in spans])
        if with_finished:
            row["weak_finished"] = draw(st.booleans())
        rows.append(row)
    return draw(st.permutations(rows))


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


def student(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=512,
        )  # fmt: skip
    )


def texts_of(row: dict) -> list[dict]:
    """The texts of a training row, which packing may have put together: each its ids, labels, units, weights."""
    lengths = row.get("seq_lengths") or [len(row["input_ids"])]
    weights = row["weak_row_weights"] if "seq_lengths" in row else [row["weak_row_weights"]] * len(row["input_ids"])
    found, start = [], 0
    for length in lengths:
        at = slice(start, start + length)
        per_token = weights[at]
        assert all(w == per_token[0] for w in per_token), "a text has its weights on all of its tokens"
        found.append({"ids": row["input_ids"][at], "labels": row["labels"][at], "units": row["weak_unit_ids"][at],
                      "logps": row["weak_unit_logps"][at], "weights": per_token[0]})  # fmt: skip
        start += length
    return found


def same(found: dict, reference: dict, scale: float) -> bool:
    if list(found["ids"]) != reference["ids"] or list(found["labels"]) != reference["labels"]:
        return False
    units = {i: u for i, u in enumerate(found["units"]) if u >= 0}
    return (
        units == reference["units"]
        and found["weights"] == pytest.approx([w * scale for w in reference["weights"]])
        and all(found["logps"][i] == pytest.approx(logps, abs=1e-5) for i, logps in reference["logps"].items())
    )


@pytest.fixture(scope="module", autouse=True)
def quiet():
    disable_progress_bars()
    level = logging.getLogger("trl").level
    logging.getLogger("trl").setLevel(logging.ERROR)
    yield
    logging.getLogger("trl").setLevel(level)
    enable_progress_bars()


@settings(
    max_examples=DATASETS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # making a failure smaller would take minutes
)
@given(
    rows=labelled_rows(),
    tok=TOKENIZERS,
    unit=st.sampled_from(["word", "span"]),
    max_length=st.sampled_from([None, 24, 200]),
    layout=st.sampled_from(["rows", "packing", "padding_free"]),
    shuffle=st.booleans(),
)
def test_every_training_row_is_the_references(tmp_path_factory, rows, tok, unit, max_length, layout, shuffle):
    references = {row["example_id"]: expected_row(row, tok, unit) for row in rows}
    rows = [row for row in rows if references[row["example_id"]] is not None]
    limit = 200 if layout == "packing" and max_length is None else max_length
    limit = None if layout == "padding_free" else limit  # TRL refuses both together
    kept = {row["example_id"]: references[row["example_id"]] for row in rows}
    kept = {key: r for key, r in kept.items() if limit is None or len(r["ids"]) <= limit}
    if not kept:
        return
    folder = tmp_path_factory.getbasetemp() / "labels"
    Dataset.from_list(rows).save_to_disk(folder)
    labelled = Dataset.load_from_disk(folder, keep_in_memory=True)
    args = WeakSupervisionConfig(
        str(folder / "out"), use_cpu=True, bf16=False, report_to="none", confidence_unit=unit,
        max_length=limit,
        overlong="drop", packing=layout == "packing", padding_free=layout == "padding_free", shuffle_dataset=shuffle,
        seed=5, disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = WeakSupervisionTrainer(student(len(tok)), args, train_dataset=labelled, processing_class=tok)
    tokens = sum(len(r["units"]) for r in kept.values())
    scale = tokens / sum(len(r["units"]) * sum(r["weights"]) for r in kept.values())
    prepared = trainer.train_dataset.to_list()
    if layout == "packing":  # packed rows carry no ids: each reference is found once
        left = dict(kept)
        for found in [text for row in prepared for text in texts_of(row)]:
            match = next((key for key, reference in left.items() if same(found, reference, scale)), None)
            assert match is not None, found
            del left[match]
        assert not left
    else:
        assert sorted(row["example_id"] for row in prepared) == sorted(kept)
        for row in prepared:
            (found,) = texts_of(row)
            assert same(found, kept[row["example_id"]], scale), (row["example_id"], found, kept[row["example_id"]])
    CASES["rows"] += len(kept)
    CASES[layout] += len(kept)


def test_there_were_enough_cases():
    assert CASES["rows"] >= 500, CASES
    assert min(CASES[layout] for layout in ("rows", "packing", "padding_free")) >= 40, CASES
