"""Preference pairs: the student's own candidates, ranked by the weak ensemble (arXiv 2406.03199, §4.3)."""

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles

from datasets import Dataset, Features, List, Value, load_from_disk

from ..aggregation.base import NotComputable
from ..aggregation.comparisons.preferences import (
    CERTAIN_BELOW,
    best_and_worst,
    flip_probabilities,
    pair_weights,
    with_shared_error,
)
from ..columns import CHOSEN, CHOSEN_SCORE, MARGIN, PAIR_EPSILON, PAIR_WEIGHT, PAIRS, PROMPT, REJECTED, REJECTED_SCORE
from ..distributed import processes
from ..files import replaced_folder, writing
from ..fingerprint import digest, refuse_unknown_code, supervisor_fingerprint
from ..inference.sampling import Sampling
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.reading.messages import as_completion
from ..supervisors.scores import Scored
from ..supervisors.supervisor import WeakSupervisor
from .checks import prefixes_forgotten
from .run import AnswerRun, rounded
from .storage.export import save
from .storage.ledger import GENERATE, SCORE

logger = logging.getLogger(__name__)
LEFT_OUT = ("too_long", "too_few", "equal_scores", "below_margin")  # of the counts, those worth a warning
COUNTS = ("candidates", "duplicates", "empty", "too_long", "unfinished", "chosen_unfinished")  # of answers
COUNTS += ("too_few", "equal_scores", "below_margin", "swapped")  # of prompts
MEANS = "of the text"  # what stored scores are means over; other means are other scores


def build_preferences(
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    num_candidates: int = 10,
    output_dir: str | Path | None = None,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    seed: int = 0,
    min_margin: float = 0.0,
    shared_error: float = 0.1,
    batch_size: int = 16,
) -> Dataset:
    r"""One preference pair for each prompt on which the ensemble tells the student's candidates apart.

    The student answers every prompt `num_candidates` times; every supervisor reads every distinct answer, with the
    code that joint decoding uses (end of sequence included); the answers of highest and lowest
    $\sum_i w_i \, \overline{\log p_i}$ (Eq. 10 and 11, nats per token) become `chosen` and `rejected`. Left out, and
    counted: empty answers, exact duplicates, answers too long for a supervisor's context, prompts with fewer than two
    distinct answers, pairs of equal scores or of a margin below `min_margin`. `preference_report` reads the counts
    from the dataset.

    Columns: the dataset's own, TRL's `prompt`, `chosen`, `rejected`, and `chosen_score`, `rejected_score`, `margin`
    (nats per token), `pair_epsilon` (see `aggregation.comparisons.preferences.flip_probabilities`; pairs it puts above
    one half are swapped, which leaves their `margin` negative) and `pair_weight` (see
    `aggregation.comparisons.preferences.pair_weights`; mean one).

    Args:
        student: the model to be trained on the pairs, with its tokenizer.
        dataset: `example_id` (unique; by default the row's number) and `prompt` (text or messages), or whole
            conversations in `messages`, whose last turn of the assistant is then asked for; other columns are carried
            through.
        num_candidates: answers of each prompt, at least 2. Default 10: *authors' code*.
        output_dir: candidates and scores are kept here while they are made, and the pairs in its folder `dataset`; the
            same call continues where a killed one stopped. None keeps nothing.
        max_new_tokens: tokens of an answer. *paper*
        temperature: None searches beams (*paper*); a number samples at that temperature instead (*ours*), with `seed`.
        min_margin: drop pairs whose margin is smaller, nats per token. *ours*
        shared_error: how often supervisors that agree are wrong together, in [0, 0.5), which their disagreement cannot
            show; part of every `pair_epsilon`. Default: the *paper's* constant ε.
            `aggregation.comparisons.preferences.judge_pairs` measures it where gold is at hand.
        batch_size: prompts per batch of work, the most that a kill can lose. *ours*

    Raises:
        ValueError: before any work: wrong arguments or anything wrong with the dataset (row, column, remedy).
        NotComputable: after the work: no pair is left (with the counts).
        LabelStoreError: the disk refuses; nothing already written is lost.
    """
    settings = PreferenceSettings(
        num_candidates, max_new_tokens, temperature, seed, min_margin, shared_error, batch_size
    )
    if output_dir is None and processes().num_processes > 1:
        raise ValueError("several processes share their work through the disk: give build_preferences an output_dir.")
    taken = [column for column in PAIRS if column in getattr(dataset, "column_names", ())]
    if taken:
        raise ValueError(f"the dataset already has a column {taken[0]!r}, which pairs write; rename or remove it.")
    members = [student, *ensemble.supervisors]
    if output_dir is not None:
        refuse_unknown_code(members)
    with tempfile.TemporaryDirectory() as temporary, prefixes_forgotten(members):
        run = PreferenceRun(ensemble, student, dataset, settings, Path(output_dir or temporary))
        run.run()
        return run.pairs if output_dir is None else load_from_disk(str(run.folder / "dataset"))


