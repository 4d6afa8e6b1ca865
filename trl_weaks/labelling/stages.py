"""One unit of work: a batch of prompts answered by every supervisor, then the answers read by every supervisor.

A unit is made of the same prompts whatever was done before, so that a run that was killed and taken up again computes
the same batches, and the same numbers to the last bit, as one that was not.
"""

from collections.abc import Sequence

from ..columns import PROMPT
from ..fingerprint import digest, supervisor_fingerprint
from ..inference.sampling import Sampling, decoding
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.messages import Prompt
from ..supervisors.scores import Scored
from ..supervisors.supervisor import WeakSupervisor
from .ledger import GENERATE, SCORE, Ledger

DECIMALS = 6  # of a log-probability on disk


def settings_of(
    mode: str, num_candidates: int, max_new_tokens: int, temperature: float | None, top_p: float, seed: int
) -> dict:
    """What decides the answers, as it enters digests and card.

    Raises:
        ValueError: a temperature or top_p out of range; top_p without a temperature.
    """
    settings = {"num_candidates": num_candidates, "max_new_tokens": max_new_tokens}
    if temperature is None:
        if top_p != 1:
            raise ValueError(f"top_p={top_p} narrows sampling, and beams are not sampled; give a temperature too.")
        return settings
    drawn = Sampling(temperature, top_p, seed)
    only = {"num_candidates": 1} if mode == "independent" else {}  # the others would be made and never read
    return {**settings, **only, "temperature": drawn.temperature, "top_p": drawn.top_p, "seed": drawn.seed}


def configurations(ensemble: WeakEnsemble, settings: dict, mode: str) -> dict[tuple[str, str], str]:
    """Digests that decide whether a stored label may be used again. Ensemble weights are not among them: they only
    enter when the dataset is put together."""
    prints = {s.name: supervisor_fingerprint(s) for s in ensemble.supervisors}
    configs = {(GENERATE, name): digest(GENERATE, value, settings) for name, value in prints.items()}
    configs |= {(SCORE, name): digest(SCORE, mode, settings, value, prints) for name, value in prints.items()}
    return configs


def done(ledger: Ledger, ensemble: WeakEnsemble, unit: Sequence[int], mode: str) -> bool:
    """Whether all labels of a unit are there.

    A reading of other texts than the answers that are kept does not count: where damaged answers were made again, on
    another machine say, a near tie may have gone the other way.
    """
    if not all(_has(ledger, stage, name, unit) for stage in (SCORE, GENERATE) for name in ensemble.names):
        return False
    texts = [pooled(ledger, ensemble, row, mode) for row in unit]
    return all(has_read(ledger, name, unit, texts) for name in ensemble.names)


def has_read(ledger: Ledger, name: str, unit: Sequence[int], texts: Sequence[list[str]]) -> bool:
    """Whether the readings of these texts by this supervisor, row by row, are in the store."""
    return _has(ledger, SCORE, name, unit) and all(
        ledger.get(SCORE, name, row)["texts"] == given for row, given in zip(unit, texts, strict=True)
    )


def _has(ledger: Ledger, stage: str, name: str, unit: Sequence[int]) -> bool:
    return all(ledger.has(stage, name, row) for row in unit)


def work(ledger: Ledger, ensemble: WeakEnsemble, dataset, unit: Sequence[int], mode: str, settings: dict) -> None:
    """Do what is missing of one unit and store it step by step."""
    prompts = dataset.select(unit)[PROMPT]
    ids = ledger.prompts.ids(unit)
    names = [f"row {row} (example_id {example!r})" for row, example in zip(unit, ids, strict=True)]
    for supervisor in ensemble.supervisors:
        if not _has(ledger, GENERATE, supervisor.name, unit):
            answers = supervisor.answer(list(prompts), **decoding(settings), names=names, keys=ids)
            made = [{"candidates": [{"text": t, "finished": f} for t, f in row]} for row in answers]
            ledger.put(GENERATE, supervisor.name, unit, made)
    texts = [pooled(ledger, ensemble, row, mode) for row in unit]
    for supervisor in ensemble.supervisors:
        if not has_read(ledger, supervisor.name, unit, texts):
            read = readings(supervisor, prompts, texts, names)
            made = [_record(row, given) for row, given in zip(texts, read, strict=True)]
            ledger.put(SCORE, supervisor.name, unit, made)


def readings(
    supervisor: WeakSupervisor, prompts: Sequence[Prompt], texts: Sequence[list[str]], names: Sequence[str]
) -> list[list[Scored | None]]:
    """Several completions of each prompt, scored; None for one too long for this supervisor's context."""
    flat = [(p, t, n) for p, row, n in zip(prompts, texts, names, strict=True) for t in row]
    read = iter(supervisor.score_fitting(*map(list, zip(*flat, strict=True))) if flat else ())
    return [[next(read) for _ in row] for row in texts]


def pooled(ledger: Ledger, ensemble: WeakEnsemble, row: int, mode: str) -> list[str]:
    """The distinct completions of a prompt that every supervisor reads, sorted; empty ones are left out."""
    texts = set()
    for name in ensemble.names:
        candidates = ledger.get(GENERATE, name, row)["candidates"]
        texts.update(c["text"] for c in (candidates[:1] if mode == "independent" else candidates))
    return sorted(texts - {""})


def _record(texts: Sequence[str], read: Sequence[Scored | None]) -> dict:
    return {
        "texts": list(texts),
        "offsets": [r.offsets if r else [] for r in read],
        "logps": [[round(x, DECIMALS) + 0.0 for x in r.logps] if r else [] for r in read],
    }
