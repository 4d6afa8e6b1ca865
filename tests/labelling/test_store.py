"""The label store: what is written is read back, what is damaged is named, what cannot be written says so."""

import errno
import os

import pytest

from trl_weaks.labelling.storage import store as module
from trl_weaks.labelling.storage.store import LabelStore, LabelStoreError

RECORDS = [{"example_id": f"e{i}", "stage": "s", "text": 'é🙂\n"' * i} for i in range(5)]


def test_records_come_back(tmp_path):
    store = LabelStore(tmp_path / "new" / "folder")
    places = store.append(RECORDS[:3]) + store.append(RECORDS[3:])
    assert [store.read(place) for place in places] == RECORDS
    assert list(store.records()) == [], "only earlier runs' records"
    store.close()
    again = LabelStore(tmp_path / "new" / "folder")
    assert [record for record, _ in again.records()] == RECORDS
    assert [again.read(place) for _, place in again.records()] == RECORDS
    again.close()
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1, "an empty shard is removed"


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_every_cut_is_seen(tmp_path, caplog, cut):
    store = LabelStore(tmp_path)
    store.append(RECORDS)
    store.close()
    data = store.path.read_bytes()
    store.path.write_bytes(data[:-cut])
    assert [record for record, _ in LabelStore(tmp_path).records()] == RECORDS[:4]
    assert f"{store.path}, line 5: damaged" in caplog.text


def test_every_changed_byte_is_seen(tmp_path):
    line = module._line(RECORDS[1])
    for i in range(len(line)):
        for byte in (line[i] ^ 1, line[i] ^ 128):
            assert module._parse(line[:i] + bytes([byte]) + line[i + 1 :]) is None, i
    assert module._parse(line) == RECORDS[1]


def test_shards_are_read_in_the_order_of_runs(tmp_path):
    for text in ("old", "new"):
        store = LabelStore(tmp_path, tag="0")
        store.append([{"text": text}])
        store.close()
    assert [record["text"] for record, _ in LabelStore(tmp_path).records()] == ["old", "new"]


def test_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
    store = LabelStore(tmp_path)
    store.append(RECORDS[:2])
    real = os.write

    def half(descriptor, data):
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:40])

    monkeypatch.setattr(module.os, "write", half)
    with pytest.raises(LabelStoreError, match="No space left on device. Everything labelled so far is kept"):
        store.append(RECORDS[2:])
    monkeypatch.undo()
    assert [record for record, _ in LabelStore(tmp_path).records()] == RECORDS[:2]
    store.append(RECORDS[2:])
    assert [record for record, _ in LabelStore(tmp_path).records()] == RECORDS


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabelStoreError, match="cannot be written"):
        LabelStore(tmp_path / "file" / "labels")


def test_altered_while_reading(tmp_path):
    store = LabelStore(tmp_path)
    (place,) = store.append(RECORDS[:1])
    store.path.write_bytes(b"x" * 100)
    with pytest.raises(LabelStoreError, match="was altered"):
        store.read(place)
