"""Transfer across tokenizations: sums are kept, units are the finest ones that hold every token whole."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from trl_weaks.alignment import assign_units, split_logps, student_shares, transfer_logps, unit_logps

CORPUS = [
    '{"date": "tomorrow", "time": "5 55 pm", "person": "kate\'s"}',
    '{"event_name": "meeting with pawel"} wake me up at nine am on friday',
    "naïve café 東京に行きます 🙂👩‍👩‍👧 résumé e\u0301a\u0308  two  spaces\ttab\nline",
] * 4


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(size: int, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _train(tokenizer, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))


def metaspace_unigram() -> Tokenizer:
    """Unigram over ▁-marked text; unknown characters fall back to bytes that share one character span."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trained = _train(tokenizer, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", show_progress=False))
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    ascii_only = [(p, -float(i)) for i, p in enumerate(pieces) if p.isascii() or "▁" in p]
    vocab = [("<unk>", 0.0), *((f"<0x{b:02X}>", -99.0) for b in range(256)), *ascii_only]
    vocab = list(dict(vocab).items())
    fallback = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    fallback.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback.decoder = decoders.ByteFallback()
    return fallback


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _train(tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False))


@cache
def tokenizers_by_name() -> dict[str, Tokenizer]:
    characters = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return {
        "bytes": byte_level(256, prefix=False),
        "byte-level": byte_level(330, prefix=False),
        "byte-level prefix": byte_level(420, prefix=True),
        "metaspace": metaspace_unigram(),
        "word-piece": word_piece(),
        "characters": characters,
    }


def spans(name: str, text: str, eos: bool) -> list[tuple[int, int]]:
    return tokenizers_by_name()[name].encode(text).offsets + [(len(text), len(text))] * eos


texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet='ab 5\t\n{}":,é東京🙂👩‍👧e\u0301\u00a0\u3000▁', max_size=40),
    st.sampled_from(CORPUS),
)
names = st.sampled_from(["bytes", "byte-level", "byte-level prefix", "metaspace", "word-piece", "characters"])


def runs_upwards(ids: list[int], num_units: int) -> bool:
    return set(ids) == set(range(num_units)) and ids == sorted(ids)


@settings(max_examples=250, deadline=None)
@given(text=texts, source=names, target=names, eos=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 9999))
@pytest.mark.parametrize("unit", ["word", "span"])
def test_unit_sums_survive_any_pair_of_tokenizers(unit, text, source, target, eos, seed):
    source_spans, target_spans = spans(source, text, eos[0]), spans(target, text, eos[1])
    if not source_spans or not target_spans:
        return
    generator = torch.Generator().manual_seed(seed)
    logps = -20 * torch.rand(len(source_spans), generator=generator, dtype=torch.float64)
    shares = 0.01 + torch.rand(len(target_spans), generator=generator, dtype=torch.float64)

    target_ids, (source_ids,) = assign_units([source_spans], target_spans, text, unit)
    num_units = target_ids[-1] + 1
    assert len(target_ids) == len(target_spans) and runs_upwards(target_ids, num_units)
    assert len(source_ids) == len(source_spans) and runs_upwards(source_ids, num_units)

    moved = transfer_logps(source_spans, logps, target_spans, shares, text, unit)
    assert (moved <= 0).all()
    for u in range(num_units):
        given_out = sum(float(m) for m, i in zip(moved, target_ids, strict=True) if i == u)
        had = sum(float(p) for p, i in zip(logps, source_ids, strict=True) if i == u)
        assert math.isclose(given_out, had, rel_tol=0, abs_tol=1e-9)


def straddles(spans: list[tuple[int, int]], cut: int) -> bool:
    return any(start < cut < end for start, end in spans)


@settings(max_examples=150, deadline=None)
@given(text=texts, pair=st.tuples(names, names))
def test_span_boundaries_are_exactly_the_common_ones(text, pair):
    """Brute force: cut wherever no token straddles, then join a piece that lacks a tokenization to its neighbour."""
    sides = [spans(name, text, eos=True) for name in pair]
    cuts = [c for c in range(1, len(text)) if not any(straddles(s, c) for s in sides)] + ([len(text)] if text else [])
    pieces, start = [], 0
    for cut in cuts:
        if all(any(start <= s < cut for s, _ in side) for side in sides):
            pieces.append((start, cut))
            start = cut
    if start < len(text):  # the tail's characters have no token on one side: they join the end-of-sequence unit
        pieces.append((start, len(text) + 1))
    else:
        pieces.append((len(text), len(text) + 1))
    expected = [[next(u for u, (a, b) in enumerate(pieces) if a <= s < b) for s, _ in side] for side in sides]
    target_ids, (source_ids,) = assign_units(sides[:1], sides[1], text, "span")
    assert [source_ids, target_ids] == expected


