"""From stored candidates and readings to the rows of the dataset."""

import math
from collections import Counter
from collections.abc import Iterator

from ..columns import COMPLETION, LOGPS, OFFSETS, SCORE, SUPERVISORS, WEIGHTS
from .ensemble import WeakEnsemble
from .ledger import GENERATE, Ledger
from .ledger import SCORE as READ


def rows_of(ledger: Ledger, ensemble: WeakEnsemble, row: int, mode: str, empty: Counter) -> Iterator[dict]:
    """One row per distinct completion of a prompt, in the order of the completions' texts.

    `independent`: the best candidate of each supervisor. `joint`: the candidate of highest joint score among those of
    all supervisors (Eq. 6; of equal scores the text that sorts first), given by the supervisors that found it. The
    weights of the supervisors in an example's rows are normalised to sum to one. Empty answers are left out and
    counted in `empty` under the supervisor's name.
    """
    given: dict[str, list[str]] = {}
    for name in ensemble.names:
        candidates = [c["text"] for c in ledger.get(GENERATE, name, row)["candidates"]]
        empty[name] += not candidates[0]
        for text in dict.fromkeys(candidates[:1] if mode == "independent" else candidates):
            if text:
                given.setdefault(text, []).append(name)
    if not given:
        return
    weight = dict(zip(ensemble.names, ensemble.weights, strict=True))
    readings = {name: _by_text(ledger.get(READ, name, row)) for name in ensemble.names}
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
