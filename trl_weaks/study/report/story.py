"""What the caller of a report adds in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Story:
    """What the caller says about the run, in its own words; printed as it is.

    Args:
        title: heading of the report.
        about: sentences on the data, the models and where the student's advantage comes from.
        notes: paragraphs on what the numbers can and cannot show.
        command: the command line that made the report.
        stage_seconds: stage -> seconds it took.
        preference: details of the preference stage, by name (numbers or sentences).
        alike_on: the examples on which the supervisors' agreement was counted.
    """

    title: str = "Weak-to-strong report"
    about: Sequence[str] = ()
    notes: Sequence[str] = ()
    command: str = ""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    preference: Mapping[str, Any] = field(default_factory=dict)
    alike_on: str = "the test examples"
