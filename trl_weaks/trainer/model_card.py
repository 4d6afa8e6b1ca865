"""The section that a weakly supervised model's card needs: who supervised it, and how."""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from .. import columns
from .._version import __version__

HEAD = 1000  # rows of a stream that are looked at before training
MARK = "<!-- trl_weaks -->"  # the card is rewritten at every save; the mark keeps the section from piling up


@dataclass(frozen=True)
class CardSection:
    """A piece of markdown to add to a model card."""

    markdown: str

    def append_to(self, output_dir: str) -> None:
        """Replace or add the section in `output_dir/README.md`."""
        path = Path(output_dir) / "README.md"
        card = path.read_text(encoding="utf-8").split(MARK)[0].rstrip() if path.exists() else ""
        path.write_text(f"{card}\n\n{MARK}\n{self.markdown}", encoding="utf-8")


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


def weak_supervision_section(args: Any, loss: Any, supervision: Supervision) -> CardSection:
    """What a reader must know about the supervision of this model."""
    streamed = supervision.examples is None
    size = "a stream" if streamed else f"{supervision.examples}, {supervision.completions}"
    lines = [
        "## Weak supervision",
        "",
        f"Trained with [trl_weaks](https://pypi.org/project/trl-weaks/) {__version__} on labels made by models, "
        "not by people.",
        "",
        "| what | value |",
        "|---|---|",
        f"| weak supervisors | {', '.join(f'`{name}`' for name in supervision.supervisors)} |",
        f"| examples, distinct completions | {size} |",
        f"| loss | `{describe_loss(loss)}` |",
        f"| labels | {'soft: word confidences' if args.soft_labels else 'hard'} |",
        f"| confidence unit, split | `{args.confidence_unit}`, `{args.confidence_split}` |",
        "",
    ]
    return CardSection("\n".join(lines))
