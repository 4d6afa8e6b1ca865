"""Datasets and streams as a whole: what is weak, what TRL gets to see, the join on keys, weights, packing."""

import copy
import logging
from collections.abc import Callable
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from trl import pack_dataset

from ... import columns
from ...labelling.reliability.shared_ids import refuse_shared_ids
from .._compat import get_dataset_column_names, global_then_local_main_first
from ..common.model_card import HEAD
from ..weak_supervision_config import WeakSupervisionConfig
from ..weak_trainer import refuse_empty
from .preparation import KEY, PREPARED, TEXT, UNIT_IDS, UNIT_LOGPS, WEIGHTS, completion_text
from .refusals import TRANSFORM
from .validation import check_columns, check_rows, check_streamed_row

logger = logging.getLogger(__name__)

LABELS = (columns.SUPERVISORS, columns.WEIGHTS, columns.OFFSETS, columns.LOGPS)  # any of them makes a dataset weak
WEAK = (*LABELS, columns.SCORE, columns.FINISHED, columns.TRAIN_WEIGHT)
CHAT = ("tools", "chat_template_kwargs")  # what TRL reads of conversations beside prompt and completion
# What TRL makes, and what its collator and the samplers read: a column of the user's by that name is not carried on.
MADE = (KEY, TEXT, *PREPARED, "input_ids", "labels", "completion_mask", "assistant_masks", "attention_mask",
        "position_ids", "seq_lengths", "length")  # fmt: skip

_WHERE = ("revision", "code_revision", "cache_dir", "subfolder", "token", "local_files_only", "trust_remote_code")


def student_config(model: "str | PreTrainedModel", args: WeakSupervisionConfig) -> PreTrainedConfig:
    """The student's configuration, of a model that may not have been loaded yet."""
    if not isinstance(model, str):
        return model.config
    given = {name: value for name, value in (args.model_init_kwargs or {}).items() if name in _WHERE}
    return AutoConfig.from_pretrained(model, **{"trust_remote_code": args.trust_remote_code} | given)


def context_length(model: "str | PreTrainedModel", args: WeakSupervisionConfig) -> int | None:
    """Positions the student can address, in tokens; `None` where its config does not say."""
    return getattr(student_config(model, args).get_text_config(), "max_position_embeddings", None)


def is_weak(dataset: Any) -> bool:
    """Whether a dataset or stream has columns of weak labels; without any it is TRL's own."""
    return dataset is not None and any(name in LABELS for name in get_dataset_column_names(dataset))


def refuse_prepared(dataset: Any, name: str) -> None:
    """Raises ValueError for rows that a trainer has prepared, another one, or in another way."""
    found = [column for column in PREPARED if column in get_dataset_column_names(dataset)]
    if found:
        raise ValueError(
            f"The {name} dataset has the column '{found[0]}': a trainer prepared its rows, for its own tokenizer, "
            "lengths and packing. Pass the labels as they were before."
        )


def checked(dataset: Any, name: str, formatting_func: Callable[[dict], str] | None = None) -> Any:
    """
    A weak dataset whose rows keep the contract, or a stream that will refuse the row that does not.

    Args:
        formatting_func: as in TRL, makes one text of a row. The text must end with the completion, and what stands
            before it becomes the prompt.

    Raises:
        ValueError: names row, example, column and remedy.
    """
    if not isinstance(dataset, Dataset | IterableDataset):
        raise ValueError(
            f"The {name} dataset must be a `datasets.Dataset` or `IterableDataset`, got `{type(dataset).__name__}`. "
            "Make one with `Dataset.from_list` or `Dataset.from_generator`."
        )
    streamed = isinstance(dataset, IterableDataset)
    if not streamed and dataset.format["type"] == "custom":
        raise TRANSFORM.error(f"The {name} dataset: WeakSupervisionTrainer cannot prepare it, ")
    refuse_empty(dataset, name)
    refuse_prepared(dataset, name)
    check_columns(get_dataset_column_names(dataset), name)
    if isinstance(dataset, Dataset):
        refuse_shared_ids(dataset)  # as labelled: what a function writes may differ between the rows of an example
    if formatting_func is not None:
        with global_then_local_main_first():
            dataset = dataset.map(_formatted, with_indices=True, fn_kwargs={"function": formatting_func})
    if streamed:
        return dataset.map(_checked_row, with_indices=True)
    read = [
        name for name in (*columns.GENERATION, columns.FINISHED, columns.TRAIN_WEIGHT) if name in dataset.column_names
    ]
    check_rows(dataset.with_format(None).select_columns(read))
    return dataset


def _checked_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    check_streamed_row(number, row)
    return {KEY: number, TEXT: completion_text(row)}


def _formatted(row: dict[str, Any], number: int, function: Callable[[dict], str]) -> dict[str, Any]:
    text, completion = function(row), completion_text(row)
    if not isinstance(text, str) or not text.endswith(completion) or text == completion:
        raise ValueError(
            f"Row {number} (example {row[columns.EXAMPLE_ID]!r}): `formatting_func` must return the prompt's text "
            f"followed by column '{columns.COMPLETION}' as it is, or weak confidences cannot be placed; it returned "
            f"{text!r}."
        )
    return {columns.PROMPT: text.removesuffix(completion), columns.COMPLETION: completion}


