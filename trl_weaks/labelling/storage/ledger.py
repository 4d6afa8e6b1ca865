"""Which labels exist for this dataset, ensemble and configuration, and how to reach them."""

from array import array
from collections.abc import Callable, Sequence

from ...fingerprint import digest
from .index import Prompts
from .progress import bar
from .store import LabelStore, StoredLabels

GENERATE = "generate"
SCORE = "score"
SHIFT = 40  # a place in one integer: shard number above, byte offset below


class Ledger:
    """An index of eight bytes per label over the store; the labels themselves stay on disk.

    Args:
        store: a `LabelStore` where labels are to be put.
        configs: digest of everything that decides a label, for each (stage, supervisor).
        outdated: whether a record with that digest, of a row, is to be made again all the same.
    """

    def __init__(
        self,
        store: StoredLabels | LabelStore,
        prompts: Prompts,
        configs: dict[tuple[str, str], str],
        outdated: Callable[[dict, int], bool],
    ):
        self.store, self.prompts, self.configs = store, prompts, configs
        self.places = {key: array("q", [-1]) * len(prompts) for key in configs}
        with bar(None, "reading stored labels", "label") as shown:
            for record, place in store.records():
                key, row = (record["stage"], record["supervisor"]), prompts.row(record["example_id"])
                known = key in configs and row is not None and record["config"] == self._config(key, row)
                if known and not outdated(record, row):
                    self.places[key][row] = place[0] << SHIFT | place[1]
                shown.update()

    def has(self, stage: str, supervisor: str, row: int) -> bool:
        return self.places[stage, supervisor][row] >= 0

    def get(self, stage: str, supervisor: str, row: int) -> dict:
        place = self.places[stage, supervisor][row]
        return self.store.read((place >> SHIFT, place & ((1 << SHIFT) - 1)))

    def put(self, stage: str, supervisor: str, rows: Sequence[int], values: Sequence[dict]) -> None:
        """Append one label for each row, all in one write."""
        key = (stage, supervisor)
        records = [
            {
                "example_id": example_id,
                "supervisor": supervisor,
                "stage": stage,
                "config": self._config(key, row),
                **value,
            }
            for row, example_id, value in zip(rows, self.prompts.ids(rows), values, strict=True)
        ]
        for row, place in zip(rows, self.store.append(records), strict=True):
            self.places[key][row] = place[0] << SHIFT | place[1]

    def _config(self, key: tuple[str, str], row: int) -> str:
        return digest(self.configs[key], self.prompts.digest(row))
