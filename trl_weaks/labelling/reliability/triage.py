"""Which weak labels to accept, which to weight, and which to send to a person, with a bound on the accepted ones."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ... import columns
from ...metrics.agreement import top_shares
from ...metrics.selective import Threshold, bounded_threshold, coverage_risk_curve
from ...supervisors.class_names import class_id
from ..sources.tables import same_text, shares_of_texts
from .gold import Gold, class_names, gold_texts, read_gold
from .shared_ids import refuse_shared_ids
from .voters import supervisor_votes

ACCEPT, WEIGHT, PERSON = "accept", "weight", "person"
DECISION, CONFIDENCE, AUDIT = "triage", "triage_confidence", "triage_audit"
PREDICTION, TRAIN_WEIGHT = "triage_label", columns.TRAIN_WEIGHT
TEXTS = (columns.TEXT, columns.PROMPT)


@dataclass(frozen=True)
class Triage:
    """The outcome of [`triage`].

    Attributes:
        dataset: one row per example: `example_id`, its text, `triage_label` (the committee's answer),
            `triage_confidence`, `triage` (`"accept"`, `"weight"` or `"person"`), `triage_audit` (drawn at random among
            the accepted ones) and `triage_weight` (what to train it with: 1, or the estimated share that is right).
            The trainers of classes and of completions weigh rows by it where it is a column of the labels.
        threshold: the confidence from which on labels are accepted, and its bound.
        curve: `coverage_risk_curve` of the gold examples.
        risk, confidence: what was asked for.
        answered: the column that people fill in: `label`, or `completion` where the labels are texts.
    """

    dataset: Dataset
    threshold: Threshold
    curve: dict[str, list[float]]
    risk: float
    confidence: float
    answered: str = columns.LABEL

    def counts(self) -> dict[str, int]:
        """How many examples each decision has; `audit` of them are looked at although they are accepted."""
        decisions = self.dataset[DECISION]
        found = {name: sum(d == name for d in decisions) for name in (ACCEPT, WEIGHT, PERSON)}
        return found | {"audit": sum(self.dataset[AUDIT])}

    def report(self) -> str:
        """A few sentences to read."""
        n, found = len(self.dataset), self.counts()
        if math.isinf(self.threshold.confidence):
            head = f"No label can be accepted: no threshold keeps the error rate below {self.risk:.1%}"
        else:
            head = (
                f"{found[ACCEPT]} of {n} labels ({found[ACCEPT] / n:.1%}) are accepted, those with a confidence of "
                f"{self.threshold.confidence:.3f} or more: at most {self.threshold.bound:.1%} of them are wrong"
            )
        return (
            f"{head} (at {self.confidence:.0%} confidence; {self.threshold.errors} of {self.threshold.gold} gold "
            f"examples among them were wrong). {found[WEIGHT]} are trained with less weight, {found[PERSON]} go to a "
            f"person, and {found['audit']} of the accepted ones are looked at all the same."
        )

    def queue(self) -> Dataset:
        """The rows for a person: the doubtful ones, least confident first, and the random audit."""
        rows = self.dataset.filter(lambda row: row[DECISION] == PERSON or row[AUDIT])
        return rows.sort([AUDIT, CONFIDENCE])

    def to_csv(self, path: str | Path) -> None:
        """The queue as a table with an empty column `label`, which [`labels_from_votes`] reads when it is filled.

        Where the labels are texts the column is `completion`, and [`labels_from_completions`] reads it.
        """
        table = _for_people(self.queue(), self.answered).to_pandas()
        for name in table.columns.intersection(TEXTS):
            table[name] = [_shown(text) for text in table[name]]
        table.to_csv(path, index=False)

    def to_jsonl(self, path: str | Path) -> None:
        """The queue as JSON lines, with the columns of `to_csv`."""
        _for_people(self.queue(), self.answered).to_json(path)

    def to_label_studio(self, path: str | Path) -> None:
        """The queue as tasks that Label Studio imports, the committee's answers as predictions.

        They are choices of `label`, or, where the labels are texts, a text area `completion`.
        """
        kind, field = ("choices", "choices") if self.answered == columns.LABEL else ("textarea", "text")
        tasks = []
        for row in self.queue():
            choice = {"from_name": self.answered, "to_name": "text", "type": kind}
            result = [choice | {"value": {field: [str(row[PREDICTION])]}}]
            data = {name: _shown(row[name]) for name in (columns.EXAMPLE_ID, *TEXTS) if name in row}
            data[columns.TEXT] = data.get(columns.TEXT, data.get(columns.PROMPT))
            tasks.append({"data": data, "predictions": [{"score": row[CONFIDENCE], "result": result}]})
        Path(path).write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")

    def to_argilla(self, path: str | Path) -> None:
        """The queue as records for `rg.Dataset.records.log`: JSON lines of `id`, fields, suggestion and metadata."""
        with open(path, "w", encoding="utf-8") as lines:
            for row in self.queue():
                text, asked = _shown(next(row[name] for name in TEXTS if name in row)), f"{self.answered}.suggestion"
                record = {"id": row[columns.EXAMPLE_ID], "text": text, asked: str(row[PREDICTION])}
                record |= {f"{asked}.score": row[CONFIDENCE], "audit": row[AUDIT]}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def triage(
    labels: Dataset,
    gold: Gold,
    risk: float = 0.1,
    confidence: float = 0.95,
    budget: int | None = None,
    audit: float = 0.02,
    seed: int = 0,
) -> Triage:
    """Sort weak labels into those to accept, to weight, and to show to a person.

    The confidence of an example is the largest class probability of its supervisors' weighted mean; for completions
    the weight of the supervisors behind the most given one. Gold labels of a
    random sample of the examples decide from which confidence on labels are accepted: with probability `confidence`,
    at most `risk` of all accepted labels are wrong ([`bounded_threshold`]). Of the others the `budget` least confident
    go to a person and the rest keeps a weight: the share of right labels at their confidence, by isotonic regression
    on the gold sample. Where several classes are as probable, the committee has no answer: it counts as wrong. A
    queue chosen by doubt alone never sees what the committee is wrong about together, so a share `audit` of the
    accepted examples is drawn at random for a person too, within the budget.

    Args:
        labels: what `label_classes` or `label_completions` (mode `"independent"`) wrote; a NaN vote is an abstention.
        gold: of a random sample, rows of `example_id` and `label` (or `completion`), or a mapping from ids to them;
            classes by id, or by name where the labels name them; texts are compared up to white space at the ends and
            the encoding of accents.
        risk: the largest share of wrong labels to accept. *ours*
        confidence: of the bound. *ours*
        budget: most examples that people can look at; None for as many as are not accepted.
        audit: share of the accepted examples to look at. *ours*
        seed: of the audit.

    Raises:
        ValueError: no gold example is among the labels, an id or a class is unknown, an id has two prompts (named), or
            a number is out of range.

    Source: guarantee after "Trust or Escalate" (arXiv 2407.18370); the audit slice is *ours*.
    """
    if not 0 <= audit <= 1:
        raise ValueError(f"audit={audit} is a share in [0, 1].")
    if budget is not None and (budget < 0 or budget != int(budget)):
        raise ValueError(f"budget={budget} is a number of examples, at least 0.")
    answers = _answers(labels)
    places, right = _compare_with_gold(answers, gold)
    scores = answers.confidence
    threshold = bounded_threshold(scores[places], right, risk, confidence)
    accepted = scores >= threshold.confidence
    audited, person = _queue(scores, accepted, budget, audit, seed)
    estimated = _isotonic(scores[places], right, scores)
    rows = {
        columns.EXAMPLE_ID: answers.ids,
        **answers.texts,
        PREDICTION: answers.labels,
        CONFIDENCE: scores.tolist(),
        DECISION: np.where(accepted, ACCEPT, np.where(person, PERSON, WEIGHT)).tolist(),
        AUDIT: audited.tolist(),
        TRAIN_WEIGHT: np.where(accepted, 1.0, estimated).tolist(),
    }
    curve = coverage_risk_curve(scores[places], right, confidence)
    answered = columns.COMPLETION if answers.classes is None else columns.LABEL
    return Triage(Dataset.from_dict(rows), threshold, curve, risk, confidence, answered)


@dataclass(frozen=True)
class _Answers:
    """The committee's answer to every example, its confidence, and the classes' names where there are some."""

    ids: list[str]
    labels: list[Any]
    confidence: np.ndarray
    texts: dict[str, list]
    classes: list[Any] | None
    torn: np.ndarray | None = None  # (examples,) bool: several classes are as probable


def _answers(labels: Dataset) -> _Answers:
    if columns.EXAMPLE_ID not in labels.column_names:
        raise ValueError(f"the labels lack the column {columns.EXAMPLE_ID!r}, by which gold is joined.")
    if columns.WEAK_PROBS in labels.column_names:
        return _class_answers(labels)
    if {columns.COMPLETION, columns.WEIGHTS} <= set(labels.column_names):
        return _completion_answers(labels)
    raise ValueError(
        f"the labels have neither {columns.WEAK_PROBS!r} (classes) nor {columns.COMPLETION!r} and "
        f"{columns.WEIGHTS!r} (completions); triage reads what label_classes and label_completions write."
    )


def _class_answers(labels: Dataset) -> _Answers:
    refuse_shared_ids(labels, one_row=True)
    ids = labels[columns.EXAMPLE_ID][:]
    _, votes, weights = supervisor_votes(labels)
    total = weights.sum(1)
    if (total <= 0).any():
        row = int((total <= 0).argmax())
        raise ValueError(f"row {row} (example_id {ids[row]!r}): no supervisor gives a label; drop the row.")
    probs = (weights[:, :, None] * np.nan_to_num(votes)).sum(1) / total[:, None]
    classes = class_names(labels, votes.shape[2])
    texts = {name: labels[name][:] for name in TEXTS if name in labels.column_names}
    tops = top_shares(probs) > 0  # of several the first by name: none is the committee's, whatever their order
    answers = [min((classes[k] for k in np.flatnonzero(top)), key=str) for top in tops]
    return _Answers(ids, answers, probs.max(1).clip(0, 1), texts, classes, tops.sum(1) > 1)


def _completion_answers(labels: Dataset) -> _Answers:
    """The completion with the most weight behind it; of equal ones the text that sorts first. What a reader takes for
    one text is one."""
    refuse_shared_ids(labels)
    found: dict[str, list[tuple[str, float]]] = {}
    prompts: dict[str, Any] = {}
    for row in labels:
        text = row[columns.COMPLETION]
        text = text if isinstance(text, str) else text[-1]["content"]
        found.setdefault(row[columns.EXAMPLE_ID], []).append((text, math.fsum(row[columns.WEIGHTS])))
        prompts[row[columns.EXAMPLE_ID]] = row.get(columns.PROMPT)
    shared = [shares_of_texts(weighted) for weighted in found.values()]
    best = [max(sorted(shares.items()), key=lambda item: item[1]) for shares in shared]
    totals = [math.fsum(shares.values()) for shares in shared]
    share = np.array([weight / total for (_, weight), total in zip(best, totals, strict=True)]).clip(0, 1)
    return _Answers(list(found), [text for text, _ in best], share, {columns.PROMPT: list(prompts.values())}, None)


def _compare_with_gold(answers: _Answers, gold: Gold) -> tuple[np.ndarray, np.ndarray]:
    """Places of the gold examples among the labels, and whether each label is right."""
    place = {example: i for i, example in enumerate(answers.ids)}
    places, right = [], []
    read = read_gold if answers.classes is not None else gold_texts
    for example, label in read(gold, place).items():
        if answers.classes is not None:
            same = answers.labels[place[example]] == answers.classes[class_id(label, answers.classes, example)]
            same = same and not answers.torn[place[example]]  # no answer, and by chance right
        else:
            same = bool(same_text(answers.labels[place[example]], label))
        places.append(place[example])
        right.append(same)
    return np.asarray(places), np.asarray(right)


def _queue(
    scores: np.ndarray, accepted: np.ndarray, budget: int | None, audit: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Who is looked at: a random part of the accepted examples, and the least confident of the others."""
    inside, outside = np.flatnonzero(accepted), np.flatnonzero(~accepted)
    wanted = math.ceil(audit * len(inside))
    if budget is not None:
        wanted = min(wanted, budget)
    drawn = np.random.default_rng(seed).choice(inside, wanted, replace=False) if wanted else []
    audited, person = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
    audited[drawn] = True
    left = len(outside) if budget is None else min(budget - wanted, len(outside))
    person[outside[np.argsort(scores[outside], kind="stable")[:left]]] = True
    return audited, person


def _isotonic(known: np.ndarray, right: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The share of right labels at each confidence, rising with it."""
    from scipy.optimize import isotonic_regression

    levels, place, counts = np.unique(known, return_inverse=True, return_counts=True)  # equal ones have one share
    fitted = isotonic_regression(np.bincount(place, right) / counts, weights=counts).x
    return np.interp(asked, levels, fitted)


def _shown(text: Any) -> str:
    """A text, or messages as people read them."""
    return text if isinstance(text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in text)


def _for_people(queue: Dataset, answered: str) -> Dataset:
    kept = [name for name in (columns.EXAMPLE_ID, *TEXTS, PREDICTION, CONFIDENCE, AUDIT) if name in queue.column_names]
    made = queue.select_columns(kept).add_column("supervisor", ["person"] * len(queue))
    return made.add_column(answered, [""] * len(queue))
