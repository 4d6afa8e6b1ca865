"""Rows longer than the limit are refused, dropped, or cut so that every token keeps its own part of the confidence."""

import logging
from collections.abc import Sequence
from typing import Any

from datasets import IterableDataset

from ... import columns
from ..weak_supervision_config import WeakSupervisionConfig
from .preparation import KEY, cut_row

logger = logging.getLogger(__name__)


def cut_rows(batch: dict[str, list], limit: int, mode: str, split: str, pieces: bool) -> dict[str, list]:
    """Rows of at most `limit` tokens; for `map(batched=True)`.

    Args:
        mode: `"keep_start"` or `"keep_end"`.
        pieces: keep the rest of a long row as further rows, which start with its next token.
    """
    cut: dict[str, list] = {name: [] for name in batch}
    for values in zip(*batch.values(), strict=True):
        row = dict(zip(batch, values, strict=True))
        length = len(row["input_ids"])
        if length <= limit:
            parts = [row]
        elif pieces:
            parts = [cut_row(row, slice(start, start + limit), split) for start in range(0, length, limit)]
        else:
            parts = [cut_row(row, slice(limit) if mode == "keep_start" else slice(-limit, None), split)]
        for part in parts:
            for name in cut:
                cut[name].append(part[name])
    return cut


def fit(dataset: Any, limit: int | None, args: WeakSupervisionConfig, packing: bool, name: str) -> Any:
    """
    The dataset, or stream, with no row longer than `limit`, by `args.overlong`; what was done is counted in the log.

    Rows without a token to learn, as cutting leaves them where the prompt is long, are dropped, as TRL does (packed
    ones stay, as TRL's do).

    Raises:
        ValueError: a long row where these are refused, or nothing is left.
    """
    if limit is None:
        return dataset
    cut = {
        "limit": limit,
        "mode": args.truncation_mode,
        "split": args.confidence_split,
        "pieces": packing and args.packing_strategy == "bfd_split",
    }
    if isinstance(dataset, IterableDataset):
        return _fit_stream(dataset, cut, args, packing, name)
    long = [i for i, ids in enumerate(dataset["input_ids"]) if len(ids) > limit]
    if not long:
        return dataset
    first = dataset[long[0]]
    if args.overlong == "refuse":
        raise _too_long(first, f"{len(long)} of {len(dataset)} rows of the {name} dataset are", limit)
    if args.overlong == "drop":
        keep = set(range(len(dataset))) - set(long)
        fitted, done = dataset.select(sorted(keep)), "dropped"
    else:
        fitted = dataset.map(
            cut_rows, batched=True, fn_kwargs=cut, remove_columns=dataset.column_names, desc=f"Cutting {name} dataset"
        )
        done = "cut in pieces" if cut["pieces"] else f"cut ({args.truncation_mode})"
        bare = [i for i, labels in enumerate(fitted["labels"]) if not _learns(labels)]
        if bare and not packing:
            fitted = fitted.select(sorted(set(range(len(fitted))) - set(bare)))
            done += f"; {len(bare)} of them had only prompt left and were dropped"
    logger.warning(
        "%d of %d rows of the %s dataset are longer than %d tokens, the first is row %s (example %r): %s. "
        "`overlong` says what happens to them.",
        len(long), len(dataset), name, limit, first[KEY], first[columns.EXAMPLE_ID], done,
    )  # fmt: skip
    if len(fitted) == 0:
        raise ValueError(f"No row of the {name} dataset fits {limit} tokens. Raise `max_length`.")
    return fitted


def _fit_stream(
    dataset: IterableDataset, cut: dict[str, Any], args: WeakSupervisionConfig, packing: bool, name: str
) -> IterableDataset:
    told: list[int] = []

    def fitted(batch: dict[str, list]) -> dict[str, list]:
        row = {column: values[0] for column, values in batch.items()}
        if len(row["input_ids"]) <= cut["limit"]:
            return batch
        if args.overlong == "refuse":
            raise _too_long(row, f"A row of the {name} stream is", cut["limit"])
        if not told:
            told.append(1)
            logger.warning(
                "Rows of the %s stream longer than %d tokens are %s; the first is row %s (example %r).",
                name, cut["limit"], "dropped" if args.overlong == "drop" else "cut", row[KEY], row[columns.EXAMPLE_ID],
            )  # fmt: skip
        if args.overlong == "drop":
            return {column: [] for column in batch}
        parts = cut_rows(batch, **cut)
        learns = [packing or _learns(labels) for labels in parts["labels"]]
        return {c: [v for v, keep in zip(values, learns, strict=True) if keep] for c, values in parts.items()}

    return dataset.map(fitted, batched=True, batch_size=1)


def _learns(labels: Sequence[int]) -> bool:
    return any(label != -100 for label in labels[1:])


def _too_long(row: dict[str, Any], who: str, limit: int) -> ValueError:
    return ValueError(
        f"{who} longer than {limit} tokens, the first is row {row[KEY]} (example {row[columns.EXAMPLE_ID]!r}, "
        f"{len(row['input_ids'])} tokens). Raise `max_length`, use a model with a longer context, or set "
        '`overlong="truncate"` or `overlong="drop"`.'
    )
