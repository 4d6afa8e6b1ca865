"""Does the dataset folder say what the kept labels say?"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_from_disk

from ..columns import EXAMPLE_ID, FINISHED, GENERATION, SCORE
from ..supervisors.ensemble import WeakEnsemble
from .choose import LeftOut, rows_of
from .consolidate import features, labelled
from .index import BLOCK
from .ledger import Ledger

COMPARED = (*GENERATION, SCORE, FINISHED)


def compare_written(
    ledger: Ledger,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    mode: str,
    folder: Path,
    rows: Sequence[int],
    unfinished: str = "no_eos",
) -> list[str]:
    """Where some prompts' rows in `folder` are not, to the last bit, those that their labels give."""
    try:
        written = load_from_disk(str(folder))
        lost = [column for column in COMPARED if column not in written.column_names]
        places = _places(written, set(ledger.prompts.ids(rows))) if not lost else {}
    except (OSError, ValueError, KeyError, TypeError) as error:  # missing, or whatever an altered file gives
        return [f"{folder} is missing or cannot be read ({error}); labelling again with the same arguments writes it"]
    if lost:
        return [f"{folder} lacks the column {lost[0]!r}; labelling again with the same arguments writes it"]
    different = []
    for row, example in zip(rows, dataset.select(rows), strict=True):
        expected = [labelled(example, label) for label in rows_of(ledger, ensemble, row, mode, LeftOut(), unfinished)]
        ours = Dataset.from_list(expected, features=features(dataset))[:] if expected else {}
        theirs = written[places[example[EXAMPLE_ID]]]
        wrong = [column for column in COMPARED if ours.get(column, []) != theirs[column]]
        if wrong:
            different.append(
                f"row {row} (example_id {example[EXAMPLE_ID]!r}): {folder} holds another {wrong[0]!r} than the kept "
                "labels and these weights give"
            )
    return different


def _places(written: Dataset, wanted: set[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    ids = written.select_columns([EXAMPLE_ID])
    for start in range(0, len(ids), BLOCK):
        for place, example_id in enumerate(ids[start : start + BLOCK][EXAMPLE_ID], start=start):
            if example_id in wanted:
                places[example_id].append(place)
    return places
