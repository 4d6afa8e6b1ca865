"""Stored labels made again: does this ensemble still give them, are they all there, and does the dataset hold them?"""

from pathlib import Path

from datasets import Dataset

from ..supervisors.ensemble import WeakEnsemble
from .checks import prefixes_forgotten
from .completion_run import CompletionRun, CompletionSettings, Verification
from .storage.store import StoredLabels


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

    Whole batches are made again, at least one, so that on the same machine the numbers are the same, and their
    rows in `dataset/` are compared with what the labels give. One prompt of each is also answered and read without
    batches, caches and shared prefixes, which would show a fault that labelling and its repetition share. Labels
    that are missing or damaged are reported for all prompts. Nothing is written.

    Args:
        seed: of the draws, and of the choice of batches. `share`: of the prompts, in (0, 1]. `tolerance`: nats per
            token; of plain passes at least what rounding may change in the model's dtype.

    Raises:
        ValueError: a share outside (0, 1], or no labels of this configuration in `output_dir`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1.")
    settings = CompletionSettings(
        mode, num_candidates, max_new_tokens, batch_size, temperature, top_p, seed, unfinished
    )
    with prefixes_forgotten(ensemble.supervisors):
        run = CompletionRun(ensemble, dataset, settings, Path(output_dir))
        stored = StoredLabels(run.folder / run.labels)
        try:
            run.read(stored)
            return run.verify(share, tolerance)
        finally:
            stored.close()
