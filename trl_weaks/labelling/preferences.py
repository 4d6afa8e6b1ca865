"""Preference pairs: the student's own candidates, ranked by the weak ensemble (arXiv 2406.03199, §4.3)."""

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset, load_from_disk

from ..columns import CHOSEN, CHOSEN_SCORE, MARGIN, PAIR_EPSILON, PAIR_WEIGHT, PROMPT, REJECTED, REJECTED_SCORE
from ..distributed import processes
from ..fingerprint import digest, refuse_unknown_code, supervisor_fingerprint
from ..inference.sampling import Sampling, decoding
from ..supervisors.ensemble import WeakEnsemble
from ..supervisors.supervisor import WeakSupervisor
from .checks import check_dataset, prefixes_forgotten
from .index import Prompts, Units
from .ledger import GENERATE, SCORE, Ledger
from .progress import Progress, alone
from .rank import rank, save
from .stages import DECIMALS, has_read, readings
from .store import KeptLabels, LabelStore

logger = logging.getLogger(__name__)
LEFT_OUT = ("too_long", "too_few", "equal_scores", "below_margin")  # of the counts, those worth a warning
WRITTEN = (CHOSEN, REJECTED, CHOSEN_SCORE, REJECTED_SCORE, MARGIN, PAIR_WEIGHT, PAIR_EPSILON)


def build_preferences(
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    num_candidates: int = 10,
    output_dir: str | Path | None = None,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    seed: int = 0,
    min_margin: float = 0.0,
    shared_error: float = 0.1,
    batch_size: int = 16,
) -> Dataset:
    r"""One preference pair for each prompt on which the ensemble tells the student's candidates apart.

    The student answers every prompt `num_candidates` times; every supervisor reads every distinct answer, with the
    code that joint decoding uses (end of sequence included); the answers of highest and lowest
    $\sum_i w_i \, \overline{\log p_i}$ (Eq. 10 and 11, nats per token) become `chosen` and `rejected`. Left out, and
    counted: empty answers, exact duplicates, answers too long for a supervisor's context, prompts with fewer than two
    distinct answers, pairs of equal scores or of a margin below `min_margin`. `preference_report` reads the counts
    from the dataset.

    Columns: the dataset's own, TRL's `prompt`, `chosen`, `rejected`, and `chosen_score`, `rejected_score`, `margin`
    (nats per token), `pair_epsilon` (see `aggregation.preferences.flip_probabilities`; pairs it puts above
    one half are swapped, which leaves their `margin` negative) and `pair_weight` (see
    `aggregation.preferences.pair_weights`; mean one).

    Args:
        student: the model to be trained on the pairs, with its tokenizer.
        dataset: `example_id` (str, unique) and `prompt` (text or messages); other columns are carried through.
        num_candidates: answers of each prompt, at least 2. Default 10: *authors' code*.
        output_dir: candidates and scores are kept here while they are made, and the pairs in its folder `dataset`; the
            same call continues where a killed one stopped. None keeps nothing.
        max_new_tokens: tokens of an answer. *paper*
        temperature: None searches beams (*paper*); a number samples at that temperature instead (*ours*), with `seed`.
        min_margin: drop pairs whose margin is smaller, nats per token. *ours*
        shared_error: how often supervisors that agree are wrong together, in [0, 0.5), which their disagreement cannot
            show; part of every `pair_epsilon`. Default: the *paper's* constant ε.
            `aggregation.preferences.judge_pairs` measures it where gold is at hand.
        batch_size: prompts per unit of work, the most that a kill can lose. *ours*

    Raises:
        ValueError: before any work: wrong arguments or anything wrong with the dataset (row, column, remedy); after
            it: no pair is left (with the counts).
        LabelStoreError: the disk refuses; nothing already written is lost.
    """
    _check_arguments(num_candidates, temperature, min_margin, shared_error, batch_size)
    state = processes()
    if output_dir is None and state.num_processes > 1:
        raise ValueError("several processes share their work through the disk: give build_preferences an output_dir.")
    taken = [column for column in WRITTEN if column in getattr(dataset, "column_names", ())]
    if taken:
        raise ValueError(f"the dataset already has a column {taken[0]!r}, which pairs write; rename or remove it.")
    members = SimpleNamespace(supervisors=[student, *ensemble.supervisors])
    if output_dir is not None:
        refuse_unknown_code(members.supervisors)
    settings = {"num_candidates": num_candidates, "max_new_tokens": max_new_tokens}
    if temperature is not None:
        settings |= {"temperature": temperature, "seed": seed}
    with tempfile.TemporaryDirectory() as temporary, prefixes_forgotten(members.supervisors):
        prompts = check_dataset(dataset, members, max_new_tokens)
        folder = Path(output_dir or temporary)
        configs = _configurations(student, ensemble, settings)
        _collect(student, ensemble, dataset, prompts, configs, settings, folder, batch_size)
        found: list[Dataset] = []

        def put_together() -> None:
            kept = KeptLabels(folder / "candidates")
            ledger = Ledger(kept, prompts, configs)
            found.append(rank(ledger, student.name, ensemble, dataset, min_margin, shared_error))
            kept.close()
            _report(preference_report(found[0]))
            if output_dir is not None:
                save(found[0], folder / "dataset")

        alone(folder / "candidates", put_together)
        return found[0] if output_dir is None else load_from_disk(str(folder / "dataset"))


