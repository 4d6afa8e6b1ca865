"""The run behind `label_completions` and `verify_labels`: settings, what is stored, export, and a second look."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..aggregation.answers.completions import (
    UNFINISHED,
    Answered,
    CompletionAggregator,
    LeftOut,
    completion_aggregator,
    rows_of,
    texts_to_score,
)
from ..fingerprint import digest, supervisor_fingerprint
from ..inference.sampling import Sampling, decoding
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.scores import Scored
from .plain_check import other_answers, plain_logps, rounding
from .run import AnswerRun, rounded, score_texts
from .storage.card import write_card
from .storage.export import differences, export
from .storage.ledger import GENERATE, SCORE
from .storage.progress import bar


@dataclass(frozen=True)
class CompletionSettings:
    """The arguments of `label_completions` other than models, data and folder.

    Raises:
        ValueError: one of them is out of range or unknown; top_p without a temperature.
    """

    mode: str
    num_candidates: int
    max_new_tokens: int
    batch_size: int
    temperature: float | None
    top_p: float
    seed: int
    unfinished: str

    def __post_init__(self):
        completion_aggregator(self.mode)
        if self.unfinished not in UNFINISHED:
            raise ValueError(f"unfinished={self.unfinished!r} is not one of {UNFINISHED}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.temperature is not None:
            Sampling(self.temperature, self.top_p, self.seed)
        elif self.top_p != 1:
            raise ValueError(
                f"top_p={self.top_p} narrows sampling, and beams are not sampled; give a temperature too."
            )

    @property
    def aggregator(self) -> CompletionAggregator:
        return completion_aggregator(self.mode)

    @property
    def decoding(self) -> dict:
        """What decides the answers, as it enters digests and card."""
        settings = {"num_candidates": self.num_candidates, "max_new_tokens": self.max_new_tokens}
        if self.temperature is None:
            return settings
        drawn = Sampling(self.temperature, self.top_p, self.seed)
        only = {"num_candidates": 1} if self.aggregator.best_only else {}  # others would be made and never read
        return {**settings, **only, "temperature": drawn.temperature, "top_p": drawn.top_p, "seed": drawn.seed}


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        prompts: how many were labelled again.
        worst: the largest difference of a token's log-probability, nats.
        different: what does not agree or is not there, one line each; empty where all is well.
        plainly: how many of them also by whole forward passes of single rows, see `plain_check`.
    """

    prompts: int
    worst: float
    different: list[str]
    plainly: int = 0


