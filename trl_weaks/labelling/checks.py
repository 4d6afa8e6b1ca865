"""Everything that can be wrong with a dataset of prompts, found before any work starts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from datasets import Dataset

from ..columns import EXAMPLE_ID, PROMPT
from ..fingerprint import digest
from ..inference.shared_prefix import SAMPLE, longest_match
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.reading.messages import check_prompts
from ..supervisors.supervisor import WeakSupervisor
from .prompt_columns import check_columns
from .storage.index import BLOCK, Prompts
from .storage.progress import bar


def check_dataset(dataset: Dataset, ensemble: WeakEnsemble, max_new_tokens: int) -> Prompts:
    """Read every row once, and tell the supervisors which beginnings their prompts share.

    Raises:
        ValueError: not a `Dataset`, no rows, a missing, reserved or unsupported column, an id that is repeated, empty
            or not a string, a prompt that is empty, of another type than the others, or leaves no room to answer.
    """
    check_columns(dataset)
    index = Prompts(dataset)
    first = dataset[0][PROMPT]
    _expect(dataset, ensemble)
    prefixes = ensemble.supervisors[0].sharing.prefixes
    with bar(len(dataset), "reading prompts") as shown:
        for ids, prompts in blocks(dataset):
            names = [f"row {i} (example_id {e!r})" for i, e in enumerate(ids, start=len(index.digests))]
            check_prompts([first, *prompts], ["row 0", *names])
            encoded = [s.encode(prompts, names, max_new_tokens) for s in ensemble.supervisors]
            index.lengths.extend(max(len(p.ids) for p in row) for row in zip(*encoded, strict=True))
            matches = [longest_match(p.ids, prefixes) for p in encoded[0]]
            index.groups.extend(prefixes.index(match) if match else -1 for match in matches)
            index.digests.extend(int(digest(prompt), 16) for prompt in prompts)
            shown.update(len(ids))
    return index


@contextmanager
def prefixes_forgotten(supervisors: Iterable[WeakSupervisor]) -> Iterator[None]:
    """However the work inside ends, what supervisors keep of these prompts is let go."""
    try:
        yield
    finally:
        for supervisor in supervisors:
            supervisor.sharing.expect([])


def _expect(dataset: Dataset, ensemble: WeakEnsemble) -> None:
    rows = range(0, len(dataset), -(-len(dataset) // SAMPLE))
    sample = dataset.select(rows)
    names = [
        f"row {row} (example_id {example_id!r})" for row, example_id in zip(rows, sample[EXAMPLE_ID], strict=True)
    ]
    for supervisor in ensemble.supervisors:
        supervisor.sharing.expect([p.ids for p in supervisor.encode(list(sample[PROMPT]), names)])


def blocks(dataset: Dataset) -> Iterator[tuple[list[str], list]]:
    """Ids and prompts, a thousand rows at a time."""
    for start in range(0, len(dataset), BLOCK):
        block = dataset[start : start + BLOCK]
        yield block[EXAMPLE_ID], block[PROMPT]
