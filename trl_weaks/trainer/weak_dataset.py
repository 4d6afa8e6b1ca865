"""Prepared datasets as a whole: length, the scale of the weights, packing."""

import copy
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, PreTrainedModel
from trl import pack_dataset

from .. import columns
from .preparation import PREPARED, TEXT, UNIT_IDS, UNIT_LOGPS, WEIGHTS, completion_text
from .weak_supervision_config import WeakSupervisionConfig
from .weak_trainer import refuse_empty

WEAK = (columns.SUPERVISORS, columns.WEIGHTS, columns.OFFSETS, columns.LOGPS, columns.SCORE)

_WHERE = ("revision", "code_revision", "cache_dir", "subfolder", "token", "local_files_only", "trust_remote_code")


def context_length(model: "str | PreTrainedModel", args: WeakSupervisionConfig) -> int | None:
    """Positions the student can address, in tokens; `None` where its config does not say."""
    if isinstance(model, str):
        given = {name: value for name, value in (args.model_init_kwargs or {}).items() if name in _WHERE}
        config = AutoConfig.from_pretrained(model, **{"trust_remote_code": args.trust_remote_code} | given)
    else:
        config = model.config
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def refuse_dataset(dataset: Any, tokenizer: Any, dataset_name: str) -> None:
    """
    Raises:
        ValueError: not a dataset of rows that are still to be prepared, or a student whose tokenizer has no offsets.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"The {dataset_name} dataset must be a `datasets.Dataset`, got `{type(dataset).__name__}`: weights are "
            "normalised over the whole dataset. Materialise it with `Dataset.from_generator` first."
        )
    found = [name for name in PREPARED if name in dataset.column_names]
    if found:
        raise ValueError(
            f"The {dataset_name} dataset has the column '{found[0]}': a trainer prepared its rows, for its own "
            "tokenizer, lengths and packing. Pass the labels as they were before."
        )
    refuse_empty(dataset, dataset_name)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"`{type(tokenizer).__name__}` gives no character offsets, so confidences cannot be moved to its tokens. "
            "Use a fast tokenizer."
        )


def untruncated(args: WeakSupervisionConfig) -> WeakSupervisionConfig:
    """A copy of the settings without `max_length`: long rows are refused, never cut in silence."""
    args = copy.copy(args)
    args.max_length = None
    return args


def set_aside(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The dataset without the columns that TRL does not read, which each of its passes would write again; and those,
    with the completion's text as it is before TRL adds the end of sequence."""
    names = [name for name in WEAK if name in dataset.column_names]
    texts = [completion_text(row) for row in dataset.select_columns([columns.EXAMPLE_ID, columns.COMPLETION])]
    return dataset.remove_columns(names), dataset.select_columns(names).add_column(TEXT, texts)


def refuse_long(dataset: Dataset, limit: int | None, dataset_name: str) -> None:
    if limit is None:
        return
    long = [i for i, ids in enumerate(dataset["input_ids"]) if len(ids) > limit]
    if long:
        first = dataset[long[0]]
        raise ValueError(
            f"{len(long)} rows of the {dataset_name} dataset are longer than {limit} tokens, the first is row "
            f"{long[0]} (example {first.get(columns.EXAMPLE_ID)!r}, {len(first['input_ids'])} tokens). Raise "
            "`max_length`, use a model with a longer context, or drop these rows."
        )


def normalise_weights(dataset: Dataset) -> Dataset:
    """Scale all weights by one constant, so that their mean per supervised token is 1.

    The loss then keeps the scale of plain fine-tuning, one perfect supervisor is plain fine-tuning, and merging
    agreeing supervisors into one row changes nothing.
    """
    tokens = [sum(unit >= 0 for unit in units) for units in dataset[UNIT_IDS]]
    weighted = sum(n * sum(weights) for n, weights in zip(tokens, dataset[WEIGHTS], strict=True))
    if weighted <= 0.0:
        raise ValueError(f"Column '{columns.WEIGHTS}': all weights are 0, so there is nothing to learn.")
    scale = sum(tokens) / weighted
    return dataset.map(
        lambda rows: {WEIGHTS: [[w * scale for w in weights] for weights in rows[WEIGHTS]]},
        batched=True,
        desc="Normalising the weights",
    )


def pack_rows(dataset: Dataset, args: WeakSupervisionConfig, dataset_name: str) -> Dataset:
    """
    Put several texts into one row of at most `max_length` tokens, by TRL's strategy, with their weak columns.

    The weights become token-aligned, `[tokens][n]`; `seq_lengths` says where each text ends.

    Raises:
        ValueError: no `max_length` to pack to.
    """
    if args.max_length is None:
        raise ValueError("`packing` needs `max_length`, the length of a packed row in tokens.")
    kept = ["input_ids", "labels", UNIT_IDS, UNIT_LOGPS, WEIGHTS]
    dataset = dataset.map(
        lambda row: {WEIGHTS: [row[WEIGHTS]] * len(row["input_ids"])},
        remove_columns=[name for name in dataset.column_names if name not in kept],
        desc=f"Spreading the weights over the tokens ({dataset_name})",
    )
    if args.shuffle_dataset:
        dataset = dataset.shuffle(seed=args.seed)
    return pack_dataset(dataset, args.max_length, args.packing_strategy, {"desc": f"Packing {dataset_name} dataset"})