@settings(max_examples=150, deadline=None)
@given(words=st.lists(st.text(alphabet='ab5{":é東', min_size=1, max_size=6), min_size=1, max_size=6), name=names)
def test_words_are_the_units_where_tokens_keep_to_words(words, name):
    """With single spaces, no token of these tokenizers spans two words: one unit a word, EOS glued to the last."""
    text = " ".join(words)
    side = spans(name, text, eos=True)
    byte_side = spans("bytes", text, eos=True)
    target_ids, (source_ids,) = assign_units([side], byte_side, text, "word")
    assert target_ids[-1] + 1 == len(words)
    for ids, tokens in ((source_ids, side), (target_ids, byte_side)):
        for unit, (start, end) in zip(ids, tokens, strict=True):
            assert unit == min(len(text[:end].split()), len(words)) - 1 or text[start:end].isspace()


def test_units_are_common_to_all_supervisors():
    text = "ab cd ef"
    across = [(0, 2), (2, 7), (7, 8), (8, 8)]  # one token lies over "cd" and "ef"
    apart = [(0, 2), (2, 5), (5, 8), (8, 8)]
    assert assign_units([apart], apart, text, "word") == ([0, 1, 2, 2], [[0, 1, 2, 2]])
    assert assign_units([apart, across], apart, text, "word") == ([0, 1, 1, 1], [[0, 1, 1, 1], [0, 1, 1, 1]])


JSON, COARSE, FINE = '{"a": "b"}', [(0, 5), (5, 10), (10, 10)], [(0, 2), (2, 5), (5, 10), (10, 10)]


@pytest.mark.parametrize(
    "text, source, target, unit, expected",
    [
        (JSON, COARSE, FINE, "word", ([0, 0, 1, 1], [[0, 1, 1]])),
        (JSON, COARSE, FINE, "span", ([0, 0, 1, 2], [[0, 1, 2]])),
        ("", [(0, 0)], [(0, 0)], "word", ([0], [[0]])),
        ("", [(0, 0)], [(0, 0)], "span", ([0], [[0]])),
        ("  ", [(0, 1), (1, 2)], [(0, 2), (2, 2)], "word", ([0, 0], [[0, 0]])),
        # WordPiece drops the space that is a token of its own elsewhere: it joins the word after it
        ("a b", [(0, 1), (2, 3)], [(0, 1), (1, 2), (2, 3)], "span", ([0, 1, 1], [[0, 1]])),
        # one side was cut off before its end-of-sequence token
        ("ab", [(0, 2)], [(0, 1), (1, 2), (2, 2)], "span", ([0, 0, 0], [[0]])),
        # three byte tokens of one character; an empty ▁ before it
        ("a 東", [(0, 1), (1, 1), (2, 3), (2, 3), (2, 3)], [(0, 1), (1, 3)], "word", ([0, 1], [[0, 1, 1, 1, 1]])),
        # byte-level tokens that overlap: the end of one character and the beginning of the next
        ("🙂🙂", [(0, 1), (0, 2), (1, 2)], [(0, 1), (1, 2)], "span", ([0, 0], [[0, 0, 0]])),
        ("東京 へ", [(0, 1), (1, 2), (2, 4)], [(0, 2), (2, 3), (3, 4)], "span", ([0, 1, 1], [[0, 0, 1]])),
    ],
)  # fmt: skip
def test_units_by_hand(text, source, target, unit, expected):
    assert assign_units([source], target, text, unit) == expected


def test_transfer_by_hand():
    """P("hello") = e^-3 over two source tokens, given to three target tokens in shares 1:2:3."""
    moved = transfer_logps(
        [(0, 3), (3, 5), (5, 5)], [-1.0, -2.0, -0.5], [(0, 1), (1, 2), (2, 5), (5, 5)], [1, 2, 3, 1]
    )
    torch.testing.assert_close(moved, torch.tensor([-0.5, -1.0, -1.5, -0.5], dtype=torch.float64))


def test_default_unit_is_the_word_where_there_is_text():
    offsets, logps = [(0, 1), (1, 3), (3, 3)], [-1.0, -2.0, -4.0]
    torch.testing.assert_close(
        transfer_logps(offsets, logps, offsets, text="a b"), torch.tensor([-1.0, -3, -3]).double()
    )
    torch.testing.assert_close(transfer_logps(offsets, logps, offsets), torch.tensor(logps).double())


