"""Completions: the candidates of several supervisors and their scores become the rows of one prompt.

Plain numbers in, plain numbers out: no models, no disk. What decides which candidates become rows is a
`CompletionAggregator`; `label_completions(mode=...)` takes any name of `COMPLETION_AGGREGATORS`:

    >>> def two_best(candidates):
    ...     return sorted(candidates, key=lambda c: (-c.score, c.text))[:2]
    >>> COMPLETION_AGGREGATORS["two_best"] = CompletionAggregator(two_best)
    >>> _ = COMPLETION_AGGREGATORS.pop("two_best")
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...columns import COMPLETION, FINISHED, LOGPS, OFFSETS, SCORE, SUPERVISORS, WEIGHTS
from ...registry import Registry
from ...units import logps_of_text

UNFINISHED = ("no_eos", "keep", "drop")


@dataclass(frozen=True)
class Candidate:
    """A distinct completion of a prompt.

    Attributes:
        text: of the completion; not empty.
        finished: whether it has an end; a text that was cut is another candidate than the same text with its end.
        supervisors: names of those that gave it.
        scores: mean log-probability per token by each supervisor, nats, end of sequence included.
        score: their mean, weighted by the supervisors' weights (Eq. 6 of arXiv 2406.03199).
        count: answers that it stands for: one for each supervisor unless said otherwise, as where equal draws of one
            supervisor count each.
    """

    text: str
    finished: bool
    supervisors: list[str]
    scores: Mapping[str, float]
    score: float
    count: int = 0

    def __post_init__(self):
        object.__setattr__(self, "count", self.count or len(self.supervisors))


@dataclass(frozen=True)
class CompletionAggregator:
    """Chooses, among the candidates of a prompt, those that become rows of the dataset.

    Attributes:
        choose: gets at least one candidate and gives back those to train on, in the order of the rows; it must not
            depend on the order of the candidates.
        best_only: whether each supervisor's first candidate alone is looked at, the others neither made nor scored.
            Otherwise all compete, and a text that any supervisor ended is one with an end.
    """

    choose: Callable[[Sequence[Candidate]], Sequence[Candidate]]
    best_only: bool = False


def every_best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """All candidates, in the order of their texts.

    Example:

    >>> given = [("play", "a"), ("call ann", "b")]
    >>> [one.text for one in every_best([Candidate(text, True, [name], {}, -1.0) for text, name in given])]
    ['call ann', 'play']

    See also: [`highest_joint_score`] for one row a prompt, [`CompletionAggregator`].
    """
    return sorted(candidates, key=lambda candidate: (candidate.text, candidate.finished))


def highest_joint_score(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidate of highest joint score (Eq. 6); of equal scores the text that sorts first.

    Raises:
        ValueError: a candidate's score is NaN (names its text).

    Example:

    >>> given = [("play", "a", -0.5), ("call ann", "b", -2.0)]
    >>> highest_joint_score([Candidate(text, True, [name], {}, score) for text, name, score in given])[0].text
    'play'

    See also: [`least_expected_distance`] and [`nearest_to_consensus`], which look at the words, [`every_best`].
    """
    _check_scores(candidates)
    return [min(candidates, key=lambda candidate: (-candidate.score, candidate.text, candidate.finished))]