def for_trl(dataset: Any) -> Any:
    """The dataset without the columns that mean something else to TRL (`text`, `labels`, `images`, `input_ids` ...).

    A stream keeps its weak columns, which TRL carries along; a dataset's are set aside, see `set_aside`.
    """
    names = get_dataset_column_names(dataset)
    own = [columns.PROMPT, columns.COMPLETION]
    if not isinstance(next(iter(dataset))[columns.PROMPT], str):
        own += [name for name in CHAT if name in names]
    carried = [columns.EXAMPLE_ID, *(name for name in WEAK if name in names)]
    if isinstance(dataset, IterableDataset):
        carried += [KEY, TEXT]
    unread = [name for name in names if name not in (*own, *carried, KEY, TEXT)]
    if unread:
        logger.info("Columns that training does not read: %s.", ", ".join(unread))
    return dataset.select_columns([*own, *carried])


def trl_settings(args: WeakSupervisionConfig) -> WeakSupervisionConfig:
    """A copy of the settings for TRL's preparation: rows are cut later, and no column is a text by itself."""
    args = copy.copy(args)
    args.max_length, args.dataset_text_field = None, "text"
    return args


def set_aside(own: Dataset, whole: Dataset) -> tuple[Dataset, Dataset]:
    """What TRL reads of `own`, each row with its key; and all other columns of `whole`, by key, with the completion's
    text as it is before TRL adds the end of sequence. TRL's passes would write all of them again and again."""
    names = [name for name in own.column_names if name not in (columns.EXAMPLE_ID, *WEAK)]
    texts = [completion_text(row) for row in own.select_columns([columns.EXAMPLE_ID, columns.COMPLETION])]
    keyed = own.select_columns(names).add_column(KEY, range(len(own)))
    carried = [name for name in whole.column_names if name not in (*names, *MADE)]
    return keyed, whole.select_columns(carried).add_column(TEXT, texts)


def joined(prepared: Dataset, carried: Dataset) -> Dataset:
    """Prepared rows, in whatever order and number they came back, with the columns that were set aside."""
    return concatenate_datasets([prepared, carried.select(prepared[KEY])], axis=1)


def normalise_weights(dataset: Any, name: str) -> Any:
    """Scale all weights by one constant, so that their mean per supervised token is 1.

    The loss then keeps the scale of plain fine-tuning, one perfect supervisor is plain fine-tuning, and merging
    agreeing supervisors into one row changes nothing. The constant of a stream is that of its first `HEAD` rows.

    Raises:
        ValueError: all weights are 0.
    """
    streamed = isinstance(dataset, IterableDataset)
    rows = dataset.take(HEAD) if streamed else dataset.select_columns([UNIT_IDS, WEIGHTS])
    tokens = weighted = 0.0
    for batch in rows.iter(batch_size=HEAD):
        for units, weights in zip(batch[UNIT_IDS], batch[WEIGHTS], strict=True):
            count = sum(unit >= 0 for unit in units)
            tokens, weighted = tokens + count, weighted + count * sum(weights)
    if weighted <= 0.0:
        raise ValueError(f"Column '{columns.WEIGHTS}': all weights are 0, so there is nothing to learn.")
    scale = tokens / weighted
    if streamed:
        logger.info("Weights of the %s stream are multiplied by %.6g, as its first %d rows say.", name, scale, HEAD)
        return dataset.map(_scaled, batched=True, batch_size=1, fn_kwargs={"scale": scale})
    return dataset.map(_scaled, batched=True, fn_kwargs={"scale": scale}, desc="Normalising the weights")


def _scaled(batch: dict[str, list], scale: float) -> dict[str, list]:
    return {WEIGHTS: [[weight * scale for weight in weights] for weights in batch[WEIGHTS]]}


def pack_rows(dataset: Any, args: WeakSupervisionConfig, name: str) -> Any:
    """
    Put several texts into one row of at most `max_length` tokens, by TRL's strategy, with their weak columns.

    The weights become token-aligned, `[tokens][n]`; `seq_lengths` says where each text ends. Shuffled afterwards where
    TRL does; TRL's preparation has shuffled the texts before.

    Raises:
        ValueError: no `max_length` to pack to.
    """
    if args.max_length is None:
        raise ValueError("`packing` needs `max_length`, the length of a packed row in tokens.")
    kept = ["input_ids", "labels", UNIT_IDS, UNIT_LOGPS, WEIGHTS]
    streamed = isinstance(dataset, IterableDataset)
    described = {} if streamed else {"desc": f"Spreading the weights over the tokens ({name})"}
    dataset = dataset.map(_spread, **described).select_columns(kept)
    packing = {} if streamed else {"desc": f"Packing {name} dataset"}
    dataset = pack_dataset(dataset, args.max_length, args.packing_strategy, packing)
    return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    return {WEIGHTS: [row[WEIGHTS]] * len(row["input_ids"])}
