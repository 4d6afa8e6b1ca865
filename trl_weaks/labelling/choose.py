"""From stored candidates and readings to the rows of the dataset."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..columns import COMPLETION, FINISHED, LOGPS, OFFSETS, SCORE, SUPERVISORS, WEIGHTS
from ..supervisors.ensemble import WeakEnsemble
from .ledger import GENERATE, Ledger
from .ledger import SCORE as READ

UNFINISHED = ("no_eos", "keep", "drop")


@dataclass
class LeftOut:
    """Counted by supervisor: best answers that are empty, answers it could not read, best answers that were cut."""

    empty: Counter = field(default_factory=Counter)
    too_long: Counter = field(default_factory=Counter)
    unfinished: Counter = field(default_factory=Counter)


def rows_of(
    ledger: Ledger, ensemble: WeakEnsemble, row: int, mode: str, left_out: LeftOut, unfinished: str = "no_eos"
) -> Iterator[dict]:
    """One row per distinct completion of a prompt, in the order of the completions' texts.

    `independent`: the best candidate of each supervisor. `joint`: the candidate of highest joint score among those of
    all supervisors (Eq. 6; of equal scores the text that sorts first), given by the supervisors that found it. The
    weights of the supervisors in an example's rows are normalised to sum to one. Empty answers are left out, and those
    too long for some supervisor's context, and counted in `left_out` under the supervisor's name.

    An answer that was cut before it ended (at `max_new_tokens`) is another one than the same text with its end. Of the
    candidates of `joint`, a text that any supervisor ended is one with an end. Scores are those of the text with an
    end in either case, which tells against an answer that was cut.

    Args:
        unfinished: what becomes of answers that were cut: `"no_eos"` teaches no end (`weak_finished` is False, and the
            end has no span); `"keep"` takes them for whole; `"drop"` leaves them out.
    """
    given = _given(ledger, ensemble, row, mode, left_out, unfinished)
    texts = {text for text, _ in given}
    readings = {name: _by_text(ledger.get(READ, name, row)) for name in ensemble.names}
    for name in ensemble.names:
        left_out.too_long[name] += sum(not readings[name][text][1] for text in texts)
    given = {key: names for key, names in given.items() if all(readings[n][key[0]][1] for n in ensemble.names)}
    if not given:
        return
    weight = dict(zip(ensemble.names, ensemble.weights, strict=True))
    scores = {
        text: math.fsum(weight[name] * _mean(readings[name][text][1]) for name in ensemble.names) for text, _ in given
    }
    chosen = sorted(given) if mode == "independent" else [min(given, key=lambda key: (-scores[key[0]], key))]
    total = math.fsum(weight[name] for key in chosen for name in given[key])
    for text, finished in chosen:
        names, last = given[text, finished], None if finished else -1  # the end of sequence is the last token
        yield {
            COMPLETION: text,
            SUPERVISORS: names,
            WEIGHTS: [weight[name] / total for name in names],
            OFFSETS: [readings[name][text][0][:last] for name in names],
            LOGPS: [readings[name][text][1][:last] for name in names],
            SCORE: scores[text],
            FINISHED: finished,
        }


def _given(
    ledger: Ledger, ensemble: WeakEnsemble, row: int, mode: str, left_out: LeftOut, unfinished: str
) -> dict[tuple[str, bool], list[str]]:
    """Who gave which completion: by its text and whether it has an end."""
    found: list[tuple[str, str, bool]] = []
    for name in ensemble.names:
        candidates = [(c["text"], c["finished"]) for c in ledger.get(GENERATE, name, row)["candidates"]]
        left_out.empty[name] += not candidates[0][0]
        left_out.unfinished[name] += bool(candidates[0][0]) and not candidates[0][1]
        found += [(name, text, done) for text, done in candidates[: 1 if mode == "independent" else None] if text]
    ended = {text for _, text, done in found if done} if mode != "independent" else set()
    given: dict[tuple[str, bool], list[str]] = {}
    for name, text, done in found:
        whole = done or text in ended or unfinished == "keep"
        if whole or unfinished == "no_eos":
            names = given.setdefault((text, whole), [])
            names += [name] * (name not in names)
    return given


def _by_text(record: dict) -> dict[str, tuple[list, list]]:
    return dict(zip(record["texts"], zip(record["offsets"], record["logps"], strict=True), strict=True))


def _mean(logps: list[float]) -> float:
    return sum(logps) / len(logps)
