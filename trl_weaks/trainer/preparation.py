"""From a weak-label row and a student's tokenizer to token-aligned columns."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from .. import alignment, columns

# Prepared columns, aligned with `input_ids`.
UNIT_IDS = "weak_unit_ids"  # [tokens] confidence unit of each supervised token, -1 elsewhere
UNIT_LOGPS = "weak_unit_logps"  # [tokens][n] log-probability of the token's whole unit under each supervisor, nats
WEIGHTS = "weak_row_weights"  # [n] weight of each supervisor, mean 1 per supervised token of the dataset
PREPARED = (UNIT_IDS, UNIT_LOGPS, WEIGHTS)


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
    row: dict[str, Any], text: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> tuple[list[int], list[tuple[int, int]]]:
    """The student's token ids of the whole row and their offsets into the completion text.

    Tokens before the completion get the empty span (0, 0) or are cut at it; what follows the text (end of sequence,
    the template's closing tokens) gets the empty span at the end.
    """
    if isinstance(row[columns.PROMPT], str):
        rendered, start = row[columns.PROMPT] + row[columns.COMPLETION], len(row[columns.PROMPT])
        encoded = tokenizer(rendered, return_offsets_mapping=True)
    else:
        kwargs = {"chat_template": chat_template} | (row.get("chat_template_kwargs") or {})
        prompt = tokenizer.apply_chat_template(
            row[columns.PROMPT], tokenize=False, add_generation_prompt=True, **kwargs
        )
        rendered = tokenizer.apply_chat_template(
            row[columns.PROMPT] + row[columns.COMPLETION], tokenize=False, **kwargs
        )
        common = next((i for i, (a, b) in enumerate(zip(prompt, rendered, strict=False)) if a != b), len(prompt))
        start = rendered.find(text, min(common, len(rendered)))
        if start < 0:
            raise ValueError(
                f"Example {row.get(columns.EXAMPLE_ID)!r}: the chat template changes the completion's text, so weak "
                "confidences cannot be placed on it. Use a template that renders the content as it is."
            )
        encoded = tokenizer(rendered, return_offsets_mapping=True, add_special_tokens=False)
    end = start + len(text)
    return encoded["input_ids"], [
        (min(max(a, start), end) - start, min(max(b, start), end) - start) for a, b in encoded["offset_mapping"]
    ]


def prepare_row(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, chat_template: str | None, unit: str
) -> dict[str, list]:
    """Token-aligned confidence columns of one row that TRL has already tokenised.

    Args:
        row: the weak columns, TRL's `prompt`/`completion`, and its `input_ids` and `labels`.
        tokenizer: the student's fast tokenizer.
        chat_template: the template TRL used, `None` for the tokenizer's own.
        unit: `"word"` or `"span"`.

    Returns:
        `weak_unit_ids`, `weak_unit_logps`, `weak_row_weights` (see the top of this file).

    Raises:
        ValueError: re-tokenising does not give `input_ids` back, or the alignment is impossible.
    """
    text = row["_completion_text"]
    ids, offsets = student_offsets(row, text, tokenizer, chat_template)
    if list(ids) != list(row["input_ids"]):
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}: the tokenizer gives other ids for the same text now, so "
            "confidences cannot be placed. Do not change the tokenizer between preparation and training."
        )
    supervised = [i for i, label in enumerate(row["labels"]) if label != -100]
    try:
        target_units, source_units = alignment.assign_units(
            [[tuple(span) for span in spans] for spans in row[columns.OFFSETS]],
            [offsets[i] for i in supervised],
            text,
            unit,
        )
        num_units = max(target_units, default=-1) + 1
        per_supervisor = [
            alignment.unit_logps(units, logps, num_units)
            for units, logps in zip(source_units, row[columns.LOGPS], strict=True)
        ]
    except ValueError as error:
        raise ValueError(
            f"Example {row.get(columns.EXAMPLE_ID)!r}, columns '{columns.OFFSETS}' and '{columns.LOGPS}': {error} "
            "Label this example again."
        ) from error
    unit_ids = [-1] * len(ids)
    unit_logps = [[0.0] * len(per_supervisor) for _ in ids]
    for position, unit_id in zip(supervised, target_units, strict=True):
        unit_ids[position] = int(unit_id)
        unit_logps[position] = [float(values[unit_id]) for values in per_supervisor]
    return {UNIT_IDS: unit_ids, UNIT_LOGPS: unit_logps, WEIGHTS: list(row[columns.WEIGHTS])}


def gold_row(row: dict[str, Any]) -> dict[str, list]:
    """Prepared columns of a row without weak labels: one supervisor, fully trusted."""
    units = [-1] * len(row["input_ids"])
    for unit, position in enumerate(i for i, label in enumerate(row["labels"]) if label != -100):
        units[position] = unit
    return {UNIT_IDS: units, UNIT_LOGPS: [[0.0] for _ in units], WEIGHTS: [1.0]}
