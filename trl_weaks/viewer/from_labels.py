"""The page of a labelled dataset."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from .. import alignment, columns
from ..labelling.reliability.gold import Gold, class_names, gold_texts, read_gold
from ..labelling.reliability.report_card import answer_confidence, supervisor_report
from ..labelling.reliability.voters import supervisor_votes
from ..labelling.sources.tables import same_text, shares_of_texts
from ..metrics.agreement import right
from ..pooling import linear_pool, pairwise_disagreement
from ..supervisors.class_names import class_id
from .page import Answer, Page, Shown

MOST = 10_000  # examples of a page. *ours*


def page_of_labels(labels: Dataset, gold: Gold | None = None, title: str = "Weak labels", limit: int = MOST) -> Page:
    """What every supervisor says of each example, with the confidence of every word or class.

    Args:
        labels: as `label_completions`, `label_classes` or the `labels_from_*` functions write them.
        gold: see [`supervisor_report`]; scores and the report card then say who is right.
        limit: most examples; the first ones are shown.

    Raises:
        ValueError: the dataset is none of these.
    """
    report = supervisor_report(labels, gold)
    if columns.WEAK_PROBS in labels.column_names:
        examples = _classes(labels, gold, limit)
    else:
        examples = _completions(labels, gold, limit)
    names = [row["supervisor"] for row in report.supervisors]
    total = len(set(labels[columns.EXAMPLE_ID]))
    about = f"{len(examples)} of {total} examples" if len(examples) < total else f"{total} examples"
    card = {"supervisors": report.supervisors, "pairs": report.pairs, "warnings": report.warnings}
    return Page(title, f"{about}, {len(names)} supervisor{'s' * (len(names) != 1)}", names, examples, report=card)


def word_confidences(text: str, offsets: Sequence[Sequence[int]], logps: Sequence[float]) -> list[tuple[str, float]]:
    """The words of a text, white space included, each with the probability of its tokens together.

    Example:

    >>> word_confidences("play jazz", [[0, 4], [4, 7], [7, 9]], [0.0, -0.5, -0.5])
    [('play', 1.0), (' jazz', 0.36787944117144233)]
    """
    starts = [i for i, c in enumerate(text) if not c.isspace() and i and text[i - 1].isspace()]
    cuts = [0]
    for start in starts:  # white space goes with the word behind it
        begin = start
        while begin and text[begin - 1].isspace():
            begin -= 1
        if begin > 0:
            cuts.append(begin)
    spans = [list(pair) for pair in pairwise([*cuts, len(text)])]
    said = alignment.before_text(offsets)  # what the template wrote is no word of the answer
    moved = alignment.transfer_logps(offsets[said:], logps[said:], spans, text=text, unit="word")
    return [(text[a:b], math.exp(min(p, 0.0))) for (a, b), p in zip(spans, moved.tolist(), strict=True)]


def _completions(labels: Dataset, gold: Gold | None, limit: int) -> list[Shown]:
    found: dict[str, Shown] = {}
    truth = {} if gold is None else gold_texts(gold, set(labels[columns.EXAMPLE_ID]))
    for row in labels:
        example = row[columns.EXAMPLE_ID]
        if example not in found:
            if len(found) == limit:
                continue
            found[example] = Shown(example, row[columns.PROMPT], [], truth.get(example))
        found[example].answers += _answers(row, truth.get(example))
    for shown in found.values():
        shown.answers.sort(key=lambda answer: answer.by)
        shares = shares_of_texts((answer.text, answer.weight) for answer in shown.answers)
        best = max(sorted(shares), key=shares.__getitem__)
        whole = math.fsum(shares.values())
        shown.disagreement = 1 - shares[best] / whole
        if len(shares) > 1:
            shown.aggregate = Answer("committee", best, note=f"share of the weight {shares[best] / whole:.2f}")
    return list(found.values())


def _answers(row: Mapping[str, Any], truth: str | None) -> list[Answer]:
    text = row[columns.COMPLETION]
    text = text if isinstance(text, str) else text[-1]["content"]
    score = None if truth is None else same_text(text, truth)
    made = []
    sources = row.get("confidence_source") or [None] * len(row[columns.SUPERVISORS])
    parts = (row[columns.SUPERVISORS], row[columns.WEIGHTS], row[columns.OFFSETS], row[columns.LOGPS], sources)
    for name, weight, offsets, logps, source in zip(*parts, strict=True):
        words = word_confidences(text, offsets, logps) if offsets else None
        confidence = answer_confidence(logps, offsets)
        finished = row.get(columns.FINISHED) is not False
        made.append(Answer(name, text, words, weight, confidence, source, score, finished))
    return made


def _classes(labels: Dataset, gold: Gold | None, limit: int) -> list[Shown]:
    truth = {} if gold is None else read_gold(gold, set(labels[columns.EXAMPLE_ID]))  # of those not shown too
    labels = labels.select(range(min(limit, len(labels))))
    supervisors, votes, shares = supervisor_votes(labels, before_aggregation=True)
    _, pooled, weights = supervisor_votes(labels)
    names = class_names(labels, votes.shape[-1])
    text = columns.TEXT if columns.TEXT in labels.column_names else columns.PROMPT
    examples = []
    for i, row in enumerate(labels):
        example = row[columns.EXAMPLE_ID]
        right = None if example not in truth else class_id(truth[example], names, example)
        given = ~np.isnan(votes[i]).any(-1)
        cast = torch.from_numpy(votes[i, given])
        answers = [
            Answer(name, _ranked(p, names), None, float(w), p.max().item(), None, _right(p, right))
            for name, p, w in zip(np.array(supervisors)[given].tolist(), cast, shares[i, given], strict=True)
        ]
        shown = Shown(example, row.get(text), answers, None if right is None else str(names[right]))
        known = ~np.isnan(pooled[i]).any(-1)
        if known.any():
            label = linear_pool(torch.from_numpy(pooled[i, known]), torch.from_numpy(weights[i, known]))
            shown.aggregate = Answer("committee", _ranked(label, names), confidence=label.max().item())
        if int(given.sum()) > 1:
            shown.disagreement = pairwise_disagreement(cast).item()
        examples.append(shown)
    return examples


def _ranked(probs: torch.Tensor, names: Sequence[Any]) -> str:
    """The classes that matter, the most probable first."""
    order = probs.argsort(descending=True)[:5].tolist()
    return ", ".join(f"{names[k]} {probs[k]:.2f}" for i, k in enumerate(order) if i == 0 or probs[k] >= 0.05)


def _right(probs: torch.Tensor, label: int | None) -> float | None:
    return None if label is None else float(right(probs, label))