def least_expected_distance(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidate that differs least from what all supervisors say: minimum Bayes risk (Kumar and Byrne, 2004).

    The risk is the mean, over all candidates of all supervisors, of the word edits between the two texts as a share of
    the longer one's words; every supervisor's every candidate counts the same, each of equal draws too (*ours*). Of
    equal risks the highest joint score, then the text that sorts first.

    Raises:
        ValueError: a candidate's score is NaN (names its text).

    Example:

    >>> given = [("call ann now", "a"), ("call ann", "b"), ("play", "c")]
    >>> least_expected_distance([Candidate(text, True, [name], {}, -1.0) for text, name in given])[0].text
    'call ann'

    See also: [`nearest_to_consensus`], where confident answers count more, [`highest_joint_score`].
    """
    from ...metrics.distances import levenshtein  # its package loads numpy, and a command's help lists the modes

    _check_scores(candidates)
    words = [candidate.text.split() for candidate in candidates]

    def risk(place: int) -> float:
        return math.fsum(
            other.count * levenshtein(words[place], said) / max(len(words[place]), len(said), 1)
            for other, said in zip(candidates, words, strict=True)
        )

    def key(place: int) -> tuple:
        candidate = candidates[place]
        return round(risk(place), 9), -candidate.score, candidate.text, candidate.finished

    return [candidates[min(range(len(candidates)), key=key)]]


def nearest_to_consensus(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidate with the fewest word edits to the consensus of all supervisors' words: ROVER (after Fiscus, 1997).

    Every candidate votes for its words with a weight of its confidence, exp(`score`), for each supervisor that gave it
    (*ours*); see [`~aggregation.answers.rover.consensus`]. The consensus itself may be a text that nobody gave and
    nobody scored, so a candidate stands for it (*ours*). Of equal distances the highest joint score, then the text
    that sorts first.

    Raises:
        ValueError: a candidate's score is not a finite number (names its text).

    Example:

    >>> given = [("call ann", "a"), ("fall ann now", "b"), ("call dan now", "c")]
    >>> nearest_to_consensus([Candidate(text, True, [name], {}, -1.0) for text, name in given])[0].text
    'call ann'

    See also: [`least_expected_distance`], where all answers count the same, [`highest_joint_score`].
    """
    from ...metrics.distances import levenshtein
    from .rover import consensus

    _check_scores(candidates, math.isfinite)
    highest = max(candidate.score for candidate in candidates)  # a common factor: no confidence of them all is 0
    weights = [math.exp(one.score - highest) * len(one.supervisors) for one in candidates]
    said = [candidate.text.split() for candidate in candidates]
    agreed = consensus(said, weights)

    def key(place: int) -> tuple:
        candidate = candidates[place]
        return levenshtein(said[place], agreed), -candidate.score, candidate.text, candidate.finished

    return [candidates[min(range(len(candidates)), key=key)]]


def _check_scores(
    candidates: Sequence[Candidate], good: Callable[[float], bool] = lambda score: not math.isnan(score)
) -> None:
    """No order holds among scores that are NaN: the candidates' own would choose."""
    for candidate in candidates:
        if not good(candidate.score):
            raise ValueError(f"the candidate {candidate.text[:40]!r} has score {candidate.score}; label again.")


def _check_entry(entry: object, name: str) -> None:
    if not isinstance(entry, CompletionAggregator):
        raise ValueError(f"the completion aggregator {name!r} is {entry!r}; give CompletionAggregator(function).")


COMPLETION_AGGREGATORS: Registry[CompletionAggregator] = Registry(
    "completion aggregator", _check_entry, package="trl_weaks.aggregation.answers", variable="COMPLETION_AGGREGATORS"
)
COMPLETION_AGGREGATORS["independent"] = CompletionAggregator(every_best, best_only=True)
COMPLETION_AGGREGATORS["joint"] = CompletionAggregator(highest_joint_score)
COMPLETION_AGGREGATORS["mbr"] = CompletionAggregator(least_expected_distance)
COMPLETION_AGGREGATORS["rover"] = CompletionAggregator(nearest_to_consensus)


def completion_aggregator(name: str) -> CompletionAggregator:
    """The aggregator of that name.

    Raises:
        ValueError: there is none; names those that there are.
    """
    if name not in COMPLETION_AGGREGATORS:
        raise ValueError(f"mode={name!r}: {COMPLETION_AGGREGATORS.unknown(name)}")
    return COMPLETION_AGGREGATORS[name]


@dataclass(frozen=True)
class Answered:
    """What is known of one prompt, each mapping by the name of a supervisor, in their order.

    Attributes:
        weights: of the supervisors; they sum to one.
        candidates: (text, whether finished), best first.
        scores: for each text, character offsets and log-probabilities of its tokens, end of sequence last; both
            empty where it is too long for that supervisor's context.
        drawn: whether the candidates are draws, of which equal ones count each; beams with one text are one answer.
    """

    weights: Mapping[str, float]
    candidates: Mapping[str, Sequence[tuple[str, bool]]]
    scores: Mapping[str, Mapping[str, tuple[list, list[float]]]]
    drawn: bool = False


@dataclass
class LeftOut:
    """Counted by supervisor: best answers that are empty, answers it could not read, best answers that were cut."""

    empty: Counter = field(default_factory=Counter)
    too_long: Counter = field(default_factory=Counter)
    unfinished: Counter = field(default_factory=Counter)


def texts_to_score(
    candidates: Mapping[str, Sequence[tuple[str, bool]]], aggregator: CompletionAggregator
) -> list[str]:
    """The distinct completions of a prompt that every supervisor scores, sorted; empty ones are left out."""
    texts = {text for row in candidates.values() for text, _ in _looked_at(row, aggregator)}
    return sorted(texts - {""})


def rows_of(
    answered: Answered, aggregator: CompletionAggregator, left_out: LeftOut, unfinished: str = "no_eos"
) -> Iterator[dict]:
    """One row for each completion of a prompt that the aggregator chooses.

    The weights of the supervisors in an example's rows are normalised to sum to one. Left out, and counted in
    `left_out` under the supervisor's name: empty answers, cut ones in which their supervisor reads no token, and those
    too long for some supervisor's context.

    An answer that was cut before it ended (at `max_new_tokens`) is another one than the same text with its end. Scores
    are those of the text with an end in either case, which tells against an answer that was cut.

    Args:
        unfinished: what becomes of answers that were cut: `"no_eos"` teaches no end (`weak_finished` is False, and the
            end has no span); `"keep"` takes them for whole; `"drop"` leaves them out.
    """
    given = _given(answered, aggregator, left_out, unfinished)
    texts, scores, weights = {text for text, _ in given}, answered.scores, answered.weights
    for name in weights:
        left_out.too_long[name] += sum(not scores[name][text][1] for text in texts)
    candidates = [
        _candidate(answered, text, finished, counts)
        for (text, finished), counts in given.items()
        if all(scores[name][text][1] for name in weights)
    ]
    if not candidates:
        return
    chosen = list(aggregator.choose(candidates))
    if not chosen:
        raise ValueError(f"the aggregator chose no candidate of {len(candidates)}; it must choose at least one.")
    strange = [candidate for candidate in chosen if not any(candidate is one for one in candidates)]
    if strange:
        raise ValueError(f"the aggregator chose {strange[0]!r}, which it was not given; choose among the candidates.")
    if len({id(candidate) for candidate in chosen}) < len(chosen):
        raise ValueError(
            f"the aggregator chose a candidate twice among {[one.text for one in chosen]}; once is enough."
        )
    total = math.fsum(weights[name] for candidate in chosen for name in candidate.supervisors)
    for candidate in chosen:
        names = candidate.supervisors
        last = None if candidate.finished else -1  # the end of sequence is the last token
        yield {
            COMPLETION: candidate.text,
            SUPERVISORS: names,
            WEIGHTS: [weights[name] / total for name in names],
            OFFSETS: [scores[name][candidate.text][0][:last] for name in names],
            LOGPS: [scores[name][candidate.text][1][:last] for name in names],
            SCORE: candidate.score,
            FINISHED: candidate.finished,
        }


def _looked_at(candidates: Sequence[tuple[str, bool]], aggregator: CompletionAggregator) -> Sequence[tuple[str, bool]]:
    return candidates[:1] if aggregator.best_only else candidates


def _candidate(answered: Answered, text: str, finished: bool, counts: Counter) -> Candidate:
    logps = {name: logps_of_text(*answered.scores[name][text]) for name in answered.weights}
    scores = {name: sum(values) / len(values) for name, values in logps.items()}
    joint = math.fsum(weight * scores[name] for name, weight in answered.weights.items())
    return Candidate(text, finished, list(counts), scores, joint, counts.total() if answered.drawn else len(counts))


def _given(
    answered: Answered, aggregator: CompletionAggregator, left_out: LeftOut, unfinished: str
) -> dict[tuple[str, bool], Counter]:
    """Who gave which completion, and how often: by its text and whether it has an end."""
    found: list[tuple[str, str, bool]] = []
    for name, candidates in answered.candidates.items():
        best, done = candidates[0]
        left_out.empty[name] += not best
        left_out.unfinished[name] += bool(best) and not done
        found += [(name, text, ended) for text, ended in _looked_at(candidates, aggregator) if text]
    ended = set() if aggregator.best_only else {text for _, text, done in found if done}
    given: dict[tuple[str, bool], Counter] = {}
    for name, text, done in found:
        whole = done or text in ended or unfinished == "keep"
        if not whole and len(logps_of_text(*answered.scores[name][text])) == 1:
            # white space that a chat template trims: the supervisor reads no token but the end, which is not taught
            left_out.empty[name] += unfinished == "no_eos"
        elif whole or unfinished == "no_eos":
            given.setdefault((text, whole), Counter())[name] += 1
    return given
