"""SLU-F1: slot filling scored with partial credit (SLURP; Bastianelli et al., 2020, arXiv 2011.13205).

Types are matched greedily in the order of the predictions; a match is a true positive whatever its filler, and its
distance is added to both the false positives and the false negatives, once with the word distance and once with the
character distance. All counts are summed over the corpus; nothing is averaged per sentence.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trl_weaks.metrics.distances import char_distance, word_distance, words

Slots = Sequence[tuple[str, str]]

COUNT_COLUMNS = tuple(f"{name}_{kind}" for name in ("word", "char", "span") for kind in ("tp", "fp", "fn"))
_SCORES = ("slu", "word", "char", "span")
_TP, _FP, _FN = 0, 1, 2


def slu_f1(predictions: Sequence[Slots], references: Sequence[Slots], average: str = "micro") -> dict:
    """SLU-F1 of a corpus, with the scores it is made of.

    Equal to SLURP's official script, with two exceptions: a corpus without any slot scores 0.0 in macro too (the
    script divides by zero), and a type spelled "overall" counts like any other (the script loses it).

    Args:
        predictions: for each sentence its predicted `(type, filler)` pairs, in order, repeats allowed. An output that
            did not parse is an empty list; leaving the sentence out would flatter the score.
        references: the gold pairs of the same sentences, in the same order.
        average: `"micro"` (counts summed over types; the script's default) or `"macro"` (unweighted mean over the
            types seen in gold or prediction).

    Returns:
        `slu_f1`, `word_f1`, `char_f1`, `span_f1` (exact matches), each also as `*_precision` and `*_recall`; and
        `per_type`: for each type the same scores and the nine counts of `COUNT_COLUMNS`.

    Raises:
        ValueError: lengths differ, a slot is not a pair of strings, a gold filler has no word, unknown `average`.
    """
    if average not in ("micro", "macro"):
        raise ValueError(f"average={average!r}: choose 'micro' or 'macro'")
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(COUNT_COLUMNS)))
    for counts in _sentences(predictions, references):
        for slot_type, row in counts.items():
            totals[slot_type] += row
    per_type = {slot_type: _scores(totals[slot_type]) for slot_type in sorted(totals)}
    if average == "micro":
        result = _scores(sum(totals.values(), np.zeros(len(COUNT_COLUMNS))))
    else:
        names = _scores(np.zeros(len(COUNT_COLUMNS)))
        result = {name: float(np.mean([s[name] for s in per_type.values()])) if per_type else 0.0 for name in names}
    for slot_type, scores in per_type.items():
        scores.update(zip(COUNT_COLUMNS, totals[slot_type].tolist(), strict=True))
    return {**result, "per_type": per_type}


def slu_f1_counts(predictions: Sequence[Slots], references: Sequence[Slots]) -> np.ndarray:
    """The additive counts behind the micro scores, one row per sentence: `(examples, 9)`, named by `COUNT_COLUMNS`.

    Sums of rows are the counts of the corpus, so `slu_f1_from_counts(weights @ counts)` scores a bootstrap exactly.
    """
    rows = [sum(counts.values(), np.zeros(len(COUNT_COLUMNS))) for counts in _sentences(predictions, references)]
    return np.array(rows).reshape(-1, len(COUNT_COLUMNS))


def slu_f1_from_counts(counts: np.ndarray, score: str = "slu_f1") -> np.ndarray | float:
    """Micro score of counts summed (or averaged) over sentences: `(..., 9)` -> `(...)`, a float for one row.

    `score` is `"slu_f1"`, `"word_f1"`, `"char_f1"` or `"span_f1"`.
    """
    name = score.removesuffix("_f1")
    if name not in _SCORES or score == name:
        raise ValueError(f"score={score!r}: choose one of {', '.join(f'{name}_f1' for name in _SCORES)}")
    counts = np.asarray(counts, dtype=float)
    if counts.shape[-1:] != (len(COUNT_COLUMNS),):
        raise ValueError(f"counts have shape {counts.shape}: the last axis must be the {len(COUNT_COLUMNS)} columns")
    f1 = _precision_recall_f1(_triple(counts, name))[2]
    return float(f1) if f1.ndim == 0 else f1


def _triple(counts: np.ndarray, name: str) -> np.ndarray:
    """TP, FP, FN of one score: `(..., 9)` -> `(..., 3)`. SLU adds the word and the character counts."""
    if name == "slu":
        return counts[..., 0:3] + counts[..., 3:6]
    start = 3 * ("word", "char", "span").index(name)
    return counts[..., start : start + 3]


def _precision_recall_f1(triple: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(..., 3)` -> three `(...)`; each is 0 where its denominator is."""
    tp, fp, fn = triple[..., _TP], triple[..., _FP], triple[..., _FN]
    return _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _scores(counts: np.ndarray) -> dict[str, float]:
    """One row of counts `(9,)` -> the twelve scores."""
    values = {name: _precision_recall_f1(_triple(counts, name)) for name in _SCORES}
    f1 = {f"{name}_f1": float(values[name][2]) for name in _SCORES}
    precision = {f"{name}_precision": float(values[name][0]) for name in _SCORES}
    recall = {f"{name}_recall": float(values[name][1]) for name in _SCORES}
    return f1 | precision | recall


