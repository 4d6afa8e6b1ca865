"""What a preference run is checked for before its long work starts."""

import math
from collections.abc import Iterable

import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from ..columns import CHOSEN, PAIR_EPSILON, PAIR_WEIGHT, PROMPT, REJECTED

logger = get_logger(__name__)

# Layers that call F.dropout with a float of their own; TRL's `disable_dropout` reaches `nn.Dropout` modules only.
FUNCTIONAL_DROPOUT = ("dropout", "attention_dropout", "activation_dropout")


def check_pairs(dataset: Dataset | IterableDataset, name: str, demanded: dict[str, bool | None]) -> None:
    """Raises ValueError, naming row, column and remedy, unless the columns in `demanded` hold what the loss needs."""
    present = dataset.column_names
    if present is None:  # a stream that does not know its columns
        return
    for column in (CHOSEN, REJECTED):
        if column not in present:
            raise ValueError(
                f"The {name} dataset has no `{column}` column (it has {', '.join(present)}). Preference training "
                "needs `prompt`, `chosen` and `rejected`: make them with `trl_weaks.build_preferences`."
            )
    if isinstance(dataset, Dataset):
        for column in {PROMPT, CHOSEN, REJECTED} & set(present):
            for row, value in enumerate(dataset[column]):
                if value is None:
                    raise ValueError(f"Row {row} of the {name} dataset has `{column}` = None. Drop the row.")
    for column, must in demanded.items():
        if must and column not in present:
            raise ValueError(
                f"The {name} dataset has no `{column}` column: score its pairs with `trl_weaks.build_preferences`, or "
                f"set `use_{column}` to None or False."
            )
        if column in present and isinstance(dataset, Dataset):
            _check_values(dataset[column], column, name)


def _check_values(values: Iterable[float | None], column: str, name: str) -> None:
    below = 0.5 if column == PAIR_EPSILON else math.inf
    total = 0.0
    for row, value in enumerate(values):
        if value is None or not 0.0 <= value < below:  # also refuses NaN
            remedy = "swap the pair where it is above one half" if column == PAIR_EPSILON else "drop the row"
            raise ValueError(
                f"Row {row} of the {name} dataset has `{column}` = {value}; it must lie in [0, {below}). "
                f"Correct the row, or {remedy}."
            )
        total += value
    if column == PAIR_WEIGHT and total == 0.0:
        raise ValueError(f"Every `{column}` of the {name} dataset is 0: no pair would train anything.")


def drop_equal_pairs(dataset: Dataset, name: str, max_length: int | None, truncation_mode: str) -> Dataset:
    """Drops, and counts in a warning, tokenised pairs whose loss is constant: same tokens after truncation."""

    def differ(row: dict) -> bool:
        chosen, rejected = row["prompt_ids"] + row["chosen_ids"], row["prompt_ids"] + row["rejected_ids"]
        if max_length is None:
            return chosen != rejected
        if truncation_mode == "keep_end":
            return chosen[-max_length:] != rejected[-max_length:]
        return chosen[:max_length] != rejected[:max_length]

    kept = dataset.filter(differ)
    if isinstance(dataset, IterableDataset):
        return kept
    dropped = len(dataset) - len(kept)
    if len(kept) == 0:
        raise ValueError(
            f"No pair of the {name} dataset tells chosen from rejected: all {dropped} hold the same tokens twice "
            f"within `max_length` ({max_length})."
        )
    if dropped:
        logger.warning(
            f"Dropped {dropped} of {len(dataset)} pairs of the {name} dataset: chosen and rejected are the same "
            "tokens after truncation, so their loss is a constant."
        )
    return kept


def check_reference(model: object, ref_model: object, has_adapter: bool, precompute: bool) -> None:
    """Raises ValueError when there is nothing to compare the policy with: TRL would reload it from a path it lacks."""
    if isinstance(model, str) or ref_model is not None or has_adapter or precompute:
        return
    if not model.config._name_or_path:
        raise ValueError(
            "The model was built in memory, so no reference can be reloaded from a path. Pass "
            "`ref_model=copy.deepcopy(model)`, or a `peft_config`, or set `precompute_ref_log_probs=True`."
        )


def silence_functional_dropout(model: torch.nn.Module) -> None:
    """Sets to 0 the dropout that OPT and others apply without a module, which would part policy from reference."""
    for module in model.modules():
        for name in FUNCTIONAL_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def share_moved(model: torch.nn.Module, step: float, sample: int = 4096) -> float | None:
    """Share of trainable 16-bit weights that a step of this size changes at all; None where no weight is 16-bit."""
    moved = total = 0
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            weights = parameter.detach().flatten()[:sample]
            moved += int(((weights.float() - step).to(parameter.dtype) != weights).sum())
            total += weights.numel()
    return moved / total if total else None


def warn_of_rounding(model: torch.nn.Module, learning_rate: float) -> None:
    """Warns where steps of this size round away in more than nine tenths of the weights that are to be trained."""
    moved = share_moved(model, learning_rate)
    if moved is not None and moved < 0.1:
        logger.warning(
            f"At `learning_rate` {learning_rate:g} a step changes {moved:.1%} of the model's 16-bit weights; the rest "
            "round back. Load the model with dtype float32 (autocast stays on), use DeepSpeed's float32 masters, "
            "train an adapter, or raise the learning rate."
        )
