"""Append-only labels on disk: a killed run loses the batch in flight and nothing else.

Every process appends JSON lines to a shard of its own; a shard is never written again by a later run. A line carries
the digest of its record, so that a torn or altered line is seen, named, and made again. A record belongs to one
(example, supervisor, stage) under one configuration digest; records of another configuration are left alone and
never read. Where a record occurs twice the one in the last shard holds.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ...files import LabelStoreError, refused

logger = logging.getLogger(__name__)

HEAD = '{"check":"'
MOST_OPEN = 64  # shards; many restarts of many processes leave more than a process may open
MIDDLE = '","record":'


class StoredLabels:
    """The shards of earlier runs, for reading alone: nothing is created or written.

    Args:
        folder: may be missing, and holds nothing then.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.damaged = 0  # lines that `records` met
        self._open: dict[int, BinaryIO] = {}
        self.shards = sorted(folder.glob("shard-*.jsonl"))
        self._earlier = len(self.shards)

    def records(self) -> Iterator[tuple[dict, tuple[int, int]]]:
        """Every sound record of earlier runs and its place; a damaged line is counted, named in a warning, skipped."""
        self.damaged = 0
        for number, path in enumerate(self.shards[: self._earlier]):
            place = 0
            with path.open("rb") as file:
                for count, line in enumerate(file, start=1):
                    record = _parse(line)
                    if record is None:
                        self.damaged += 1
                        logger.warning("%s, line %d: damaged or cut short; labelling makes it again.", path, count)
                    else:
                        yield record, (number, place)
                    place += len(line)

    def read(self, place: tuple[int, int]) -> dict:
        """The record at a place that `records` gave or `append` returned."""
        if place[0] not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[place[0]] = self.shards[place[0]].open("rb")
        file = self._open[place[0]]
        file.seek(place[1])
        record = _parse(file.readline())
        if record is None:
            raise LabelStoreError(
                f"{self.shards[place[0]]} was altered while it was read; run again, damaged labels are made again."
            )
        return record

    def close(self) -> None:
        """Close all shards."""
        for file in self._open.values():
            file.close()
        self._open.clear()


class LabelStore(StoredLabels):
    """The shards of one output folder, and a new one to write to.

    Args:
        folder: created if missing.
        tag: sorts the shards of one run, e.g. the rank.

    Raises:
        LabelStoreError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path, tag: str = "0"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            super().__init__(folder)
            taken = [int(path.name.split("-")[1]) for path in self.shards]
            self.path = folder / f"shard-{max(taken, default=-1) + 1:06d}-{tag}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
        except OSError as error:
            raise refused(folder, error) from error

    def append(self, records: Iterable[dict]) -> list[tuple[int, int]]:
        """Write records as one piece and make sure that they are on the disk.

        Raises:
            LabelStoreError: disk full, read-only or gone. Earlier records are kept.
        """
        lines = [_line(record) for record in records]
        if self.path not in self.shards:
            self.shards.append(self.path)
        start = os.fstat(self._file).st_size
        try:
            data = memoryview(b"".join(lines))
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, start)
            raise refused(self.folder, error) from error
        places, shard = [], self.shards.index(self.path)
        for line in lines:
            places.append((shard, start))
            start += len(line)
        return places

    def close(self) -> None:
        """Close all shards; this run's is removed if empty."""
        super().close()
        empty = os.fstat(self._file).st_size == 0
        os.close(self._file)
        if empty:
            self.path.unlink()


def _line(record: dict) -> bytes:
    body = json.dumps(record, ensure_ascii=True, separators=(",", ":"))
    return f"{HEAD}{_check(body)}{MIDDLE}{body}}}\n".encode("ascii")


def _parse(line: bytes) -> dict | None:
    """The record of a line, or None unless every byte is as written."""
    start = len(HEAD) + 16 + len(MIDDLE)
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        return None
    body = text[start:-2]
    if text[:start] != f"{HEAD}{_check(body)}{MIDDLE}" or text[-2:] != "}\n":
        return None
    return json.loads(body)


def _check(body: str) -> str:
    return hashlib.sha256(body.encode("ascii")).hexdigest()[:16]
