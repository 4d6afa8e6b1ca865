"""A resumable labelling run: batches of work that processes share, a store, and an export by the first process.

    read      which labels the store holds
    todo      this process's share of the batches that lack one
    work      label one batch and append to the store: all that a kill can lose
    export    the stored labels as a dataset

A batch is made of the same rows whatever was done before, so that a run that was killed and taken up again computes
the same batches, and the same numbers to the last bit, as one that was not.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from ..columns import PROMPT
from ..distributed import on_main_process, processes
from ..inference.as_found import untouched
from ..inference.sampling import decoding
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.reading.messages import Prompt
from ..supervisors.scores import Scored
from ..supervisors.supervisor import WeakSupervisor
from .checks import check_dataset
from .prompt_columns import as_prompts
from .storage.index import Batches
from .storage.ledger import GENERATE, SCORE, Ledger
from .storage.progress import Progress
from .storage.store import LabelStore, StoredLabels

DECIMALS = 6  # of a log-probability on disk
READING = "reading"  # of scores by tokenizers that begin texts with a space: the version of how they are read, now 2


class LabelRun(ABC):
    """One labelling of a dataset by an ensemble; `run` does it, or goes on where a killed one stopped.

    Args:
        settings: what decides the labels, and how they are made.
        folder: of the labels and of what is exported; on a disk that all processes see.

    Attributes:
        labels: the folder of the store inside `folder`.
        description, unit: of the progress bar.
    """

    labels, description, unit = "labels", "labelling", "prompt"

    def __init__(self, ensemble: WeakEnsemble, dataset: Dataset, settings: Any, folder: Path):
        self.ensemble, self.dataset, self.settings, self.folder = ensemble, dataset, settings, folder

    @abstractmethod
    def read(self, store: StoredLabels | LabelStore) -> None:
        """Find out which labels the store holds; `work` puts more into it."""

    @abstractmethod
    def todo(self, process: int, count: int) -> tuple[Sequence, int]:
        """The batches that this process of `count` has to do, and how much all of them have to do."""

    @abstractmethod
    def work(self, batch: Any) -> int:
        """Make and store what one batch lacks; how much was done."""

    @abstractmethod
    def export(self) -> None:
        """Write the stored labels as a dataset."""

    def run(self) -> None:
        """Label what is missing, each process its share, then export in the first.

        Raises:
            LabelStoreError: the disk refuses; nothing already written is lost.
        """
        state, folder = processes(), self.folder / self.labels
        store = LabelStore(folder, str(state.process_index))
        self.read(store)
        batches, left = self.todo(state.process_index, state.num_processes)
        progress = Progress(folder, left, self.description, self.unit)  # nobody writes while another still reads
        for batch in batches:
            progress.advance(self.work(batch))
        store.close()
        progress.finish()
        on_main_process(folder, self._export)

    def _export(self) -> None:
        stored = StoredLabels(self.folder / self.labels)
        self.read(stored)
        self.export()
        stored.close()


class AnswerRun(LabelRun):
    """Prompts answered by `authors`, and every distinct answer scored by every supervisor of the ensemble.

    Args:
        dataset: as [`as_prompts`] takes it; checked here.
        settings: has `decoding` (what decides the answers) and `batch_size`.

    Raises:
        ValueError: anything wrong with the dataset (row, column, remedy).
    """

    def __init__(
        self,
        ensemble: WeakEnsemble,
        authors: Sequence[WeakSupervisor],
        dataset: Dataset,
        settings: Any,
        folder: Path,
    ):
        dataset = as_prompts(dataset)
        super().__init__(ensemble, dataset, settings, folder)
        self.authors = authors
        others = [s for s in ensemble.supervisors if not any(s is author for author in authors)]
        self.prompts = check_dataset(
            dataset, SimpleNamespace(supervisors=[*authors, *others]), settings.decoding["max_new_tokens"]
        )
        self.batches = Batches(self.prompts, settings.batch_size)
        self.configs = self.configurations()
        self.spaced = {s.name: s for s in ensemble.supervisors if _begins_with_space(s)}

    @abstractmethod
    def configurations(self) -> dict[tuple[str, str], str]:
        """Digests that decide whether a stored label may be used again, for each (stage, supervisor)."""

    @abstractmethod
    def texts(self, row: int) -> list[str]:
        """The distinct answers to a prompt that every supervisor scores, sorted."""

    @abstractmethod
    def answer_record(self, answers: Sequence[tuple[str, bool]]) -> dict:
        """What is stored of one author's answers to a prompt."""

    @abstractmethod
    def score_record(self, texts: Sequence[str], scores: Sequence[Scored | None]) -> dict:
        """What is stored of one supervisor's scores of a prompt's answers; has the key `texts`."""

    def read(self, store: StoredLabels | LabelStore) -> None:
        self.ledger = Ledger(store, self.prompts, self.configs, self._outdated)

    def _outdated(self, record: dict, row: int) -> bool:
        """Whether an earlier version gave one of the texts that it scored a space before it."""
        supervisor = self.spaced.get(record["supervisor"])
        if record["stage"] != SCORE or supervisor is None or READING in record:
            return False
        (prompt,), names, _ = self.asked([row])
        with untouched(supervisor.tokenizer):
            encoded = supervisor.encode([prompt], names) * len(record["texts"])
            return any(one.behind for one in supervisor.encoder.completions(encoded, record["texts"]))

    def todo(self, process: int, count: int) -> tuple[Sequence, int]:
        numbers = array("q", (number for number, batch in enumerate(self.batches) if not self.done(batch)))
        return numbers[process::count], sum(len(self.batches[number]) for number in numbers)

    def done(self, batch: Sequence[int]) -> bool:
        """Whether all labels of a batch are there.

        Scores of other texts than the answers that are stored do not count: where damaged answers were made again, on
        another machine say, a near tie may have gone the other way.
        """
        wanted = [(SCORE, name) for name in self.ensemble.names] + [(GENERATE, author.name) for author in self.authors]
        if not all(self.has(*key, batch) for key in wanted):
            return False
        texts = [self.texts(row) for row in batch]
        return all(self.has_scores(name, batch, texts) for name in self.ensemble.names)

    def work(self, number: int) -> int:
        batch = self.batches[number]
        prompts, names, ids = self.asked(batch)
        for author in self.authors:
            if not self.has(GENERATE, author.name, batch):
                answers = author.answer(prompts, **decoding(self.settings.decoding), names=names, keys=ids)
                self.ledger.put(GENERATE, author.name, batch, [self.answer_record(row) for row in answers])
        texts = [self.texts(row) for row in batch]
        for supervisor in self.ensemble.supervisors:
            if not self.has_scores(supervisor.name, batch, texts):
                scores = score_texts(supervisor, prompts, texts, names)
                made = [self.score_record(row, given) for row, given in zip(texts, scores, strict=True)]
                if supervisor.name in self.spaced:
                    made = [record | {READING: 2} for record in made]
                self.ledger.put(SCORE, supervisor.name, batch, made)
        return len(batch)

    def asked(self, batch: Sequence[int]) -> tuple[list[Prompt], list[str], list[str]]:
        """Prompts, what error messages call them, and ids of a batch."""
        ids = self.prompts.ids(batch)
        names = [f"row {row} (example_id {example!r})" for row, example in zip(batch, ids, strict=True)]
        return list(self.dataset.select(batch)[PROMPT]), names, ids

    def has(self, stage: str, name: str, batch: Sequence[int]) -> bool:
        """Whether these labels are in the store."""
        return all(self.ledger.has(stage, name, row) for row in batch)

    def has_scores(self, name: str, batch: Sequence[int], texts: Sequence[list[str]]) -> bool:
        """Whether the scores of these texts by this supervisor, row by row, are in the store."""
        return self.has(SCORE, name, batch) and all(
            self.ledger.get(SCORE, name, row)["texts"] == given for row, given in zip(batch, texts, strict=True)
        )


def _begins_with_space(supervisor: WeakSupervisor) -> bool:
    with untouched(supervisor.tokenizer):
        return supervisor.encoder.begins_with_space()


def score_texts(
    supervisor: WeakSupervisor, prompts: Sequence[Prompt], texts: Sequence[list[str]], names: Sequence[str]
) -> list[list[Scored | None]]:
    """Several completions of each prompt, scored; None for one too long for this supervisor's context."""
    flat = [(p, t, n) for p, row, n in zip(prompts, texts, names, strict=True) for t in row]
    scores = iter(supervisor.score_fitting(*map(list, zip(*flat, strict=True))) if flat else ())
    return [[next(scores) for _ in row] for row in texts]


def rounded(logp: float) -> float:
    """As it is stored; no negative zero."""
    return round(logp, DECIMALS) + 0.0