def _sentences(predictions: Sequence[Slots], references: Sequence[Slots]) -> Iterator[dict[str, np.ndarray]]:
    """Per sentence: slot type -> its nine counts."""
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one list of slots per sentence, "
            "an empty list where the output did not parse"
        )
    for row, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
        predicted, gold = check_slots(predicted, row, "predictions"), check_slots(gold, row, "references")
        counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(COUNT_COLUMNS)))
        _count_partial(predicted, gold, word_distance, counts, 0)
        _count_partial(predicted, gold, char_distance, counts, 3)
        _count_exact(predicted, gold, counts, 6)
        yield counts


def check_slots(slots: Slots, row: int, column: str) -> list[tuple[str, str]]:
    """One sentence's slots as pairs of strings.

    Args:
        column: `"predictions"`, or `"references"`, whose fillers must have a word.

    Raises:
        ValueError: they are not; names the row and the column.
    """
    if not isinstance(slots, (list, tuple)):
        raise ValueError(f"{column}[{row}]: {slots!r} is not a list of slots; without slots it is an empty list")
    pairs = []
    for slot in slots:
        if not isinstance(slot, (list, tuple)) or [type(part) for part in slot] != [str, str]:
            raise ValueError(f"{column}[{row}]: {slot!r} is not a (type, filler) pair of strings")
        slot_type, filler = slot
        if column == "references" and not words(filler):
            raise ValueError(f"references[{row}]: the gold filler of {slot_type!r} is empty; drop the slot or fill it")
        pairs.append((slot_type, filler))
    return pairs


def _count_partial(
    predicted: list, gold: list, distance: Callable[[str, str], float], counts: dict[str, np.ndarray], start: int
) -> None:
    """Greedy in prediction order, nearest gold filler of the same type, first in gold order on a tie."""
    remaining = list(gold)
    for slot_type, filler in predicted:
        candidates = [
            (distance(other, filler), position) for position, (t, other) in enumerate(remaining) if t == slot_type
        ]
        if not candidates:
            counts[slot_type][start + _FP] += 1
            continue
        nearest, position = min(candidates)
        remaining.pop(position)
        counts[slot_type][start : start + 3] += (1, nearest, nearest)
    for slot_type, _ in remaining:
        counts[slot_type][start + _FN] += 1


def _count_exact(predicted: list, gold: list, counts: dict[str, np.ndarray], start: int) -> None:
    remaining = list(gold)
    for slot in predicted:
        if slot in remaining:
            remaining.remove(slot)
            counts[slot[0]][start + _TP] += 1
        else:
            counts[slot[0]][start + _FP] += 1
    for slot_type, _ in remaining:
        counts[slot_type][start + _FN] += 1
