"""Judges' votes on pairs of completions, from anywhere, as preference pairs for `WeakPreferenceTrainer`."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ... import columns
from ...aggregation.comparisons.bradley_terry import Judges, Votes, disagreement, fit_bradley_terry, score_covariance
from ...aggregation.comparisons.crowd import noisy_bradley_terry
from ...supervisors.reading.messages import as_completion, completion_text
from .examples import read_prompts
from .tables import Table, as_confidence, as_dataset, as_id, read_table, refuse_alike

logger = logging.getLogger(__name__)
AGGREGATORS: dict[str, Callable[[Votes, int], tuple[Judges, np.ndarray]]] = {
    "bradley_terry": fit_bradley_terry,
    "noisy_bradley_terry": noisy_bradley_terry,
}
TIE = "tie"
WRITERS = ("writer_a", "writer_b")
UNDECIDED = 1e-6  # of a margin
SIDES = {"a": 1.0, "b": 0.0, TIE: 0.5}


def pairs_from_comparisons(
    examples: Table,
    comparisons: Table,
    recuse: Mapping[str, Sequence[str]] | None = None,
    aggregator: str = "bradley_terry",
) -> Dataset:
    r"""One preference pair for each two completions that judges tell apart.

    Every vote goes into one Bradley-Terry fit with a reliability and a position bias per judge
    ([`trl_weaks.aggregation.comparisons.bradley_terry`]): both orders of a pair are merged, and a judge whose votes
    all go to one side leaves the weighting. With d the difference of two completions' scores, the better one is
    `chosen`, `margin` is the size of d at its maximum, and `pair_epsilon` the expectation of $\sigma(-d)$: the
    probability that another judge, of reliability 1, sees the pair the other way round. Pairs with d = 0 (ties only,
    or as much for one as for the other) are left out and counted. `preference_report` reads the counts and what was
    found of each judge.

    Args:
        examples: `example_id`, `prompt` (text or messages); other columns are carried through.
        comparisons: one row a vote: `example_id`, `supervisor`, `completion_a` (shown first), `completion_b`,
            `preferred` (`"a"`, `"b"`, `"tie"`, None for an abstention, or one of the two texts), optionally
            `confidence` in (0, 1], the judge's own probability that its choice is right, and `writer_a`, `writer_b`,
            who wrote the two.
        recuse: lists of the writers whose texts a judge does not judge, by judge; needs the columns `writer_a` and
            `writer_b`. Names that are nowhere in the table are refused.
        aggregator: `"bradley_terry"`, or `"noisy_bradley_terry"`, crowd-kit's (the extra `crowd`), which counts votes
            as hard and whose `pair_epsilon` is $\sigma(-d)$ at its scores: of few votes it is very sure.

    Raises:
        ValueError: before any work: names the row, the column and the remedy.
        ImportError: crowd-kit is asked for and not installed.

    Example:

    >>> votes = [
    ...     {"example_id": "1", "supervisor": j, "completion_a": " yes", "completion_b": " no", "preferred": "a"}
    ...     for j in ("ann", "bob")
    ... ]
    >>> pairs = pairs_from_comparisons([{"example_id": "1", "prompt": "Is water wet?"}], votes)
    >>> pairs[0]["chosen"], pairs[0]["pair_epsilon"] < 0.5
    (' yes', True)
    """
    if aggregator not in AGGREGATORS:
        raise ValueError(
            f"aggregator={aggregator!r} is none of {', '.join(AGGREGATORS)}, which aggregate comparisons."
        )
    prompts = read_prompts(examples)
    taken = [name for row in prompts.values() for name in (*columns.PAIRS, "votes") if name in row]
    if taken:
        raise ValueError(f"examples have a column {taken[0]!r}, which pairs write; rename or remove it.")
    votes, counts = _votes(comparisons, prompts, recuse)
    if not votes:
        raise ValueError(f"comparisons: no vote is left of {counts['votes']} ({dict(counts)}).")
    refuse_alike((v["judge"] for v in votes), "comparisons")
    items = {key: i for i, key in enumerate(sorted({(v["id"], t) for v in votes for t in v["texts"]}))}
    judges = {name: i for i, name in enumerate(sorted({v["judge"] for v in votes}))}
    table = Votes(
        [items[v["id"], v["texts"][0]] for v in votes],
        [items[v["id"], v["texts"][1]] for v in votes],
        [judges[v["judge"]] for v in votes],
        [v["preferred"] for v in votes],
        [v["shown_first"] for v in votes],
    )
    fitted, scores = AGGREGATORS[aggregator](table, len(items))
    rows = _rows(prompts, votes, items, _Fit(table, fitted, scores, aggregator == "bradley_terry"), counts)
    if not rows:
        raise ValueError(f"comparisons: the judges tell no two completions apart ({dict(counts)}).")
    made = as_dataset(rows, examples)
    report = dict(counts) | {"pairs": len(rows), "judges": _judges(votes, judges, fitted)}
    made.info.description = json.dumps(report)
    _warn(report)
    return made


def _votes(
    comparisons: Table, prompts: Mapping[str, dict], recuse: Mapping[str, Sequence[str]] | None
) -> tuple[list[dict[str, Any]], Counter]:
    """The votes, each with its two texts in the order of the alphabet, so that both orders of a pair are one pair."""
    needed = (columns.EXAMPLE_ID, "supervisor", "completion_a", "completion_b", "preferred")
    counts: Counter = Counter(votes=0, abstained=0, recused=0, ties=0)
    found = []
    rows = read_table(comparisons, "comparisons", needed, ("confidence", "writer_a", "writer_b"))
    recuse = _recusals(recuse, rows)
    for number, row in enumerate(rows):
        counts["votes"] += 1
        example = as_id(row[columns.EXAMPLE_ID], "comparisons", number, columns.EXAMPLE_ID)
        judge = as_id(row["supervisor"], "comparisons", number, "supervisor")
        where = f"comparisons, row {number} (example_id {example!r})"
        if example not in prompts:
            raise ValueError(f"{where}: no example has this id. Add the example, or drop the vote.")
        texts = [
            completion_text(row[c], where) if row[c] is not None else "" for c in ("completion_a", "completion_b")
        ]
        if "" in texts or texts[0] == texts[1]:
            raise ValueError(f"{where}: the two completions must be two different texts, not {texts}.")
        if row["preferred"] is None:
            counts["abstained"] += 1
            continue
        if recuse and _recused(recuse, judge, row, where):
            counts["recused"] += 1
            continue
        side = _side(row["preferred"], texts, where)
        counts["ties"] += side == 0.5
        sure = as_confidence(row.get("confidence"), where)
        if sure is not None and side != 0.5:
            side = sure if side == 1.0 else 1 - sure
        swapped = texts[1] < texts[0]
        vote = {"id": example, "judge": judge, "texts": tuple(sorted(texts)), "shown_first": -1 if swapped else 1}
        found.append(vote | {"preferred": 1 - side if swapped else side})
    return found, counts


def _recusals(recuse: Mapping[str, Sequence[str]] | None, rows: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The recused writers of each judge, names as text.

    Raises:
        ValueError: a text in place of a list, or a name that no row has, which would recuse nobody in silence.
    """
    found = {}
    for judge, writers in (recuse or {}).items():
        if isinstance(writers, str) or not isinstance(writers, Iterable):
            raise ValueError(f"recuse: {judge!r} has {writers!r}; give a list of writers.")
        found[_name(judge)] = {_name(writer) for writer in writers}
    seen = {"judge": {_name(row["supervisor"]) for row in rows}}
    asked = {"judge": set(found)}
    if any(name in row for row in rows for name in WRITERS):
        seen["writer"] = {_name(row.get(name)) for row in rows for name in WRITERS}
        asked["writer"] = set().union(*found.values())
    for kind, names in asked.items():
        unknown = sorted(names - seen[kind])
        if unknown:
            known = sorted(seen[kind] - {_name(None)})
            raise ValueError(f"recuse: no {kind} is called {unknown[0]!r}; the {kind}s of the table are {known}.")
    return found