class CompletionRun(AnswerRun):
    """Every supervisor answers, all score, and the mode's aggregator chooses the rows. Arguments: see `AnswerRun`."""

    settings: CompletionSettings

    def __init__(self, ensemble: WeakEnsemble, dataset: Dataset, settings: CompletionSettings, folder: Path):
        super().__init__(ensemble, ensemble.supervisors, dataset, settings, folder)
        self.weights = dict(zip(ensemble.names, ensemble.weights, strict=True))

    def configurations(self) -> dict[tuple[str, str], str]:
        # the ensemble's weights are not among what is digested: they only enter at the export
        settings, mode = self.settings.decoding, self.settings.mode
        prints = {s.name: supervisor_fingerprint(s) for s in self.ensemble.supervisors}
        answers = {(GENERATE, name): digest(GENERATE, value, settings) for name, value in prints.items()}
        scores = {(SCORE, name): digest(SCORE, mode, settings, value, prints) for name, value in prints.items()}
        return answers | scores

    def texts(self, row: int) -> list[str]:
        return texts_to_score(self._candidates(row), self.settings.aggregator)

    def answer_record(self, answers: Sequence[tuple[str, bool]]) -> dict:
        return {"candidates": [{"text": text, "finished": finished} for text, finished in answers]}

    def score_record(self, texts: Sequence[str], scores: Sequence[Scored | None]) -> dict:
        return {
            "texts": list(texts),
            "offsets": [score.offsets if score else [] for score in scores],
            "logps": [[rounded(logp) for logp in score.logps] if score else [] for score in scores],
        }

    def labels_of(self, row: int, left_out: LeftOut) -> Iterator[dict]:
        """The rows of the dataset that the stored labels of a prompt give."""
        records = {name: self.ledger.get(SCORE, name, row) for name in self.ensemble.names}
        scores = {
            name: dict(zip(r["texts"], zip(r["offsets"], r["logps"], strict=True), strict=True))
            for name, r in records.items()
        }
        answered = Answered(self.weights, self._candidates(row), scores, self.settings.temperature is not None)
        try:
            yield from rows_of(answered, self.settings.aggregator, left_out, self.settings.unfinished)
        except ValueError as error:
            name = self.prompts.ids([row])[0]
            raise ValueError(f"mode={self.settings.mode!r}, row {row} (example_id {name!r}): {error}") from error

    def export(self) -> None:
        mode, unfinished = self.settings.mode, self.settings.unfinished
        identity = (sorted(map(str, self.configs.items())), self.ensemble.weights, mode, unfinished)
        if mode == "mbr" and self.settings.temperature is not None:
            identity += ("equal draws count each",)  # earlier versions chose otherwise from the same labels
        counts = export(self.labels_of, self.dataset, self.folder / "dataset", identity, unfinished)
        shown = self.settings.decoding | {"unfinished": unfinished}
        write_card(self.folder / "README.md", self.ensemble, mode, shown, counts)

    def verify(self, share: float, tolerance: float) -> Verification:
        """Make a share of the stored labels again and compare; see `verify_labels`. `read` comes first."""
        numbers = range(len(self.batches))
        whole = [number for number in numbers if self.done(self.batches[number])]
        different = self._lacking(set(numbers) - set(whole))
        if not any(self.ledger.has(*key, row) for key in self.configs for row in range(len(self.prompts))):
            raise ValueError(
                f"{self.folder} holds no labels of these prompts, supervisors and settings; label them first."
            )
        draw = random.Random(self.settings.seed)
        chosen = draw.sample(whole, math.ceil(share * len(whole)))
        worst, plainly = 0.0, 0
        with bar(len(chosen), "verifying", "batch") as shown:
            for number in chosen:
                worst = max(worst, self._compare(self.batches[number], different, tolerance))
                plainly += self._compare_plainly(draw.choice(self.batches[number]), different, tolerance)
                shown.update()
        rows = sorted(row for number in chosen for row in self.batches[number])
        different += differences(self.labels_of, self.dataset, self.folder / "dataset", rows)
        return Verification(len(rows), worst, different, plainly)

    def _candidates(self, row: int) -> dict[str, list[tuple[str, bool]]]:
        records = {name: self.ledger.get(GENERATE, name, row) for name in self.ensemble.names}
        return {name: [(c["text"], c["finished"]) for c in record["candidates"]] for name, record in records.items()}

    def _lacking(self, broken: set[int]) -> list[str]:
        """One line on the prompts of these batches that lack a label."""
        rows = sorted(row for number in broken for row in self.batches[number] if not self.done([row]))
        if not rows:
            return []
        (example,) = self.prompts.ids(rows[:1])
        damaged = f" ({self.ledger.store.damaged} damaged lines)" if self.ledger.store.damaged else ""
        first = f"row {rows[0]} (example_id {example!r})"
        return [f"{len(rows)} prompts lack labels{damaged}, the first is {first}; the same arguments label them again"]

    def _compare(self, batch: list[int], different: list[str], tolerance: float) -> float:
        prompts, names, ids = self.asked(batch)
        texts, worst = [self.texts(row) for row in batch], 0.0
        for supervisor in self.ensemble.supervisors:
            answers = supervisor.answer(prompts, **decoding(self.settings.decoding), names=names, keys=ids)
            for row, name, made in zip(batch, names, answers, strict=True):
                stored = self.ledger.get(GENERATE, supervisor.name, row)["candidates"]
                if [text for text, _ in made] != [c["text"] for c in stored]:
                    different.append(f"{name}: {supervisor.name!r} gives other candidates")
            scores = score_texts(supervisor, prompts, texts, names)
            for row, name, scored in zip(batch, names, scores, strict=True):
                stored = self.ledger.get(SCORE, supervisor.name, row)["logps"]
                for old, score in zip(stored, scored, strict=True):
                    gap = _gap(score.logps if score else [], old)
                    worst = max(worst, gap)
                    if gap > tolerance:
                        different.append(f"{name}: {supervisor.name!r} differs by {gap:.2g} nats")
        return worst

    def _compare_plainly(self, row: int, different: list[str], tolerance: float) -> bool:
        """The same for one prompt by the slow path that shares nothing with labelling's; where we run the models."""
        (prompt,), (name,), (key,) = self.asked([row])
        ours = [supervisor for supervisor in self.ensemble.supervisors if supervisor.model is not None]
        for supervisor in ours:
            stored = self.ledger.get(GENERATE, supervisor.name, row)["candidates"]
            stored = [(candidate["text"], candidate["finished"]) for candidate in stored]
            if other_answers(supervisor, prompt, stored, name, key, **decoding(self.settings.decoding)):
                different.append(f"{name}: {supervisor.name!r} gives other candidates by plain forward passes")
            kept = self.ledger.get(SCORE, supervisor.name, row)
            for text, old in zip(kept["texts"], kept["logps"], strict=True):
                gap = _gap(plain_logps(supervisor, prompt, text, name), old) if old else 0.0
                if gap > max(tolerance, rounding(supervisor)):
                    different.append(
                        f"{name}: {supervisor.name!r} differs by {gap:.2g} nats from a plain forward pass"
                    )
        return bool(ours)


def _gap(made: Sequence[float], stored: Sequence[float]) -> float:
    if len(made) != len(stored):
        return math.inf
    return max((abs(a - b) for a, b in zip(made, stored, strict=True)), default=0.0)
