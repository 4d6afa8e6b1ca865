"""From stored candidates and readings to the rows of the dataset."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..columns import COMPLETION, LOGPS, OFFSETS, SCORE, SUPERVISORS, WEIGHTS
from ..supervisors.ensemble import WeakEnsemble
from .ledger import GENERATE, Ledger
from .ledger import SCORE as READ


@dataclass
class LeftOut:
    """Answers without a row, counted by supervisor: best answers that are empty, and answers it could not read."""

    empty: Counter = field(default_factory=Counter)
    too_long: Counter = field(default_factory=Counter)


def rows_of(ledger: Ledger, ensemble: WeakEnsemble, row: int, mode: str, left_out: LeftOut) -> Iterator[dict]:
    """One row per distinct completion of a prompt, in the order of the completions' texts.

    `independent`: the best candidate of each supervisor. `joint`: the candidate of highest joint score among those of
    all supervisors (Eq. 6; of equal scores the text that sorts first), given by the supervisors that found it. The
    weights of the supervisors in an example's rows are normalised to sum to one. Empty answers are left out, and those
    too long for some supervisor's context, and counted in `left_out` under the supervisor's name.
    """
    given: dict[str, list[str]] = {}
    for name in ensemble.names:
        candidates = [c["text"] for c in ledger.get(GENERATE, name, row)["candidates"]]
        left_out.empty[name] += not candidates[0]
        for text in dict.fromkeys(candidates[:1] if mode == "independent" else candidates):
            if text:
                given.setdefault(text, []).append(name)
    readings = {name: _by_text(ledger.get(READ, name, row)) for name in ensemble.names}
    for name in ensemble.names:
        left_out.too_long[name] += sum(not readings[name][text][1] for text in given)
    given = {text: names for text, names in given.items() if all(readings[n][text][1] for n in ensemble.names)}
    if not given:
        return
    weight = dict(zip(ensemble.names, ensemble.weights, strict=True))
    scores = {
        text: math.fsum(weight[name] * _mean(readings[name][text][1]) for name in ensemble.names) for text in given
    }
    chosen = sorted(given) if mode == "independent" else [min(given, key=lambda text: (-scores[text], text))]
    total = math.fsum(weight[name] for text in chosen for name in given[text])
    for text in chosen:
        yield {
            COMPLETION: text,
            SUPERVISORS: given[text],
            WEIGHTS: [weight[name] / total for name in given[text]],
            OFFSETS: [readings[name][text][0] for name in given[text]],
            LOGPS: [readings[name][text][1] for name in given[text]],
            SCORE: scores[text],
        }


def _by_text(record: dict) -> dict[str, tuple[list, list]]:
    return dict(zip(record["texts"], zip(record["offsets"], record["logps"], strict=True), strict=True))


def _mean(logps: list[float]) -> float:
    return sum(logps) / len(logps)
