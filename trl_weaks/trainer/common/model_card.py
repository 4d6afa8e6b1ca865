"""What a weakly supervised model's card needs beyond TRL's: who supervised it and how, and only what is so."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from huggingface_hub import EvalResult, ModelCard

from ... import columns
from ..._version import __version__
from ...markdown import table
from ...supervisors.loading import hub_id

HEAD = 1000  # rows of a stream that are looked at before training


def describe_loss(loss: Any) -> str:
    """A loss and its fields in one line, nested losses included; functions and other objects by their names."""
    if loss is None or isinstance(loss, str | int | float):
        return repr(loss)
    if not is_dataclass(loss):
        return getattr(loss, "__name__", type(loss).__name__)
    inner = ", ".join(f"{field.name}={describe_loss(getattr(loss, field.name))}" for field in fields(loss))
    return f"{type(loss).__name__}({inner})"


@dataclass(frozen=True)
class Supervision:
    """Who labelled a training set, and how much of it; packing leaves neither names nor ids in the rows.

    Of a stream, whose size nobody knows (`None`), the supervisors are those of its first `HEAD` rows.
    """

    supervisors: tuple[str, ...]
    examples: int | None
    completions: int | None

    @classmethod
    def of(cls, dataset: Dataset | IterableDataset) -> "Supervision":
        if isinstance(dataset, IterableDataset):
            names = {name for row in dataset.take(HEAD) for name in row[columns.SUPERVISORS]}
            return cls(tuple(sorted(names)), None, None)
        names = {name for row in dataset[columns.SUPERVISORS] for name in row}
        return cls(tuple(sorted(names)), len(set(dataset[columns.EXAMPLE_ID])), len(dataset))


def weak_supervision_section(args: Any, loss: Any, supervision: Supervision) -> str:
    """What a reader must know about the supervision of this model."""
    streamed = supervision.examples is None
    size = "a stream" if streamed else f"{supervision.examples}, {supervision.completions}"
    lines = [
        "## Weak supervision",
        "",
        f"Trained with trl_weaks {__version__} on the labels of the supervisors named here.",
        "",
        table(
            ["what", "value"],
            [
                ["weak supervisors", ", ".join(f"`{name}`" for name in supervision.supervisors)],
                ["examples, distinct completions", size],
                ["loss", f"`{describe_loss(loss)}`"],
                ["labels", "soft: word confidences" if args.soft_labels else "hard"],
                ["confidence unit, split", f"`{args.confidence_unit}`, `{args.confidence_split}`"],
            ],
        ),
    ]
    return "\n".join(lines)


def weak_preference_section(args: Any, pairs: Dataset | IterableDataset) -> str:
    """What a reader must know about the preferences that this model was trained on."""
    names = pairs.column_names or ()
    used = {column: column in names for column in (columns.PAIR_EPSILON, columns.PAIR_WEIGHT)}
    used = {column: there and column in args.pair_columns for column, there in used.items()}
    loss = args.preference_loss or ", ".join(args.loss_type)
    flips = "each pair's own" if used[columns.PAIR_EPSILON] else f"{args.label_smoothing:g}"
    lines = [
        "## Weak supervision",
        "",
        f"Trained with trl_weaks {__version__} on pairs that weak supervisors ranked.",
        "",
        table(
            ["what", "value"],
            [
                ["pairs", "a stream" if isinstance(pairs, IterableDataset) else len(pairs)],
                ["loss", f"`{loss}`, beta {args.beta:g}"],
                ["probability that a pair is the wrong way round", flips],
                ["weight of a pair", "its own" if used[columns.PAIR_WEIGHT] else "1"],
            ],
        ),
    ]
    return "\n".join(lines)


Result = float | Sequence[float]  # a number, or a number with the ends of its 95 % interval
NOT_QUALITY = re.compile(r"(runtime|_per_second|num_tokens|num_input_tokens_seen|preparation_time|weak/gamma)$")


def base_model(trainer: Any) -> str | None:
    """The model that training began from, where it is one of the Hub's."""
    return hub_id(getattr(trainer.model.config, "_name_or_path", None))


def complete_card(
    card: ModelCard,
    trainer: Any,
    model_name: str | None,
    dataset_name: str | None,
    license: str | None,
    results: Mapping[str, Result] | None,
) -> None:
    """Make a trainer's card true, in place: licence, base model, metrics of the last evaluation, and `results`.

    Raises:
        ValueError: a result is neither a number nor a number with the two ends of its interval.
    """
    base, data = base_model(trainer), card.data
    data.pop("licence", None)  # TRL writes `licence: license`
    data.license, data.base_model, data.tags = license, base, sorted(set(data.tags or []))
    data.model_name = model_name or Path(trainer.args.output_dir).name
    found = last_metrics(trainer.state.log_history) | dict(results or {})
    where = dataset_name or "held out"
    task = "text-generation" if trainer.language_model else "text-classification"
    data.eval_results = eval_results(task, where, where, found) or None
    text = card.text
    if base is None:
        text = re.sub(
            r"This model is a fine-tuned version of \[.*?\]\(https://huggingface\.co/.*?\)",
            "This model was trained from weights that are not on the Hub",
            text,
            count=1,
        )
    text = text.replace('model="None"', f'model="{data.model_name}"')  # not pushed: a folder of that name
    if getattr(trainer.processing_class, "chat_template", None) is None:
        text = text.replace('[{"role": "user", "content": question}]', "question")
    card.text = text


def eval_results(task: str, dataset_type: str, dataset_name: str, found: Mapping[str, Result]) -> list[EvalResult]:
    """Metrics by name as a card's `model-index` holds them, intervals included.

    Raises:
        ValueError: a result is neither a number nor a number with the two ends of its interval.
    """
    return [EvalResult(task, dataset_type, dataset_name, name, **_metric(name, v)) for name, v in found.items()]


def last_metrics(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of each set's last evaluation, without speed and schedules."""
    found: dict[str, float] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith("eval_") and not NOT_QUALITY.search(name) and math.isfinite(value):
                found[name.removeprefix("eval_")] = float(value)
    return found


def _metric(name: str, value: Result) -> dict[str, Any]:
    numbers = [float(n) for n in value] if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(numbers) not in (1, 3) or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"results[{name!r}] is {value!r}; give a number, or (number, low, high).")
    shown: dict[str, Any] = {"metric_value": round(numbers[0], 6)}
    if len(numbers) == 3:
        low, high = (round(n, 6) for n in numbers[1:])
        shown["metric_name"] = f"{name} (95 % interval {low:g} to {high:g})"
        shown["metric_args"] = {"interval_95": [low, high]}
    return shown