def _name(value: Any) -> str:
    """A name as `as_id` writes it."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _side(preferred: Any, texts: Sequence[str], where: str) -> float:
    named = {1.0 if preferred == texts[0] else 0.0} if preferred in texts else set()
    meant = named | ({SIDES[preferred]} if isinstance(preferred, str) and preferred in SIDES else set())
    if len(meant) == 1:
        return meant.pop()
    if meant:
        raise ValueError(
            f"{where}: column 'preferred' holds {preferred!r}, which is a side and also the text of the other one; "
            "write the texts otherwise, such as with the space that they begin with."
        )
    raise ValueError(
        f"{where}: column 'preferred' holds {preferred!r}, which is neither 'a', 'b', 'tie' nor one of the two texts."
    )


def _recused(recuse: Mapping[str, set[str]], judge: str, row: Mapping[str, Any], where: str) -> bool:
    if judge not in recuse:
        return False
    missing = [name for name in WRITERS if name not in row]
    if missing:
        raise ValueError(f"{where}: recusal needs the column {missing[0]!r}, who wrote the completion.")
    return bool({_name(row[name]) for name in WRITERS if row[name] is not None} & recuse[judge])


def _rows(
    prompts: Mapping[str, dict],
    votes: Sequence[dict[str, Any]],
    items: Mapping[tuple[str, str], int],
    fit: "_Fit",
    counts: Counter,
) -> list[dict[str, Any]]:
    """The pairs, in the order of the examples and the texts."""
    by_example: dict[str, list[int]] = {}
    for place, vote in enumerate(votes):
        by_example.setdefault(vote["id"], []).append(place)
    rows, counts["undecided"] = [], 0
    for example in (e for e in prompts if e in by_example):
        places = by_example[example]
        own = sorted({items[example, text] for place in places for text in votes[place]["texts"]})
        spread = fit.spread(places, own)
        for texts in sorted({votes[place]["texts"] for place in places}):
            a, b = (items[example, text] for text in texts)
            gap = float(fit.scores[a] - fit.scores[b])
            sides = [votes[place]["preferred"] for place in places if votes[place]["texts"] == texts]
            if abs(gap) < UNDECIDED or all(side == 0.5 for side in sides):
                counts["undecided"] += 1
                continue
            i, j = own.index(a), own.index(b)
            doubt = disagreement(abs(gap), float(spread[i, i] + spread[j, j] - 2 * spread[i, j]))
            better, worse = texts if gap > 0 else texts[::-1]
            rows.append(_pair(prompts[example], better, worse, abs(gap), doubt) | {"votes": len(sides)})
    return rows


@dataclass(frozen=True)
class _Fit:
    """Votes and what was fitted to them; `spreads`: whether the scores' doubt is known, or they count as certain."""

    table: Votes
    judges: Judges
    scores: np.ndarray
    spreads: bool

    def spread(self, places: Sequence[int], own: Sequence[int]) -> np.ndarray:
        """Covariance of one example's scores: examples share no item, so each can be taken by itself."""
        if not self.spreads:
            return np.zeros((len(own), len(own)))
        number = {item: i for i, item in enumerate(own)}
        mine = self.table.select(np.array(places))
        first, second = ([number[i] for i in items] for items in (mine.first, mine.second))
        renamed = Votes(first, second, mine.judge, mine.preferred, mine.shown_first)
        return score_covariance(renamed, self.judges, self.scores[list(own)])


