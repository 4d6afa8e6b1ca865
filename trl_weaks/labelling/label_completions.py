"""The weak-label dataset: every prompt answered by N supervisors, one row per distinct completion."""

import tempfile
from pathlib import Path

from datasets import Dataset, load_from_disk

from ..distributed import processes
from ..fingerprint import refuse_unknown_code
from ..supervisors.ensemble import WeakEnsemble, refuse_no_ensemble
from .checks import prefixes_forgotten
from .completion_run import CompletionRun, CompletionSettings

MODES = ("independent", "joint")  # the paper's, of `aggregation.COMPLETION_AGGREGATORS`


def label_completions(
    ensemble: WeakEnsemble,
    dataset: Dataset,
    mode: str = "independent",
    num_candidates: int = 5,
    output_dir: str | Path | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    unfinished: str = "no_eos",
) -> Dataset:
    """Label prompts with an ensemble; the columns are those of `trl_weaks.columns`, plus the dataset's own.

    Every log-probability is the supervisor's score of the completion's text in its own tokens, end of sequence
    included, so that supervisors which agree, and those which only score, are measured alike.

    An empty completion (a supervisor that ends at once) is left out and counted in a warning, and so is one that has
    too many tokens for another supervisor's context; the weights of the example's other supervisors are normalised
    again, and an example with nothing else has no row.

    Args:
        dataset: `example_id` (unique; by default the row's number) and `prompt` (text or messages), or whole
            conversations in `messages`, whose last turn of the assistant is then asked for; other columns are carried
            through.
        mode: `independent` keeps each supervisor's best completion, or its one draw; `joint` keeps the one completion
            of highest joint score among the candidates of all (Eq. 6 of Cui et al., arXiv 2406.03199); `mbr`
            the one that differs least from those of all (*ours* in its weights); `rover` the one nearest to the
            consensus of their words; or any other name in `aggregation.COMPLETION_AGGREGATORS`.
        num_candidates: beams of each supervisor, all scored in `joint` mode; or draws in `joint` mode. *paper*
        output_dir: labels are kept here while they are made, and the dataset in its folder `dataset`, as Arrow and as
            Parquet (which `load_dataset(output_dir)` finds), with a card; the same call continues where a killed one
            stopped. Under `accelerate launch` every process takes its share; a later run may have another number of
            processes. None keeps nothing (one process only).
        max_new_tokens: tokens of a completion. *paper*
        batch_size: prompts per batch of work, the most that a kill can lose. *ours*
        temperature: None searches beams (*paper*); a number samples at that temperature instead (*ours*). A draw
            depends on `seed`, the supervisor's name, the example's id and the number of the candidate alone.
        top_p: sample from the most probable tokens that together have this probability; 1 for all. *ours*
        unfinished: what becomes of answers that were cut at `max_new_tokens`, which a warning counts: `"no_eos"`
            (*ours*) trains on them without teaching an end there (`weak_finished` is False; a stock `SFTTrainer` would
            append one all the same); `"keep"` takes them for whole answers (*authors' code*); `"drop"` leaves them
            out.

    Raises:
        ValueError: before any work: wrong arguments or anything wrong with the dataset (row, column, remedy).
        LabelStoreError: the labels cannot be written; nothing already written is lost.
    """
    settings = CompletionSettings(
        mode, num_candidates, max_new_tokens, batch_size, temperature, top_p, seed, unfinished
    )
    if output_dir is None and processes().num_processes > 1:
        raise ValueError("several processes share their work through the disk: give label_completions an output_dir.")
    refuse_no_ensemble(ensemble)
    for supervisor in ensemble.supervisors:
        supervisor.settings(num_candidates, max_new_tokens, temperature is not None)  # what it refuses, before work
    if output_dir is not None:
        refuse_unknown_code(ensemble.supervisors)
    with prefixes_forgotten(ensemble.supervisors):
        if output_dir is None:
            with tempfile.TemporaryDirectory() as folder:
                CompletionRun(ensemble, dataset, settings, Path(folder)).run()
                return load_from_disk(str(Path(folder) / "dataset"), keep_in_memory=True)  # the folder goes
        CompletionRun(ensemble, dataset, settings, Path(output_dir)).run()
    return load_from_disk(str(Path(output_dir) / "dataset"))
