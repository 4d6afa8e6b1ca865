"""What labelling keeps in memory of a dataset of any size: about 40 bytes a row, and no text."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset

from ...columns import EXAMPLE_ID

BLOCK = 1000


class Prompts:
    """An index of prompts: their ids stay in the dataset, and are found again by a digest of eight bytes.

    Attributes:
        digests: digest of each row's prompt.
        lengths: tokens of each row's prompt, the longest over the supervisors.
        groups: which shared prefix each row's prompt begins with, for the first supervisor; -1 for none.

    Raises:
        ValueError: an id that is not a non-empty string, or that two rows have.
    """

    def __init__(self, dataset: Dataset):
        self._ids = dataset.select_columns([EXAMPLE_ID])
        self.digests, self.lengths, self.groups = array("Q"), array("i"), array("b")
        found = np.empty(len(dataset), dtype=np.uint64)
        for start in range(0, len(dataset), BLOCK):
            for row, example_id in enumerate(self._ids[start : start + BLOCK][EXAMPLE_ID], start=start):
                if not isinstance(example_id, str) or not example_id:
                    raise ValueError(
                        f"row {row}: column {EXAMPLE_ID!r} holds {example_id!r}; it must be a non-empty string."
                    )
                found[row] = _short(example_id)
        self._order = np.argsort(found, kind="stable")
        self._sorted = found[self._order]
        self._check_repeated()

    def __len__(self) -> int:
        return len(self._sorted)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of some rows."""
        return self._ids[list(rows)][EXAMPLE_ID]

    def row(self, example_id: str) -> int | None:
        """The row of an id, or None."""
        value = np.uint64(_short(example_id))
        place = int(self._sorted.searchsorted(value))
        return int(self._order[place]) if place < len(self) and self._sorted[place] == value else None

    def digest(self, row: int) -> str:
        """16 hexadecimal digits that stand for the row's prompt."""
        return f"{self.digests[row]:016x}"

    def _check_repeated(self) -> None:
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if not len(twice):
            return
        place = twice[self._order[twice + 1].argmin()]
        first, second = int(self._order[place]), int(self._order[place + 1])
        one, other = self.ids([first, second])
        if one == other:
            raise ValueError(
                f"rows {first} and {second}: column {EXAMPLE_ID!r} repeats {one!r}; give every prompt its own id."
            )
        raise ValueError(f"rows {first} and {second}: ids {one!r} and {other!r} share a digest; change one of them.")


class Batches:
    """Rows in batches of one shared prefix and like length, the longest first; made when asked for."""

    def __init__(self, prompts: Prompts, batch_size: int):
        lengths, groups = np.asarray(prompts.lengths), np.asarray(prompts.groups)
        self._order, self._size = np.lexsort((-lengths, groups)), batch_size

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    def __getitem__(self, number: int) -> list[int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._order[number * self._size : (number + 1) * self._size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[number] for number in range(len(self)))


def _short(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
