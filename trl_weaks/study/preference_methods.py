"""Methods that train a student on, on preferences among its own candidates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_weaks.aggregation.transforms import KeepSurestPairs
from trl_weaks.losses.preference import PREFERENCE_LOSSES
from trl_weaks.study.methods import Method


@dataclass(frozen=True)
class PreferenceMethod(Method):
    """A row of the report whose student begins as another row's, and learns which of its own answers to prefer.

    The student answers the prompts of half B, all supervisors rank what it said (`build_preferences`), and methods
    with one `start` share these pairs.

    Args:
        start: name of the method whose student is trained on.
        loss: a `preference_loss`: `cdpo`, `cw`, `rdpo` or `sigmoid`; None for that of the settings.
        transform: the pairs as a `Dataset` -> the pairs to train on.
        settings: over `preference_training`.

    Raises:
        ValueError: no start, a loss that is none of preferences, or labels, an aggregator or supervisors, which
            preferences do not have.

    Example:

    >>> PreferenceMethod("cw", loss="cw", start="naive").over({"beta": 5.0})
    {'beta': 5.0, 'preference_loss': 'cw'}
    """

    start: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not self.start:
            raise ValueError(f"method {self.name!r}: `start` names the method whose student is trained on.")
        if self.loss is not None and self.loss not in PREFERENCE_LOSSES:
            raise ValueError(f"method {self.name!r}: loss={self.loss!r} is none of {', '.join(PREFERENCE_LOSSES)}.")
        if self.labels != "independent" or self.aggregator or self.supervisors:
            raise ValueError(
                f"method {self.name!r}: pairs are ranked by all supervisors; leave `labels`, `aggregator` and "
                "`supervisors` to the method it starts from."
            )

    def over(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the preference stage with this method's over them."""
        own = {"preference_loss": self.loss} if self.loss else {}
        return dict(settings) | own | dict(self.settings)

    def spec(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return super().spec(settings) | {"start": self.start}


def preference_field(start: str) -> list[PreferenceMethod]:
    """Rows of `--methods field`: cDPO as the control, confidence-weighted, and the surest pairs alone (2603.04968)."""
    plain = {"use_pair_weight": False}  # the paper has C alone, without weights for margins
    rows = [
        ("prefer_cdpo", "Naive, then cDPO", "cdpo", None),
        ("prefer_cw", "Naive, then confidence-weighted DPO", "cw", None),
        ("prefer_surest", "Naive, then DPO on the surest 30 % of pairs", "sigmoid", KeepSurestPairs()),
    ]
    found = []
    for name, label, loss, transform in rows:
        settings = plain | ({"label_smoothing": None} if loss == "sigmoid" else {})
        found.append(PreferenceMethod(name, label, transform=transform, loss=loss, settings=settings, start=start))
    return found
