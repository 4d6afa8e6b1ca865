"""One self-contained page to look at weak labels, what a student made of them, and how good both are."""

import json
import math
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

DIGITS = {"forest": 12, "report": 12}  # shown beside the report's numbers, which are rounded once
PLACE = "/*DATA*/"


@dataclass
class Answer:
    """What one supervisor, or the committee, says of an example.

    Attributes:
        by: who. `text`: the completion, or the class.
        words: (word, confidence) pairs that spell the text, or None where no confidence is known.
        weight, confidence: of the whole answer; None where not known.
        source: where the confidence comes from. `score`: against gold, 1 is right.
        finished: whether the answer ended by itself. `note`: a remark beside its name.
    """

    by: str
    text: str
    words: list[tuple[str, float]] | None = None
    weight: float | None = None
    confidence: float | None = None
    source: str | None = None
    score: float | None = None
    finished: bool = True
    note: str = ""


@dataclass
class Shown:
    """One example of the page.

    Attributes:
        said: what other systems answer, by name: `{"text", "score"}`.
        disagreement: in [0, 1]. `vacuity`: of the student, in [0, 1], or None.
    """

    id: str
    prompt: Any
    answers: list[Answer]
    gold: str | None = None
    aggregate: Answer | None = None
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    disagreement: float = 0.0
    vacuity: float | None = None


@dataclass
class Page:
    """Everything that a page shows.

    Attributes:
        report: `supervisors`, `pairs` and `warnings` of a [`SupervisorReport`].
        forest: rows of `label`, `pgr`, `low`, `high` and `reason`, where a PGR is refused.
        curves, reliability: `{"name", "points": [[x, y], ...]}`; y is None in a bin without examples.
    """

    title: str
    about: str
    supervisors: list[str]
    examples: list[Shown]
    systems: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    forest: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)

    def html(self) -> str:
        """The page: no request to anywhere, every text of the data as text."""
        told = {name: _finite(value, DIGITS.get(name, 4)) for name, value in asdict(self).items()}
        whole = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        whole = whole.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        return files(__package__).joinpath("page.html").read_text(encoding="utf-8").replace(PLACE, whole, 1)

    def write(self, path: str | Path) -> Path:
        """Write the page; its folder is made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path


def _finite(value: Any, digits: int) -> Any:
    """The value with None for what JSON has no number for, and so many digits of the others: it is only looked at."""
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner, digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner, digits) for inner in value]
    return value
