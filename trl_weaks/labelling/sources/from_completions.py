"""Completions that came from elsewhere (an API, people, another program) as a weak-label dataset."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from ... import alignment, columns
from ...aggregation.answers.confidence import METHODS, calibrator, most_frequent
from ...supervisors.reading.messages import as_completion, completion_text
from ...supervisors.server import was_cut
from ..reliability.gold import Gold, gold_texts
from .examples import read_prompts
from .tables import Table, as_confidence, as_dataset, as_id, plain_text, read_table, refuse_alike, same_text
from .token_logprobs import Alternative, NotTold, TokenLogprobs, read_logprobs, warn_untold

logger = logging.getLogger(__name__)
STATED, LOGPROBS, SAMPLES, RESCORED = "stated", "logprobs", "samples", "rescored"


@dataclass
class _Answer:
    """One supervisor's answer to one example; the text's tokens and their log-probabilities where they are known, the
    alternatives of each token, and the weight that stored labels give it."""

    supervisor: str
    text: str
    offsets: list[list[int]]
    logps: list[float]
    source: str | None
    finished: bool = True
    top: Sequence[Sequence[Alternative]] | None = None
    weight: float | None = None

    @property
    def confidence(self) -> float:
        return math.exp(math.fsum(alignment.logps_of_text(self.offsets, self.logps)))


def labels_from_completions(
    examples: Table,
    answers: Table,
    scorers: Sequence[Any] | None = None,
    weights: Mapping[str, float] | None = None,
    gold: Gold | None = None,
    calibration: str = "temperature",
    correct: Callable[[str, str], float] | None = None,
    labels: Dataset | None = None,
) -> Dataset:
    r"""The weak-label dataset of completions that were made elsewhere: what `label_completions` gives, without models.

    One row per distinct completion of an example, with the columns of [`trl_weaks.columns`] and `confidence_source`:
    where the confidence of each supervisor's answer comes from. In this order:

    - `"stated"`: the column `confidence`, in (0, 1].
    - `"logprobs"`: the column `logprobs`, token log-probabilities as OpenAI-compatible servers return them (chat or
      completions form); their texts must spell the completion.
    - `"samples"`: where a supervisor answers an example several times, the share of its answers that are the same. Its
      most frequent answer is used.
    - `"rescored"`: the mean log-probability of each word under `scorers`, local supervisors that read the answer.
    - `None`: none; the answer is trained as a hard label.

    Alternatives of the tokens among the log-probabilities are kept in `weak_top_logps`; see `alternatives_as_rows`.

    Args:
        examples: `example_id` (by default the row's number), `prompt` (text or messages); other columns are carried
            through.
        answers: one row an answer: `example_id`, `supervisor`, `completion` (text, one assistant message, or None for
            an abstention), optionally `confidence`, `logprobs`, and `finish_reason` (`"stop"`, what other protocols
            call it, or None: the answer ended; otherwise, as for `"length"`, it was cut, and no end is taught).
        scorers: [`WeakSupervisor`]s (or an ensemble of them) to read answers without any confidence.
        weights: of the supervisors, by name; by default equal, or as `labels` have them. Over the answers of an
            example they are normalised.
        gold: texts of some examples; confidences are then calibrated against whether answers are right, for each
            supervisor and source by itself.
        calibration: `"temperature"` or `"isotonic"`, see [`trl_weaks.aggregation.answers.confidence.calibrator`].
        correct: how right `(answer, gold)` is, in [0, 1]; by default equality up to white space at the ends and the
            encoding of accents.
        labels: what other supervisors said of the same examples, such as local models in `label_completions`; an
            equal completion shares their row. The result is that of one call with all answers: confidences keep their
            sources. Where `labels` weigh supervisors unequally, answers that join them need `weights`.

    Raises:
        ValueError: before any work: names the row, the column and the remedy.

    Example:

    >>> labels = labels_from_completions(
    ...     [{"example_id": "1", "prompt": "Capital of France?"}],
    ...     [
    ...         {"example_id": "1", "supervisor": "ann", "completion": " Paris"},
    ...         {"example_id": "1", "supervisor": "api", "completion": " Paris", "confidence": 0.9},
    ...     ],
    ... )
    >>> labels[0]["completion"], labels[0]["weak_weights"], labels[0]["confidence_source"]
    (' Paris', [0.5, 0.5], [None, 'stated'])
    """
    if calibration not in METHODS:
        raise ValueError(f"calibration={calibration!r} is not one of {METHODS}.")
    scorers = _readers(scorers)
    prompts = read_prompts(examples)
    alone = labels is not None and isinstance(answers, list) and not answers
    given = {} if alone else _answers(answers, prompts)
    if labels is not None:
        given = _joined(given, labels, prompts)
    if not given:
        raise ValueError("answers: every answer is empty or an abstention; there is nothing to train on.")
    _check_weights(weights, {a.supervisor for rows in given.values() for a in rows})
    if weights is None:
        _weigh_as_stored(given)
    if scorers:
        _rescore(given, prompts, scorers)
    if gold is not None:
        _calibrate(given, gold_texts(gold, prompts), calibration, correct)
    rows = [row for example, found in given.items() for row in _rows(prompts[example], found, weights)]
    if not any(any(row[columns.TOP_LOGPS]) for row in rows):
        rows = [{name: value for name, value in row.items() if name != columns.TOP_LOGPS} for row in rows]
    without = len(prompts) - len(given)
    if without:
        logger.warning("%d of %d examples have no answer and no row.", without, len(prompts))
    return as_dataset(rows, examples)


def _answers(answers: Table, prompts: Mapping[str, dict]) -> dict[str, list[_Answer]]:
    """The answer of each supervisor to each example, in the order of the examples and the supervisors' names."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    needed = (columns.EXAMPLE_ID, "supervisor", columns.COMPLETION)
    empty, silent = 0, []
    for number, row in enumerate(read_table(answers, "answers", needed, ("confidence", "logprobs", "finish_reason"))):
        example = as_id(row[columns.EXAMPLE_ID], "answers", number, columns.EXAMPLE_ID)
        supervisor = as_id(row["supervisor"], "answers", number, "supervisor")
        if example not in prompts:
            raise ValueError(
                f"answers, row {number}: no example has the id {example!r}. Add the example, or drop the answer."
            )
        row[columns.EXAMPLE_ID] = example
        if row[columns.COMPLETION] is None:  # an abstention
            silent.append((example, supervisor))
            continue
        where = f"answers, row {number} (example_id {example!r})"
        text = completion_text(row[columns.COMPLETION], where)
        empty += not text
        if text:
            row |= {
                "text": text,
                "number": number,
                "confidence": as_confidence(row.get("confidence"), where),
            }
            grouped.setdefault((example, supervisor), []).append(row)
    if empty:
        logger.warning("%d empty answers are left out.", empty)
    if torn := sum(one in grouped for one in silent):
        logger.warning(
            "%d abstentions are left out of a supervisor's several answers to an example: the share of equal answers "
            "is that among its others.",
            torn,
        )
    refuse_alike((supervisor for _, supervisor in grouped), "answers")
    _warn_alike(grouped)
    found: dict[str, list[_Answer]] = {}
    untold: list[int] = []
    for example, supervisor in sorted(grouped):
        found.setdefault(example, []).append(_answer(supervisor, grouped[example, supervisor], untold))
    warn_untold(len(untold))
    return {example: found[example] for example in prompts if example in found}


def _warn_alike(grouped: Mapping[tuple[str, str], list[dict[str, Any]]]) -> None:
    texts: dict[str, set[str]] = {}
    for (example, _), rows in grouped.items():
        texts.setdefault(example, set()).update(row["text"] for row in rows)
    alike = sum(len(given) - len(set(map(plain_text, given))) for given in texts.values())
    if alike:
        logger.warning(
            "%d answers differ from another one to the same example only in white space at the ends or the encoding "
            "of accents, and count as different; write them the same way if they are to share a row.",
            alike,
        )


def _joined(
    given: Mapping[str, list[_Answer]], labels: Dataset, prompts: Mapping[str, dict]
) -> dict[str, list[_Answer]]:
    """The answers and those that stored labels hold, in the order of the examples and the supervisors' names."""
    found = {example: list(answers) for example, answers in given.items()}
    for number, row in enumerate(labels):
        example, name = row[columns.EXAMPLE_ID], f"labels, row {number} (example_id {row[columns.EXAMPLE_ID]!r})"
        if example not in prompts:
            raise ValueError(f"{name}: no example has that id.")
        text, finished = completion_text(row[columns.COMPLETION], name), row.get(columns.FINISHED) is not False
        count = len(row[columns.SUPERVISORS])
        parts = [row[columns.SUPERVISORS], row[columns.OFFSETS], row[columns.LOGPS]]
        parts += [row.get(columns.WEIGHTS) or [1.0] * count, row.get(columns.TOP_LOGPS) or [None] * count]
        parts += [row.get(columns.CONFIDENCE_SOURCE) or [LOGPROBS] * count]  # local models write none
        for supervisor, offsets, logps, weight, top, source in zip(*parts, strict=True):
            if any(answer.supervisor == supervisor for answer in given.get(example, ())):
                raise ValueError(f"{name}: supervisor {supervisor!r} has an answer to it among `answers` too.")
            said = None if top is None else [[(a["token"], a["logp"]) for a in place] for place in top]
            answer = _Answer(supervisor, text, offsets, logps, source, finished, said, weight)
            found.setdefault(example, []).append(answer)
    return {e: sorted(found[e], key=lambda answer: answer.supervisor) for e in prompts if e in found}


def _weigh_as_stored(given: Mapping[str, list[_Answer]]) -> None:
    """Where no weights are asked for, answers from stored labels keep theirs, if nothing new joins them.

    Equal weights are what new answers have by default, so all are equal then. Others say nothing of a new answer.

    Raises:
        ValueError: stored weights are no weights, or are not equal and a new answer would need one beside others.
    """
    unequal = False
    for example, found in given.items():
        stored = [answer.weight for answer in found if answer.weight is not None]
        good = all(math.isfinite(weight) and weight >= 0 for weight in stored)
        if not good or (stored and math.fsum(stored) <= 0):
            raise ValueError(
                f"labels, example {example!r}, column {columns.WEIGHTS!r}: {stored} are no weights of its answers. "
                "Label it again, or give `weights`."
            )
        unequal |= any(not math.isclose(weight, stored[0], rel_tol=1e-6) for weight in stored)
    for example, found in given.items():
        new = [answer.supervisor for answer in found if answer.weight is None]
        if unequal and new and len(found) > 1:
            raise ValueError(
                f"labels, column {columns.WEIGHTS!r}: they weigh their supervisors unequally, and nothing says what "
                f"the answer of {new[0]!r} to example {example!r} weighs beside others. Give `weights`, one for each "
                "supervisor."
            )
        if new or not unequal:
            for answer in found:
                answer.weight = None


def _answer(supervisor: str, rows: list[dict[str, Any]], untold: list[int]) -> _Answer:
    """One answer out of a supervisor's k answers to an example; `untold` gets its row's number if need be."""
    text, share = most_frequent([row["text"] for row in rows])
    row = next(row for row in rows if row["text"] == text)
    stated = [r["number"] for r in rows if r["confidence"] is not None]
    if len(rows) > 1 and stated:
        raise ValueError(
            f"answers, row {stated[-1]}: supervisor {supervisor!r} answers {row[columns.EXAMPLE_ID]!r} {len(rows)} "
            "times and states a confidence; give one answer, or no confidence to take the share of equal answers."
        )
    # of equal texts one that ended is believed, as among the candidates of `label_completions`
    finished = any(not was_cut(r.get("finish_reason")) for r in rows if r["text"] == text)
    if row["confidence"] is not None:
        return _whole(supervisor, text, row["confidence"], STATED, finished)
    if row.get("logprobs") is not None:
        where = f"answers, row {row['number']} (example_id {row[columns.EXAMPLE_ID]!r})"
        try:
            read: TokenLogprobs = read_logprobs(row["logprobs"], text, where)
            return _Answer(supervisor, text, read.offsets, read.logps, LOGPROBS, finished, read.top)
        except NotTold:
            untold.append(row["number"])
    if len(rows) > 1:
        return _whole(supervisor, text, share, SAMPLES, finished)
    return _whole(supervisor, text, 1.0, None, finished)


def _whole(supervisor: str, text: str, confidence: float, source: str | None, finished: bool) -> _Answer:
    """A confidence of the whole answer: one span with its logarithm, and a certain end."""
    return _Answer(supervisor, text, [[0, len(text)]], [math.log(confidence)], source, finished)


def _readers(scorers: Any) -> Sequence[Any]:
    """The scorers as a list.

    Raises:
        ValueError: what cannot read an answer, such as a path, a server or a classifier.
    """
    given = getattr(scorers, "supervisors", scorers) or ()  # of an ensemble
    given = given if isinstance(given, list | tuple) else [given]
    for scorer in given:
        if not hasattr(scorer, "score_fitting"):
            named = repr(scorer) if isinstance(scorer, str | Path) else f"a {type(scorer).__name__}"
            raise ValueError(
                f"scorers: {named} cannot read the answers of others; give a list of local models, "
                "`WeakSupervisor.from_pretrained(path)`."
            )
    return given


def _rescore(given: Mapping[str, list[_Answer]], prompts: Mapping[str, dict], scorers: Sequence[Any]) -> None:
    """Give answers without a confidence the mean log-probability of each of their words under the scorers."""
    unsure = [(example, answer) for example, found in given.items() for answer in found if answer.source is None]
    if not unsure:
        return
    asked = ([prompts[e][columns.PROMPT] for e, _ in unsure], [a.text for _, a in unsure])
    names = [f"example {e!r}, supervisor {a.supervisor!r}" for e, a in unsure]
    read = [scorer.score_fitting(*asked, names=names) for scorer in scorers]
    for (_, answer), scores in zip(unsure, zip(*read, strict=True), strict=True):
        own = [_text_of(score, answer.finished) for score in scores if score is not None]  # too long for the others
        known = [(offsets, logps) for offsets, logps in own if logps]
        if known:
            spans = [[i, i + 1] for i in range(len(answer.text))] + [[len(answer.text)] * 2] * answer.finished
            moved = [
                alignment.transfer_logps(offsets, logps, spans, text=answer.text, unit="word")
                for offsets, logps in known
            ]
            answer.offsets, answer.logps = spans, (sum(moved) / len(moved)).tolist()
            answer.source = RESCORED
    unread = sum(answer.source is None for _, answer in unsure)
    if unread:
        logger.warning(
            "%d of %d answers without a confidence are too long for every scorer, and train as hard labels.",
            *(unread, len(unsure)),
        )


def _text_of(score: Any, finished: bool) -> tuple[list, list[float]]:
    """Offsets and log-probabilities of an answer's tokens: without what a template writes before them, and without the
    end of an answer that was cut, which it does not have."""
    head, last = alignment.before_text(score.offsets), None if finished else -1
    return score.offsets[head:last], score.logps[head:last]


def _calibrate(
    given: Mapping[str, list[_Answer]],
    gold: Mapping[str, str],
    method: str,
    correct: Callable[[str, str], float] | None,
) -> None:
    """Scale every answer's log-probabilities so that its confidence is the calibrated one."""
    right = correct or same_text
    groups: dict[tuple[str, str], list[tuple[str, _Answer]]] = {}
    for example, found in given.items():
        for answer in found:
            if answer.source is not None:
                groups.setdefault((answer.supervisor, answer.source), []).append((example, answer))
    for (supervisor, source), members in groups.items():
        known = [(a.confidence, right(a.text, gold[e])) for e, a in members if e in gold]
        if not known:
            raise ValueError(
                f"gold has no example that supervisor {supervisor!r} answered with a {source} confidence."
            )
        fitted = calibrator(*zip(*known, strict=True), method)
        for _, answer in members:
            own = alignment.logps_of_text(answer.offsets, answer.logps)  # a template's tokens keep their doubt
            head = list(answer.logps[: len(answer.logps) - len(own)])
            before, after = math.fsum(own), math.log(fitted(answer.confidence))
            if before < -1e-9:
                answer.logps = head + [logp * after / before for logp in own]
            else:  # certain before: the doubt has no place of its own
                answer.offsets, answer.logps, answer.top = [[0, len(answer.text)]], [after], None


def _rows(
    example: dict[str, Any], found: list[_Answer], weights: Mapping[str, float] | None
) -> Iterable[dict[str, Any]]:
    """One row per distinct completion, supervisors that agree share it."""
    for answer in found:
        if weights is not None:
            answer.weight = float(weights[answer.supervisor])
    raw = [1.0 if answer.weight is None else answer.weight for answer in found]
    shares = {id(answer): weight / math.fsum(raw) for answer, weight in zip(found, raw, strict=True)}
    by_text: dict[tuple[str, bool], list[_Answer]] = {}
    for answer in found:
        by_text.setdefault((answer.text, answer.finished), []).append(answer)
    for (text, finished), members in sorted(by_text.items()):
        spans, logps, tops = zip(*(_ended(answer, finished) for answer in members), strict=True)
        yield example | {
            columns.COMPLETION: as_completion(example[columns.PROMPT], text),
            columns.SUPERVISORS: [a.supervisor for a in members],
            columns.WEIGHTS: [shares[id(a)] for a in members],
            columns.OFFSETS: list(spans),
            columns.LOGPS: list(logps),
            columns.FINISHED: finished,
            columns.CONFIDENCE_SOURCE: [a.source for a in members],
            columns.TOP_LOGPS: list(tops),
        }


def _ended(answer: _Answer, finished: bool) -> tuple[list[list[int]], list[float], list | None]:
    """Spans, log-probabilities and alternatives, with exactly the end that the row teaches."""
    length = len(answer.text)
    kept = [i for i, span in enumerate(answer.offsets) if list(span) != [length, length]]
    spans, logps = [list(answer.offsets[i]) for i in kept], [answer.logps[i] for i in kept]
    top = answer.top and [[{"token": t, "logp": p} for t, p in answer.top[i]] for i in kept]
    if not finished:
        return spans, logps, top
    after = math.fsum(p for s, p in zip(answer.offsets, answer.logps, strict=True) if list(s) == [length, length])
    return [*spans, [length, length]], [*logps, after], top and [*top, []]


def _check_weights(weights: Mapping[str, float] | None, supervisors: set[str]) -> None:
    if weights is None:
        return
    unknown, missing = sorted(set(weights) - supervisors), sorted(supervisors - set(weights))
    if unknown or missing:
        raise ValueError(f"weights: unknown supervisors {unknown}, without a weight {missing}; give one for each.")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weights: supervisor {name!r} has {weight}; weights are positive and finite.")
