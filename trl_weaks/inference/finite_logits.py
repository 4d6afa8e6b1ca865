"""Checks the logits while a model answers, so that a broken supervisor is named instead of believed."""

from collections.abc import Sequence

from torch import Tensor
from transformers import LogitsProcessor


class FiniteLogitsCheck(LogitsProcessor):
    """Stops a generation in which no next token has a finite probability (weights that are NaN, overflow).

    Args:
        supervisor: its name.
        names: what to call each prompt.
        rows: consecutive rows of the batch that belong to a prompt.
    """

    def __init__(self, supervisor: str, names: Sequence[str], rows: int):
        self.supervisor, self.names, self.rows = supervisor, names, rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = ~scores.amax(-1).isfinite()
        if broken.any():
            name = self.names[int(broken.nonzero()[0]) // self.rows]
            raise ValueError(not_finite(name, self.supervisor))
        return scores


def not_finite(name: str, supervisor: str) -> str:
    """The message for a prompt and a supervisor."""
    return (
        f"{name}: supervisor {supervisor!r} gives a log-probability that is not finite (NaN or infinite); check its "
        "weights, or load it in float32."
    )