def preference_report(pairs: Dataset) -> dict:
    """What `build_preferences` counted: candidates, drops by reason, swaps, and the distribution of the margins."""
    return json.loads(pairs.info.description)


@dataclass(frozen=True)
class PreferenceSettings:
    """The arguments of `build_preferences` other than models, data and folder.

    Raises:
        ValueError: one of them is out of range.
    """

    num_candidates: int
    max_new_tokens: int
    temperature: float | None
    seed: int
    min_margin: float
    shared_error: float
    batch_size: int

    def __post_init__(self):
        if self.num_candidates < 2:
            raise ValueError(
                f"num_candidates={self.num_candidates}: a pair needs at least 2 candidates; the authors use 10."
            )
        if self.temperature is not None:
            Sampling(self.temperature)
        if not (math.isfinite(self.min_margin) and self.min_margin >= 0):
            raise ValueError(f"min_margin={self.min_margin} must be finite and not negative (nats per token).")
        if not 0 <= self.shared_error < 0.5:
            raise ValueError(f"shared_error={self.shared_error} is a probability in [0, 0.5).")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")

    @property
    def decoding(self) -> dict:
        """What decides the answers, as it enters digests."""
        settings = {"num_candidates": self.num_candidates, "max_new_tokens": self.max_new_tokens}
        drawn = {"temperature": self.temperature, "seed": self.seed}
        return settings if self.temperature is None else settings | drawn


@dataclass(frozen=True)
class Pair:
    """Best and worst of one prompt: (text, joint score) of each, and each supervisor's margin, nats per token."""

    row: int
    best: tuple[str, float]
    worst: tuple[str, float]
    margins: list[float]
    cut: set[str]  # of the two texts, those without an end


class PreferenceRun(AnswerRun):
    """The student answers, the ensemble scores, and best and worst become a pair. Arguments: see `AnswerRun`.

    Attributes:
        pairs: the dataset, in the process that made it.
    """

    labels, description = "candidates", "preferences"
    settings: PreferenceSettings
    pairs: Dataset

    def __init__(
        self,
        ensemble: WeakEnsemble,
        student: WeakSupervisor,
        dataset: Dataset,
        settings: PreferenceSettings,
        folder: Path,
    ):
        self.student = student
        super().__init__(ensemble, [student], dataset, settings, folder)

    def configurations(self) -> dict[tuple[str, str], str]:
        # weights and thresholds come later
        made = digest("preferences", supervisor_fingerprint(self.student), self.settings.decoding)
        prints = {s.name: supervisor_fingerprint(s) for s in self.ensemble.supervisors}
        scores = {(SCORE, name): digest(SCORE, MEANS, made, value) for name, value in prints.items()}
        return {(GENERATE, self.student.name): made, **scores}

    def texts(self, row: int) -> list[str]:
        return sorted({text for text, _ in self.ledger.get(GENERATE, self.student.name, row)["candidates"]} - {""})

    def answer_record(self, answers: Sequence[tuple[str, bool]]) -> dict:
        return {"candidates": answers}

    def score_record(self, texts: Sequence[str], scores: Sequence[Scored | None]) -> dict:
        return {"texts": texts, "scores": [rounded(score.mean_logp) if score else None for score in scores]}

    def export(self) -> None:
        self.pairs = self._ranked()
        _report(preference_report(self.pairs))
        folder = self.folder / "dataset"
        with writing("the pairs", folder), replaced_folder(folder) as new:
            save(self.pairs, new)

    def _ranked(self) -> Dataset:
        """All pairs, with the counts as JSON in `info.description`."""
        counts = Counter(dict.fromkeys(COUNTS, 0))
        found = [self._pair(row, counts) for row in range(len(self.dataset))]
        pairs = [pair for pair in found if pair is not None]
        if not pairs:
            drops = {name: counts[name] for name in ("empty", "too_long", "too_few", "equal_scores", "below_margin")}
            raise NotComputable(
                f"no pair is left of {len(self.dataset)} prompts: {drops}. Ask for more candidates, sample them "
                "(temperature=1.0), lower min_margin, or train the student further."
            )
        flips = flip_probabilities([pair.margins for pair in pairs], self.ensemble.weights)
        epsilons = [with_shared_error(flip, self.settings.shared_error) for flip in flips]
        weights = pair_weights([pair.best[1] - pair.worst[1] for pair in pairs])
        counts["swapped"] = sum(epsilon > 0.5 for epsilon in epsilons)
        chosen = [(pair.worst if e > 0.5 else pair.best)[0] for pair, e in zip(pairs, epsilons, strict=True)]
        counts["chosen_unfinished"] = sum(text in pair.cut for text, pair in zip(chosen, pairs, strict=True))
        rows = [
            _row(self.dataset[pair.row], pair, epsilon, weight)
            for pair, epsilon, weight in zip(pairs, epsilons, weights, strict=True)
        ]
        table = Dataset.from_list(rows, features=_features(self.dataset))
        table.info.description = json.dumps(_summary(rows, counts, len(self.dataset)))
        return table

    def _pair(self, row: int, counts: Counter) -> Pair | None:
        candidates = self.ledger.get(GENERATE, self.student.name, row)["candidates"]
        kept = [text for text, _ in candidates if text]
        counts["candidates"] += len(candidates)
        counts["empty"] += len(candidates) - len(kept)
        counts["duplicates"] += len(kept) - len(set(kept))
        counts["unfinished"] += sum(not finished for _, finished in candidates)
        records = [self.ledger.get(SCORE, name, row) for name in self.ensemble.names]
        read = [m for m in range(len(records[0]["texts"])) if all(r["scores"][m] is not None for r in records)]
        counts["too_long"] += len(records[0]["texts"]) - len(read)
        if len(read) < 2:
            counts["too_few"] += 1
            return None
        texts = [records[0]["texts"][m] for m in read]
        scores = [[record["scores"][m] for m in read] for record in records]
        weights = self.ensemble.weights
        joint = [math.fsum(w * s[m] for w, s in zip(weights, scores, strict=True)) for m in range(len(texts))]
        best, worst = best_and_worst(texts, joint)
        margin = joint[best] - joint[worst]
        if margin <= 0 or margin < self.settings.min_margin:
            counts["equal_scores" if margin <= 0 else "below_margin"] += 1
            return None
        cut = {texts[best], texts[worst]} - {text for text, finished in candidates if finished}
        margins = [s[best] - s[worst] for s in scores]
        return Pair(row, (texts[best], joint[best]), (texts[worst], joint[worst]), margins, cut)


