"""From weak-label rows and a student's tokenizer to token-aligned columns."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ... import alignment, columns
from ...supervisors.reading.chat import place

# Prepared columns, aligned with `input_ids`.
UNIT_IDS = "weak_unit_ids"  # [tokens] confidence unit of each supervised token, -1 elsewhere
UNIT_LOGPS = "weak_unit_logps"  # [tokens][n] log-probability of the token's whole unit under each supervisor, nats
WEIGHTS = "weak_row_weights"  # [n] weight of each supervisor, mean 1 per supervised token of the dataset
PREPARED = (UNIT_IDS, UNIT_LOGPS, WEIGHTS)
TEXT = "_completion_text"  # the completion before TRL appends the end-of-sequence token
KEY = "_row"  # the row's number in the dataset as it was given: what is set aside is joined on it


def completion_text(row: dict[str, Any]) -> str:
    """The completion's characters that `weak_offsets` speak about: the text, or the one assistant message's content.

    Raises:
        ValueError: a conversational completion is not exactly one message with text content.
    """
    completion = row[columns.COMPLETION]
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or not isinstance(completion[0].get("content"), str):
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}: column '{columns.COMPLETION}' must be one message with text "
            f"content; it has {len(completion)} messages. Put earlier turns into '{columns.PROMPT}'."
        )
    return completion[0]["content"]


def student_offsets(
    rows: Sequence[dict[str, Any]],
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """For each row the student's token ids of all of it, and their offsets into the completion's text.

    Tokens before the completion, the prompt's and what a chat template writes between, get the empty span (0, 0) or
    are cut at it; what follows it (end of sequence, the template's closing tokens) gets the empty span at its end.
    White space that a chat template trims has no token.
    """
    rendered, places = [], []
    conversational = not isinstance(rows[0][columns.PROMPT], str)  # the same for all, see `check_rows`
    for row, text in zip(rows, texts, strict=True):
        if conversational:
            whole, start, begin, end = _rendered_chat(row, text, tokenizer, chat_template)
        else:
            whole, start = row[columns.PROMPT] + row[columns.COMPLETION], len(row[columns.PROMPT])
            begin, end = start, start + len(text)
        rendered.append(whole)
        places.append((start, begin, end))
    special = {"add_special_tokens": False} if conversational else {}  # the template has them already
    encoded = tokenizer(rendered, return_offsets_mapping=True, **special)
    found = []
    for ids, spans, where, text in zip(encoded["input_ids"], encoded["offset_mapping"], places, texts, strict=True):
        found.append((ids, _within(spans, *where, len(text))))
    return found


def _within(spans: Sequence[tuple[int, int]], start: int, begin: int, end: int, length: int) -> list[tuple[int, int]]:
    """Spans of the whole as spans of a text of this length, whose character 0 would be at `start`, and of which
    [begin, end) is written there."""
    cut, last = [], 0
    for a, b in spans:
        if a == b == 0:  # tokens that the tokenizer adds, such as [SEP] at the end, come without a place
            a = b = last
        last = b
        inside = (min(max(a, start), end) - start, min(max(b, start), end) - start)
        if a < b <= begin:  # the template's, also where white space of the text was trimmed
            inside = (0, 0)
        cut.append((length, length) if a >= end else inside)
    return cut


def _rendered_chat(
    row: dict[str, Any], text: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> tuple[str, int, int, int]:
    """A conversation as the template writes it, where the completion's character 0 would be, where what is written of
    it begins, and where it ends."""
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    kwargs = {"chat_template": chat_template, "tools": tools} | (row.get("chat_template_kwargs") or {})

    def render(messages: list[dict], **options: bool) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options, **kwargs)

    if placed := place(render, row[columns.PROMPT], row[columns.COMPLETION][0]):
        return placed.whole, placed.start - placed.skipped, placed.start, placed.start + placed.kept
    prompt = render(row[columns.PROMPT], add_generation_prompt=True)
    rendered = render(row[columns.PROMPT] + row[columns.COMPLETION])
    common = next((i for i, (a, b) in enumerate(zip(prompt, rendered, strict=False)) if a != b), len(prompt))
    start = rendered.find(text, min(common, len(rendered)))
    if start < 0:
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}: the chat template changes the completion's text, so weak "
            "confidences cannot be placed on it. Use a template that renders the content as it is."
        )
    return rendered, start, start, start + len(text)


def prepare_rows(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, chat_template: str | None, unit: str, split: str
) -> dict[str, list]:
    """Token-aligned confidence columns of rows that TRL has already tokenised; for `Dataset.map(batched=True)`.

    Args:
        batch: lists of the weak columns, TRL's `prompt`/`completion`, and its `input_ids` and `labels`.
        tokenizer: the student's fast tokenizer.
        chat_template: the template TRL used, `None` for the tokenizer's own.
        unit: `"word"` or `"span"`.
        split: `confidence_split` of the settings.

    Returns:
        `weak_unit_ids`, `weak_unit_logps`, `weak_row_weights` (see the top of this file). With a column
        `weak_finished`, `labels` too: where it is False, tokens after the text (end of sequence, the template's
        closing tokens) get -100, since no supervisor said that the text ends there.

    Raises:
        ValueError: re-tokenising does not give `input_ids` back, or the alignment is impossible.
    """
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    texts = batch[TEXT]
    prepared: dict[str, list] = {name: [] for name in PREPARED}
    for row, text, (ids, offsets) in zip(
        rows, texts, student_offsets(rows, texts, tokenizer, chat_template), strict=True
    ):
        if list(ids) != list(row["input_ids"]):
            raise ValueError(
                f"Example {row.get(columns.EXAMPLE_ID)!r}: the tokenizer gives other ids for the same text now, so "
                "confidences cannot be placed. Do not change the tokenizer between preparation and training."
            )
        if columns.FINISHED in batch:
            row["labels"] = _without_end(row, text.removesuffix(tokenizer.eos_token), offsets)
            prepared.setdefault("labels", []).append(row["labels"])
        row[UNIT_IDS], row[UNIT_LOGPS] = _on_tokens(row, text, offsets, unit)
        if row[UNIT_IDS][0] >= 0:  # a prompt without a token of this tokenizer
            row = cut_row(row, slice(None), split)
        prepared[UNIT_IDS].append(row[UNIT_IDS])
        prepared[UNIT_LOGPS].append(row[UNIT_LOGPS])
        teaching = row.get(columns.TRAIN_WEIGHT, 1.0)
        prepared[WEIGHTS].append([weight * teaching for weight in row[columns.WEIGHTS]])
    return prepared


def cut_row(row: dict[str, Any], part: slice, split: str) -> dict[str, Any]:
    """
    A part of a prepared row.

    A unit (word) that is cut in two keeps, of its log-probability u, what its remaining j of k tokens are entitled to
    in equal shares, u j/k; what the student's own shares of the other tokens would be is not known without them. How
    the rest is shared among the remaining tokens is the loss's matter again. With Eq. 8 as printed (`split="eq8"`),
    where shares multiply the probability, it keeps u + ln(j/k).

    Args:
        row: with `input_ids`, `labels`, `weak_unit_ids` and `weak_unit_logps`.
        part: the tokens to keep.
        split: `confidence_split` of the settings.
    """
    units, kept = row[UNIT_IDS], row[UNIT_IDS][part]
    kept[:1] = [-1]  # nothing predicts the first token of a row
    whole, left = Counter(units), Counter(kept)
    logps = []
    for unit, values in zip(kept, row[UNIT_LOGPS][part], strict=True):
        share = 1.0 if unit < 0 else left[unit] / whole[unit]
        if unit < 0:
            values = [0.0] * len(values)
        elif share < 1.0:
            values = [v + math.log(share) if split == "eq8" else v * share for v in values]
        logps.append(values)
    ids, labels = row["input_ids"][part], row["labels"][part]
    return row | {"input_ids": ids, "labels": labels, UNIT_IDS: kept, UNIT_LOGPS: logps}


def _without_end(row: dict[str, Any], text: str, offsets: list[tuple[int, int]]) -> list[int]:
    """Labels of a row; where it is unfinished without what follows `text`, which has no end token written out."""
    if row[columns.FINISHED]:
        return row["labels"]
    ends = [start >= len(text) for start, _ in offsets]
    return [-100 if end else label for label, end in zip(row["labels"], ends, strict=True)]


def _on_tokens(
    row: dict[str, Any], text: str, offsets: list[tuple[int, int]], unit: str
) -> tuple[list[int], list[list[float]]]:
    """Unit, and its log-probability under each supervisor, of every token of a row; -1 and 0 where not supervised.

    Where the student learns no end, or nothing that a template writes before the text, the supervisors'
    log-probabilities of theirs are nobody's.
    """
    supervised = [i for i, label in enumerate(row["labels"]) if label != -100]
    if not supervised:
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}, column '{columns.COMPLETION}': none of its tokens is trained. "
            "With `assistant_only_loss` the chat template must mark the answer as the assistant's."
        )
    sources = list(zip(row[columns.OFFSETS], row[columns.LOGPS], strict=True))
    if all(offsets[i][0] < len(text) for i in supervised):
        sources = [_before_end(spans, logps, len(text)) for spans, logps in sources]
    try:
        target_units, per_supervisor = _units(sources, [offsets[i] for i in supervised], text, unit)
    except ValueError as error:
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}, columns '{columns.OFFSETS}' and '{columns.LOGPS}': {error} "
            "Label this example again."
        ) from error
    unit_ids = [-1] * len(offsets)
    unit_logps = [[0.0] * len(per_supervisor)] * len(offsets)
    for position, unit_id in zip(supervised, target_units, strict=True):
        unit_ids[position] = unit_id
        unit_logps[position] = [values[unit_id] for values in per_supervisor]
    return unit_ids, unit_logps


def _units(
    sources: list[tuple[list, list[float]]], targets: list[tuple[int, int]], text: str, unit: str
) -> tuple[list[int], list[list[float]]]:
    """The unit of each target token, and each supervisor's log-probability of each unit.

    What a template writes before the text is in no unit of the text. It is certain, a unit a token; but where
    supervisors have read the like, they may doubt it: one unit, with their log-probability of all of theirs.
    """
    mine = sum(span == (0, 0) for span in targets) if text else 0
    theirs = [alignment.before_text(spans) for spans, _ in sources]
    heads = [
        float(alignment.unit_logps([0] * count, logps[:count], 1))
        for (_, logps), count in zip(sources, theirs, strict=True)
    ]
    units = [0] * mine if any(theirs) else list(range(mine))
    before = len(set(units))
    if mine == len(targets):
        return units, [[head] * before for head in heads]
    target_units, source_units = alignment.assign_units(
        [spans[count:] for (spans, _), count in zip(sources, theirs, strict=True)], targets[mine:], text, unit
    )
    per_supervisor = [
        [head] * before + alignment.unit_logps(of, logps[count:], max(target_units) + 1).tolist()
        for head, count, of, (_, logps) in zip(heads, theirs, source_units, sources, strict=True)
    ]
    return units + [before + one for one in target_units], per_supervisor


def _before_end(spans: list[list[int]], logps: list[float], length: int) -> tuple[list[list[int]], list[float]]:
    """A supervisor's tokens without its end of sequence; one that has nothing else keeps it."""
    count = next((i for i, (start, _) in enumerate(spans) if start >= length), len(spans))
    return (spans[:count], logps[:count]) if count else (spans, logps)


def ends_without_mark(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> bool:
    """Whether a chat template writes nothing after the answer by which one could see that it ends."""
    if isinstance(row[columns.PROMPT], str):
        return False  # TRL appends the end of sequence
    whole, _, _, end = _rendered_chat(row, completion_text(row), tokenizer, chat_template)
    return not whole[end:].strip()


def gold_rows(batch: dict[str, list]) -> dict[str, list]:
    """Prepared columns of rows without weak labels: one supervisor, fully trusted; for `Dataset.map(batched=True)`."""
    units = []
    for labels in batch["labels"]:
        count = itertools.count()
        units.append([-1 if label == -100 else next(count) for label in labels])
    logps = [[[0.0]] * len(labels) for labels in batch["labels"]]
    weights = [[[1.0]] * len(u) for u in units] if "seq_lengths" in batch else [[1.0]] * len(units)
    return {UNIT_IDS: units, UNIT_LOGPS: logps, WEIGHTS: weights}