def _pair(example: dict[str, Any], chosen: str, rejected: str, margin: float, doubt: float) -> dict[str, Any]:
    prompt = example[columns.PROMPT]
    return example | {
        columns.CHOSEN: as_completion(prompt, chosen),
        columns.REJECTED: as_completion(prompt, rejected),
        columns.MARGIN: margin,
        columns.PAIR_EPSILON: doubt,
        columns.PAIR_WEIGHT: 1.0,
    }


def _judges(votes: Sequence[dict[str, Any]], judges: Mapping[str, int], fit: Judges) -> dict[str, dict]:
    """What was found of each judge: votes, reliability, bias, and how often it chose what it was shown first."""
    found = {}
    for name, j in judges.items():
        mine = [v for v in votes if v["judge"] == name]
        towards = [v["preferred"] if v["shown_first"] > 0 else 1 - v["preferred"] for v in mine]
        found[name] = {
            "votes": len(mine),
            "reliability": float(fit.reliability[j]),
            "position_bias": None if fit.one_sided[j] else float(fit.position_bias[j]),  # none that is finite
            "first_shown_rate": float(np.mean(towards)),
            "one_sided": bool(fit.one_sided[j]),
        }
    return found


def _warn(report: Mapping[str, Any]) -> None:
    left_out = {name: report[name] for name in ("abstained", "recused", "undecided") if report[name]}
    if left_out:
        logger.warning("Of %d votes on pairs: %s.", report["votes"], left_out)
    for name, judge in report["judges"].items():
        if judge["one_sided"]:
            logger.warning("Judge %r always votes for one side and has left the weighting.", name)