def test_same_tokenization_by_span_changes_nothing():
    text = CORPUS[1]
    offsets = spans("byte-level", text, eos=True)
    logps = -torch.rand(len(offsets), dtype=torch.float64)
    torch.testing.assert_close(transfer_logps(offsets, logps, offsets, text=text, unit="span"), logps, rtol=0, atol=0)


def test_printed_equation_8_sums_where_the_log_split_multiplies():
    totals, ids, confidence = (
        torch.tensor([0.9]).log().double(),
        torch.tensor([0, 0, 0]),
        torch.tensor([0.9, 0.5, 0.1]),
    )
    shares = student_shares(confidence, ids, 1, split="printed")
    torch.testing.assert_close(shares, confidence.exp() / confidence.exp().sum())
    printed = split_logps(totals, ids, shares, split="printed").exp()
    assert math.isclose(float(printed.sum()), 0.9, rel_tol=1e-6)
    assert printed[0] > printed[2]
    logs = split_logps(totals, ids, student_shares(confidence, ids, 1)).exp()
    assert math.isclose(float(logs.prod()), 0.9, rel_tol=1e-6)
    assert logs[0] > logs[2]  # in both the surer token keeps the higher probability


def test_student_shares_are_a_softmax_in_each_unit_without_gradient():
    confidence = torch.rand(7, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 0, 1, 2, 2, 2, 2])
    shares = student_shares(confidence, ids, 3, temperature=0.3)
    expected = torch.cat([(-confidence[ids == u] / 0.3).softmax(0) for u in range(3)])
    torch.testing.assert_close(shares, expected.detach())
    assert not shares.requires_grad
    extreme = student_shares(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), 1, temperature=1e-4)
    torch.testing.assert_close(extreme, torch.tensor([1.0, 0.0]))


OK = [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: transfer_logps([(0, 1), (1, 3)], [-1, -1], OK, text="ab"), r"source_offsets\[0\]\[1\] = \(1, 3\)"),
        (lambda: transfer_logps([(0, 1), (-1, 2)], [-1, -1], OK), r"source_offsets\[0\]\[1\]"),
        (lambda: transfer_logps([(0, 2), (2, 1)], [-1, -1], OK), r"source_offsets\[0\]\[1\]"),
        (lambda: transfer_logps(OK, [-1, -1], [(1, 2), (0, 2)], text="ab"), r"target_offsets\[1\].*runs back"),
        (lambda: transfer_logps(OK, [-1, -1], [(0, 2), (0, 1)], text="ab"), r"target_offsets\[1\].*runs back"),
        (lambda: transfer_logps(OK, [-1], OK), "1 log-probabilities for 2 source tokens"),
        (lambda: transfer_logps(OK, [-1, 0.1], OK), r"source_logps\[1\] = 0.1"),
        (lambda: transfer_logps(OK, [math.nan, 0], OK), r"source_logps\[0\] = nan"),
        (lambda: transfer_logps(OK, [-math.inf, 0], OK), r"source_logps\[0\] = -inf"),
        (lambda: transfer_logps(OK, [-1, -1], OK, shares=[1.0]), "1 shares for 2 target tokens"),
        (lambda: transfer_logps(OK, [-1, -1], OK, shares=[1.0, 0.0]), r"shares\[1\]"),
        (lambda: transfer_logps(OK, [-1, -1], OK, shares=[1.0, -1.0]), r"shares\[1\]"),
        (lambda: transfer_logps(OK, [-1, -1], OK, unit="word"), "needs `text`"),
        (lambda: transfer_logps(OK, [-1, -1], OK, unit="piece"), "unit must be"),
        (lambda: transfer_logps(OK, [-1, -1], OK, split="half"), "split must be"),
        (lambda: transfer_logps([], [], OK), r"source_offsets\[0\] is empty"),
        (lambda: transfer_logps(OK, [-1, -1], []), "target_offsets is empty"),
        (lambda: unit_logps([0, 1], [-1.0, 1e-3], 2), r"source_logps\[1\]"),
        (lambda: student_shares(torch.ones(1), torch.zeros(1, dtype=torch.long), 1, temperature=0), "temperature"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_position(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_above_zero_is_certainty():
    assert unit_logps([0, 0], [1e-6, -1.0], 1).tolist() == [-1.0]


def test_nothing_to_transfer():
    assert transfer_logps([], [], []).shape == (0,)
    assert assign_units([[], []], [], "") == ([], [[], []])