def preference_report(pairs: Dataset) -> dict:
    """What `build_preferences` counted: candidates, drops by reason, swaps, and the distribution of the margins."""
    return json.loads(pairs.info.description)


def _check_arguments(
    num_candidates: int, temperature: float | None, min_margin: float, shared_error: float, batch_size: int
) -> None:
    if num_candidates < 2:
        raise ValueError(f"num_candidates={num_candidates}: a pair needs at least 2 candidates; the authors use 10.")
    if temperature is not None:
        Sampling(temperature)
    if not (math.isfinite(min_margin) and min_margin >= 0):
        raise ValueError(f"min_margin={min_margin} must be finite and not negative (nats per token).")
    if not 0 <= shared_error < 0.5:
        raise ValueError(f"shared_error={shared_error} is a probability in [0, 0.5).")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")


def _configurations(student: WeakSupervisor, ensemble: WeakEnsemble, settings: dict) -> dict[tuple[str, str], str]:
    """Digests that decide whether a stored answer or score may be used again; weights and thresholds come later."""
    made = digest("preferences", supervisor_fingerprint(student), settings)
    readings = {(SCORE, s.name): digest(SCORE, made, supervisor_fingerprint(s)) for s in ensemble.supervisors}
    return {(GENERATE, student.name): made, **readings}


def _collect(
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    prompts: Prompts,
    configs: dict[tuple[str, str], str],
    settings: dict,
    folder: Path,
    batch_size: int,
) -> None:
    """Answer and score what is not in the store yet, each process its share."""
    state = processes()
    store = LabelStore(folder / "candidates", str(state.process_index))
    ledger = Ledger(store, prompts, configs)
    units = Units(prompts, batch_size)
    todo = [unit for unit in units if not _done(ledger, student, ensemble, unit)]
    progress = Progress(folder / "candidates", sum(map(len, todo)), "preferences")  # nobody writes while another reads
    for unit in todo[state.process_index :: state.num_processes]:
        _work(ledger, student, ensemble, dataset, unit, settings)
        progress.advance(len(unit))
    store.close()
    progress.finish()


def _done(ledger: Ledger, student: WeakSupervisor, ensemble: WeakEnsemble, unit: Sequence[int]) -> bool:
    if not _answered(ledger, student, unit):
        return False
    texts = _texts(ledger, student, unit)
    return all(has_read(ledger, name, unit, texts) for name in ensemble.names)


def _answered(ledger: Ledger, student: WeakSupervisor, unit: Sequence[int]) -> bool:
    return all(ledger.has(GENERATE, student.name, row) for row in unit)


def _texts(ledger: Ledger, student: WeakSupervisor, unit: Sequence[int]) -> list[list[str]]:
    """The distinct answers to each prompt, sorted, without empty ones."""
    kept = [ledger.get(GENERATE, student.name, row)["candidates"] for row in unit]
    return [sorted({text for text, _ in candidates} - {""}) for candidates in kept]


def _work(
    ledger: Ledger,
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    unit: Sequence[int],
    settings: dict,
) -> None:
    prompts = list(dataset.select(unit)[PROMPT])
    ids = ledger.prompts.ids(unit)
    names = [f"row {row} (example_id {example!r})" for row, example in zip(unit, ids, strict=True)]
    if not _answered(ledger, student, unit):
        if "temperature" in settings:
            answers = student.answer(prompts, **decoding(settings), names=names, keys=ids)
        else:
            found = student.generate(prompts, **settings, names=names)
            answers = [[(c.text, c.finished) for c in row] for row in found]
        ledger.put(GENERATE, student.name, unit, [{"candidates": row} for row in answers])
    texts = _texts(ledger, student, unit)
    for supervisor in ensemble.supervisors:
        if not has_read(ledger, supervisor.name, unit, texts):
            read = readings(supervisor, prompts, texts, names)
            scores = [[round(r.mean_logp, DECIMALS) + 0.0 if r else None for r in row] for row in read]
            made = [{"texts": t, "scores": s} for t, s in zip(texts, scores, strict=True)]
            ledger.put(SCORE, supervisor.name, unit, made)


def _report(report: dict) -> None:
    left_out = {reason: report[reason] for reason in LEFT_OUT if report[reason]}
    if report["chosen_unfinished"]:
        logger.warning(
            "%d of %d chosen answers were cut at max_new_tokens, and DPO would teach an end there; raise it.",
            report["chosen_unfinished"],
            report["pairs"],
        )
    level = logging.WARNING if left_out else logging.INFO
    logger.log(level, "%d pairs from %d prompts; left out: %s", report["pairs"], report["prompts"], left_out or "none")
