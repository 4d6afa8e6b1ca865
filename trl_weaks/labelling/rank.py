"""From stored candidates and readings to the rows of the preference dataset."""

import json
import math
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles

from datasets import Dataset, Features, List, Value

from ..aggregation.preferences import (
    CERTAIN_BELOW,
    best_and_worst,
    flip_probabilities,
    pair_weights,
    with_shared_error,
)
from ..columns import CHOSEN, CHOSEN_SCORE, MARGIN, PAIR_EPSILON, PAIR_WEIGHT, PROMPT, REJECTED, REJECTED_SCORE
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.messages import as_completion
from .ledger import GENERATE, SCORE, Ledger
from .store import writing

COUNTS = ("candidates", "duplicates", "empty", "too_long", "unfinished", "chosen_unfinished")  # of answers
COUNTS += ("too_few", "equal_scores", "below_margin", "swapped")  # of prompts


@dataclass(frozen=True)
class Pair:
    """Best and worst of one prompt: (text, joint score) of each, and each supervisor's margin, nats per token."""

    row: int
    best: tuple[str, float]
    worst: tuple[str, float]
    margins: list[float]


def rank(
    ledger: Ledger, student: str, ensemble: WeakEnsemble, dataset: Dataset, min_margin: float, shared_error: float
) -> Dataset:
    """The dataset of `build_preferences`, with its counts as JSON in `info.description`.

    Raises:
        ValueError: no pair is left.
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    found = [_pair(ledger, student, ensemble, row, min_margin, counts) for row in range(len(dataset))]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        drops = {name: counts[name] for name in ("empty", "too_long", "too_few", "equal_scores", "below_margin")}
        raise ValueError(
            f"no pair is left of {len(dataset)} prompts: {drops}. Ask for more candidates, sample them "
            "(temperature=1.0), lower min_margin, or train the student further."
        )
    flips = flip_probabilities([pair.margins for pair in pairs], ensemble.weights)
    epsilons = [with_shared_error(flip, shared_error) for flip in flips]
    weights = pair_weights([pair.best[1] - pair.worst[1] for pair in pairs])
    counts["swapped"] = sum(epsilon > 0.5 for epsilon in epsilons)
    rows = [
        _row(dataset[pair.row], pair, epsilon, weight)
        for pair, epsilon, weight in zip(pairs, epsilons, weights, strict=True)
    ]
    table = Dataset.from_list(rows, features=_features(dataset))
    table.info.description = json.dumps(_summary(rows, counts, len(dataset)))
    return table


def _pair(
    ledger: Ledger, student: str, ensemble: WeakEnsemble, row: int, min_margin: float, counts: Counter
) -> Pair | None:
    candidates = ledger.get(GENERATE, student, row)["candidates"]
    kept = [text for text, _ in candidates if text]
    counts["candidates"] += len(candidates)
    counts["empty"] += len(candidates) - len(kept)
    counts["duplicates"] += len(kept) - len(set(kept))
    counts["unfinished"] += sum(not finished for _, finished in candidates)
    readings = [ledger.get(SCORE, name, row) for name in ensemble.names]
    read = [m for m in range(len(readings[0]["texts"])) if all(r["scores"][m] is not None for r in readings)]
    counts["too_long"] += len(readings[0]["texts"]) - len(read)
    if len(read) < 2:
        counts["too_few"] += 1
        return None
    texts, *scores = [[values[m] for m in read] for values in (readings[0]["texts"], *(r["scores"] for r in readings))]
    joint = [math.fsum(w * s[m] for w, s in zip(ensemble.weights, scores, strict=True)) for m in range(len(texts))]
    best, worst = best_and_worst(texts, joint)
    margin = joint[best] - joint[worst]
    if margin <= 0 or margin < min_margin:
        counts["equal_scores" if margin <= 0 else "below_margin"] += 1
        return None
    counts["chosen_unfinished"] += texts[best] not in {text for text, finished in candidates if finished}
    return Pair(row, (texts[best], joint[best]), (texts[worst], joint[worst]), [s[best] - s[worst] for s in scores])


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


def save(pairs: Dataset, folder: Path) -> None:
    """Write the pairs to `folder`, replacing older ones only when all is written.

    Raises:
        LabelStoreError: the disk refuses; the candidates are kept.
    """
    new = folder.with_name(folder.name + ".new")
    with writing("the pairs", folder):
        shutil.rmtree(new, ignore_errors=True)
        pairs.save_to_disk(str(new))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
