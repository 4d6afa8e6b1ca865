"""Random tokenizers, texts, columns, settings and orders: each training row is that of a plain-Python reference.

A case is a labelled row: it goes through the trainer's preparation, and is joined on its `example_id` with what the
contract (`trl_weaks/columns.py`) says of it, worked out by `shared/row_reference.py`.
"""

import logging
from collections import Counter

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from row_reference import SPACES, WORDS, expected_row, tokenizer
from tiny import causal_lm
from transformers import PreTrainedModel

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

DATASETS = 90
ROWS = 9
CASES = Counter()
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


def student(vocabulary: int) -> PreTrainedModel:
    return causal_lm("llama", vocabulary, width=8, inner=8, heads=1, positions=512)


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
