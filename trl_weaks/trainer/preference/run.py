"""The paper's last stage in one call: the student's candidates, ranked by the ensemble, become its preferences."""

import copy
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...labelling.preferences import build_preferences
from ...supervisors.ensemble import WeakEnsemble
from ...supervisors.supervisor import WeakSupervisor
from ..weak_preference_config import WeakPreferenceConfig
from ..weak_preference_trainer import WeakPreferenceTrainer


def preference_trainer(
    student: WeakSupervisor,
    ensemble: WeakEnsemble,
    dataset: Dataset,
    args: WeakPreferenceConfig,
    peft_config: Any = None,
    **candidates: Any,
) -> tuple[WeakPreferenceTrainer, Dataset]:
    """A trainer ready to `train()` the student on pairs made from `dataset`, and the pairs.

    The reference is the student as it is now: a frozen copy, or with `peft_config` the student without its adapter.
    Called again on the same student after a kill, the candidates are not made again (they are kept in the folder
    `preferences` of `args.output_dir`) and `train(resume_from_checkpoint=...)` continues.

    Args:
        student: the supervised student with its tokenizer; trained in place.
        dataset: `example_id` and `prompt`, as in `build_preferences`.
        peft_config: trains an adapter instead of all weights.
        candidates: options of `build_preferences`, such as `num_candidates`, `max_new_tokens`, `min_margin`.

    Raises:
        ValueError: as `build_preferences` and `WeakPreferenceTrainer` do.
    """
    folder = candidates.pop("output_dir", None) or Path(args.output_dir) / "preferences"
    pairs = build_preferences(student, ensemble, dataset, output_dir=folder, **candidates)
    return trainer_on_pairs(student, pairs, args, peft_config), pairs


def trainer_on_pairs(
    student: WeakSupervisor, pairs: Dataset, args: WeakPreferenceConfig, peft_config: Any = None
) -> WeakPreferenceTrainer:
    """The same for pairs that are there already."""
    live = peft_config is None and not args.precompute_ref_log_probs
    return WeakPreferenceTrainer(
        student.model,
        copy.deepcopy(student.model) if live else None,
        args,
        train_dataset=pairs,
        processing_class=student.tokenizer,
        peft_config=peft_config,
    )
