"""Stored labels made again: does this ensemble still give them, are they all there, and does the dataset hold them?"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..columns import PROMPT
from ..inference.sampling import decoding
from ..supervisors.ensemble import WeakEnsemble
from .checks import check_dataset, prefixes_forgotten
from .index import Units
from .ledger import GENERATE, SCORE, Ledger
from .progress import bar
from .stages import configurations, done, pooled, readings, settings_of
from .store import KeptLabels
from .written import compare_written


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        prompts: how many were labelled again.
        worst: the largest difference of a token's log-probability, nats.
        different: what does not agree or is not there, one line each; empty where all is well.
    """

    prompts: int
    worst: float
    different: list[str]


def verify_labels(
    ensemble: WeakEnsemble,
    dataset: Dataset,
    output_dir: str | Path,
    mode: str = "independent",
    num_candidates: int = 5,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    share: float = 0.01,
    tolerance: float = 1e-3,
    unfinished: str = "no_eos",
) -> Verification:
    """Make a random share of the labels of `label_completions` again, with the same arguments, and compare.

    Whole units of work are made again, at least one, so that on the same machine the numbers are the same, and their
    rows in `dataset/` are compared with what the labels give. Labels that are missing or damaged are reported for all
    prompts. Nothing is written.

    Args:
        seed: of the draws, and of the choice of units. `share`: of the prompts, in (0, 1]. `tolerance`: nats per
            token.

    Raises:
        ValueError: a share outside (0, 1], or no labels of this configuration in `output_dir`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1.")
    settings = settings_of(mode, num_candidates, max_new_tokens, temperature, top_p, seed)
    with prefixes_forgotten(ensemble.supervisors):
        prompts = check_dataset(dataset, ensemble, max_new_tokens)
        kept = KeptLabels(Path(output_dir) / "labels")
        ledger = Ledger(kept, prompts, configurations(ensemble, settings, mode))
        units = Units(prompts, batch_size)
        whole = [number for number, unit in enumerate(units) if done(ledger, ensemble, unit, mode)]
        different = _lacking(ledger, ensemble, units, set(range(len(units))) - set(whole), mode)
        if not any(ledger.has(*key, row) for key in ledger.configs for row in range(len(prompts))):
            kept.close()
            raise ValueError(
                f"{output_dir} holds no labels of these prompts, supervisors and settings; label them first."
            )
        chosen = random.Random(seed).sample(whole, math.ceil(share * len(whole)))
        worst = 0.0
        with bar(len(chosen), "verifying", "unit") as shown:
            for number in chosen:
                gap = _compare(ledger, ensemble, dataset, units[number], mode, settings, different, tolerance)
                worst = max(worst, gap)
                shown.update()
        rows = sorted(row for number in chosen for row in units[number])
        different += compare_written(ledger, ensemble, dataset, mode, Path(output_dir) / "dataset", rows, unfinished)
        kept.close()
        return Verification(len(rows), worst, different)


def _lacking(ledger: Ledger, ensemble: WeakEnsemble, units: Units, broken: set[int], mode: str) -> list[str]:
    """One line on the prompts of these units that lack a label."""
    rows = sorted(row for number in broken for row in units[number] if not done(ledger, ensemble, [row], mode))
    if not rows:
        return []
    (example,) = ledger.prompts.ids(rows[:1])
    damaged = f" ({ledger.store.damaged} damaged lines)" if ledger.store.damaged else ""
    first = f"row {rows[0]} (example_id {example!r})"
    return [f"{len(rows)} prompts lack labels{damaged}, the first is {first}; the same arguments label them again"]


def _compare(
    ledger: Ledger,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    unit: list[int],
    mode: str,
    settings: dict,
    different: list[str],
    tolerance: float,
) -> float:
    prompts = list(dataset.select(unit)[PROMPT])
    ids = ledger.prompts.ids(unit)
    names = [f"row {row} (example_id {example!r})" for row, example in zip(unit, ids, strict=True)]
    texts = [pooled(ledger, ensemble, row, mode) for row in unit]
    worst = 0.0
    for supervisor in ensemble.supervisors:
        answers = supervisor.answer(prompts, **decoding(settings), names=names, keys=ids)
        for row, name, made in zip(unit, names, answers, strict=True):
            kept = ledger.get(GENERATE, supervisor.name, row)["candidates"]
            if [text for text, _ in made] != [c["text"] for c in kept]:
                different.append(f"{name}: {supervisor.name!r} gives other candidates")
        for row, name, read in zip(unit, names, readings(supervisor, prompts, texts, names), strict=True):
            for kept, scored in zip(ledger.get(SCORE, supervisor.name, row)["logps"], read, strict=True):
                made = scored.logps if scored else []
                same = len(made) == len(kept)
                gap = max((abs(a - b) for a, b in zip(made, kept, strict=True)), default=0.0) if same else math.inf
                worst = max(worst, gap)
                if gap > tolerance:
                    different.append(f"{name}: {supervisor.name!r} differs by {gap:.2g} nats")
    return worst
