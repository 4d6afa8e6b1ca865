"""The index of prompts: what it finds, what it refuses, how little it holds, and the order of the work."""

import datasets
import pytest

from trl_weaks.labelling.storage import index as module
from trl_weaks.labelling.storage.index import Batches, Prompts


def data(ids):
    return datasets.Dataset.from_dict({"example_id": ids, "prompt": ["p"] * len(ids)})


def test_ids_and_rows_belong_together(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    ids = [f"é{i * i}" for i in range(50)]
    index = Prompts(data(ids))
    assert [index.row(example) for example in ids] == list(range(50)) and index.row("other") is None
    assert index.ids([3, 1, 49]) == [ids[3], ids[1], ids[49]] and len(index) == 50


def test_first_repeated_id_is_named():
    with pytest.raises(ValueError, match="rows 1 and 3: column 'example_id' repeats 'b'"):
        Prompts(data(["a", "b", "c", "b", "a", "b"]))


def test_ids_that_share_a_digest_are_not_taken_for_one(monkeypatch):
    monkeypatch.setattr(module, "_short", lambda text: len(text))
    with pytest.raises(ValueError, match="rows 0 and 2: ids 'a' and 'b' share a digest"):
        Prompts(data(["a", "cc", "b"]))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_are_sorted_by_prefix_then_length(size):
    index = Prompts(data([str(i) for i in range(8)]))
    index.groups.extend([0, -1, 0, 1, 0, 1, -1, 0])
    index.lengths.extend([5, 3, 9, 4, 5, 4, 8, 1])
    batches = Batches(index, size)
    rows = [row for batch in batches for row in batch]
    assert rows == sorted(range(8), key=lambda row: (index.groups[row], -index.lengths[row], row))
    assert len(batches) == -(-8 // size) == len(list(batches)) and all(len(batch) <= size for batch in batches)
    with pytest.raises(IndexError):
        batches[len(batches)]