def _row(example: dict, pair: Pair, epsilon: float, weight: float) -> dict:
    chosen, rejected = (pair.worst, pair.best) if epsilon > 0.5 else (pair.best, pair.worst)
    return {
        **example,
        CHOSEN: as_completion(example[PROMPT], chosen[0]),
        REJECTED: as_completion(example[PROMPT], rejected[0]),
        CHOSEN_SCORE: chosen[1],
        REJECTED_SCORE: rejected[1],
        MARGIN: chosen[1] - rejected[1],
        PAIR_WEIGHT: weight,
        PAIR_EPSILON: min(epsilon, 1.0 - epsilon, CERTAIN_BELOW),
    }


def _features(dataset: Dataset) -> Features:
    text, number = Value("string"), Value("float64")
    answer = text if isinstance(dataset[0][PROMPT], str) else List({"role": text, "content": text})
    numbers = dict.fromkeys((CHOSEN_SCORE, REJECTED_SCORE, MARGIN, PAIR_WEIGHT, PAIR_EPSILON), number)
    return Features({**dataset.features, CHOSEN: answer, REJECTED: answer, **numbers})


def _summary(rows: list[dict], counts: Counter, prompts: int) -> dict:
    margins = [row[MARGIN] for row in rows]
    quarters = quantiles(margins, n=4, method="inclusive") if len(margins) > 1 else margins * 3
    return {
        "prompts": prompts,
        "pairs": len(rows),
        **counts,
        "mean_epsilon": fmean(row[PAIR_EPSILON] for row in rows),
        "margin_quartiles": [min(margins), *quarters, max(margins)],
    }


def _report(report: dict) -> None:
    left_out = {reason: report[reason] for reason in LEFT_OUT if report[reason]}
    if report["chosen_unfinished"]:
        logger.warning(
            "%d of %d chosen answers were cut at max_new_tokens, and DPO would teach an end there; raise it.",
            report["chosen_unfinished"],
            report["pairs"],
        )
    level = logging.WARNING if left_out else logging.INFO
    logger.log(level, "%d pairs from %d prompts; left out: %s", report["pairs"], report["prompts"], left_out or "none")
