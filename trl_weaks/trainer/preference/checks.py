"""What a preference run is checked for before its long work starts."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset

from ...aggregation.base import NotComputable
from ...columns import CHOSEN, EXAMPLE_ID, PAIR_EPSILON, PAIR_WEIGHT, PROMPT, REJECTED
from ...supervisors.adapters import adapter_layers
from .._compat import is_peft_model

logger = get_logger(__name__)

TEXTS = ("messages", "completion")  # of other formats: TRL takes any of them to tell text from messages


def check_pairs(
    dataset: Dataset | IterableDataset, name: str, demanded: dict[str, bool | None]
) -> Dataset | IterableDataset:
    """The dataset, its columns in `demanded` checked for what the loss needs; a stream's as its rows are read.

    Raises:
        ValueError: naming row, column and remedy.
    """
    present = dataset.column_names
    if present is not None:
        _check_columns(present, name, demanded)
    if isinstance(dataset, IterableDataset):
        return dataset.map(
            _checked_row,
            with_indices=True,
            fn_kwargs={"name": name, "demanded": demanded, "known": present},
            features=dataset.features,
        )
    for column in {PROMPT, CHOSEN, REJECTED} & set(present):
        for row, value in enumerate(dataset[column]):
            if value is None:
                raise ValueError(f"Row {row} of the {name} dataset has `{column}` = None. Drop the row.")
    for column in demanded:
        if column in present:
            values = dataset[column]
            for row, value in enumerate(values):
                _check_value(value, column, f"Row {row} of the {name} dataset")
            if column == PAIR_WEIGHT and not any(map(as_trained, values)):
                raise NotComputable(f"Every `{column}` of the {name} dataset is 0: no pair would train anything.")
    return dataset


def _check_columns(present: Iterable[str], name: str, demanded: dict[str, bool | None]) -> None:
    for column in (CHOSEN, REJECTED):
        if column not in present:
            raise ValueError(
                f"The {name} dataset has no `{column}` column (it has {', '.join(present)}). Preference training "
                "needs `prompt`, `chosen` and `rejected`: make them with `trl_weaks.build_preferences`."
            )
    for column, must in demanded.items():
        if must and column not in present:
            raise ValueError(
                f"The {name} dataset has no `{column}` column: score its pairs with `trl_weaks.build_preferences`, or "
                f"set `use_{column}` to None or False."
            )


def _checked_row(row: dict, index: int, name: str, demanded: dict[str, bool | None], known: list[str] | None) -> dict:
    _check_columns(row, name, demanded)
    where = f"Row {index} of the {name} stream"
    if row.get(EXAMPLE_ID) is not None:
        where += f" (`{EXAMPLE_ID}` {row[EXAMPLE_ID]!r})"
    for column in (PROMPT, CHOSEN, REJECTED):
        if column in row and row[column] is None:
            raise ValueError(f"{where} has `{column}` = None. Drop the row.")
    if known is None and (other := next((column for column in TEXTS if column in row), None)):
        raise ValueError(f"{where} has a column `{other}`, which is no part of a pair; remove it from the stream.")
    for column in demanded:
        if column in row:
            _check_value(row[column], column, where)
    return row


def _check_value(value: float | None, column: str, where: str) -> None:
    below = 0.5 if column == PAIR_EPSILON else math.inf
    if value is None or isinstance(value, str) or not 0.0 <= as_trained(value) < below:  # also refuses NaN
        remedy = "swap the pair where it is above one half" if column == PAIR_EPSILON else "drop the row"
        raise ValueError(
            f"{where} has `{column}` = {value}; it must lie in [0, {below}), as float32. Correct the row, or {remedy}."
        )


def as_trained(value: float) -> float:
    """The number that a batch holds, float32: 0.4999999999 is ½ there, where rDPO divides by 0, and 1e39 infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


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


def check_adapters(model: object, ref_model: object) -> None:
    """Raises ValueError where the adapter in training is not the one that TRL copies to be the reference."""
    if isinstance(model, str):  # loaded from a path: adapters come from `peft_config`
        return
    if not is_peft_model(model) and adapter_layers(model):
        raise ValueError(
            "The model holds adapters and is no `PeftModel`: which of them would be trained, and saved, is not said. "
            "Merge them into it first (`PeftModel.merge_and_unload()`), or pass the `PeftModel`."
        )
    active = model.active_adapters if ref_model is None and is_peft_model(model) else ["default"]
    if active != ["default"]:
        raise ValueError(
            f"The model trains the adapter {', '.join(map(repr, active))}, and without `ref_model` the reference is a "
            "copy of the adapter 'default'. Load the one to train as 'default' "
            "(`PeftModel.from_pretrained(base, path, is_trainable=True)`), or pass `ref_model`."
        )


def without_other_texts(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Pairs without the user's columns of other formats, which decide at random in TRL whether pairs are messages."""
    present = dataset.column_names
    return dataset.remove_columns([column for column in TEXTS if column in (present or ())])


def warn_of_unread_epsilon(dataset: Dataset | IterableDataset, name: str, args: Any) -> None:
    """Flip probabilities that nobody asked to ignore, under a loss that has none."""
    there = PAIR_EPSILON in (dataset.column_names or ())
    if there and args.use_pair_epsilon is None and PAIR_EPSILON not in args.pair_columns:
        losses = " and ".join(map(repr, args.loss_type))
        logger.warning(
            f"`{PAIR_EPSILON}` of the {name} dataset is not read: TRL's {losses} has none of single pairs. "
            "`preference_loss` 'cdpo', 'rdpo' and 'cw' have; `use_pair_epsilon=False` says that none is wanted."
        )


def warn_of_another_reference(model: torch.nn.Module, reference: torch.nn.Module | None) -> None:
    """A model that was trained since it was loaded: TRL loads the reference from where the model came from."""
    if reference is None or is_peft_model(model):
        return
    loaded = dict(reference.named_parameters())
    for name, mine in model.named_parameters():
        other = loaded.get(name)
        if other is None or other.shape != mine.shape or other.device != mine.device:
            return  # shards, or another model: nothing can be said
        if not torch.equal(mine.detach().to(other.dtype), other.detach()):
            logger.warning(
                f"The reference was loaded from {model.config._name_or_path!r} and is not the model as it was given, "
                "which has been trained since. Pass `ref_model=copy.deepcopy(model)` if that is to be the reference."
            )
            return


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
