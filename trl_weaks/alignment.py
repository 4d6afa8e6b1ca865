r"""Move log-probabilities from one tokenization of a text to another (Cui et al., arXiv 2406.03199, §4.2, Eq. 7).

Two models cut the same completion into different tokens. The text is cut into *units* such that every token of every
tokenization lies in exactly one unit. A supervisor's log-probability of a unit is the sum over its tokens there; that
sum is then split over the student's tokens of the same unit, so the product of probabilities is kept (Eq. 7):

    u = sum of the supervisor's log-probabilities in the unit,    log P(s_j) = a_j * u,    a_j >= 0,  sum_j a_j = 1

What a unit is, `assign_units` says in `units.py`.

Letters: U units, S source tokens, T target tokens. Offsets are `[start, end)` characters of the completion.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trl_weaks.units import Offsets, assign_units, before_text, logps_of_text

__all__ = [
    "assign_units",
    "before_text",
    "logps_of_text",
    "split_logps",
    "student_shares",
    "transfer_logps",
    "unit_logps",
]

ROUNDING = 1e-4  # a log-softmax in half precision may end this far above 0; it is read as 0


def transfer_logps(
    source_offsets: Offsets,
    source_logps: Sequence[float] | Tensor,
    target_offsets: Offsets,
    shares: Sequence[float] | Tensor | None = None,
    text: str | None = None,
    unit: str | None = None,
    split: str = "log",
) -> Tensor:
    """Log-probability of each target token, such that the sums over each unit equal the source's (Eq. 7).

    Args:
        source_offsets: (S, 2) spans of the supervisor's tokens.
        source_logps: (S,) their log-probabilities, nats, finite and <= 0.
        target_offsets: (T, 2) spans of the student's tokens.
        shares: (T,) weights >= 0, normalised here within each unit; uniform by default.
        text: the completion; needed by `unit="word"`.
        unit: `"word"` or `"span"`; by default `"word"` where `text` is given, else `"span"`.
        split: `"log"` splits log P(unit) and keeps it; `"printed"` is Eq. 8 as printed, see `split_logps`.

    Returns:
        (T,) float64 tensor, nats.

    Raises:
        ValueError: spans that run backwards, leave the text or do not match the number of log-probabilities;
            log-probabilities that are positive or not finite; shares that cannot be normalised.
    """
    if unit is None:
        unit = "span" if text is None else "word"
    target_ids, (source_ids,) = assign_units([source_offsets], target_offsets, text, unit)
    num_units = target_ids[-1] + 1 if target_ids else 0
    totals = unit_logps(source_ids, torch.as_tensor(source_logps, dtype=torch.float64), num_units)
    return split_logps(totals, target_ids, shares, split)


def unit_logps(
    source_unit_ids: Sequence[int] | Tensor, source_logps: Sequence[float] | Tensor, num_units: int
) -> Tensor:
    """Sum of the source's log-probabilities in each unit: (S,), (S,) -> (U,), nats; lists become float64.

    Raises:
        ValueError: lengths that disagree; log-probabilities that are positive or not finite, by position.
    """
    ids = torch.as_tensor(source_unit_ids, dtype=torch.long)
    logps = source_logps if isinstance(source_logps, Tensor) else torch.tensor(source_logps, dtype=torch.float64)
    if logps.shape != ids.shape:
        raise ValueError(f"{logps.numel()} log-probabilities for {ids.numel()} source tokens.")
    wrong = ~(torch.isfinite(logps) & (logps <= ROUNDING))
    if wrong.any():
        where = int(wrong.nonzero()[0])
        raise ValueError(f"source_logps[{where}] = {float(logps[where])}: log-probabilities are finite and <= 0.")
    return logps.new_zeros(num_units).index_add(0, ids.to(logps.device), logps.clamp(max=0))


def split_logps(
    unit_logps: Tensor,
    target_unit_ids: Sequence[int] | Tensor,
    shares: Sequence[float] | Tensor | None = None,
    split: str = "log",
) -> Tensor:
    """Give each unit's log-probability to its target tokens: (U,), (T,), (T,) -> (T,), nats.

    - `"log"` (*authors' code*; Eq. 7): log P(s_j) = a_j log P(W). The sum over the unit is log P(W).
    - `"printed"` (Eq. 8 as printed): P(s_j) = a_j P(W). Sums to P(W) instead of multiplying to it, so it contradicts
      Eq. 7 and deflates long words; for comparison only.

    `shares` are weights >= 0 and are normalised within each unit; uniform by default. Unit ids may be those of a whole
    batch, numbered on from row to row.

    Raises:
        ValueError: shares that are negative, not finite, or all zero in a unit; lengths that disagree.
    """
    ids = torch.as_tensor(target_unit_ids, dtype=torch.long, device=unit_logps.device)
    weights = (
        torch.ones_like(ids, dtype=unit_logps.dtype) if shares is None else torch.as_tensor(shares).to(unit_logps)
    )
    if weights.shape != ids.shape:
        raise ValueError(f"{weights.numel()} shares for {ids.numel()} target tokens.")
    totals = unit_logps.new_zeros(unit_logps.numel()).index_add(0, ids, weights)[ids]
    wrong = ~(torch.isfinite(weights) & (weights >= 0) & (totals > 0))
    if wrong.any():
        where = int(wrong.nonzero()[0])
        raise ValueError(
            f"shares[{where}] = {float(weights[where])}, {float(totals[where])} over its unit: "
            "shares must be finite, >= 0 and not all zero within a unit."
        )
    if split == "log":
        return weights / totals * unit_logps[ids]
    if split == "printed":
        return (weights / totals).log() + unit_logps[ids]
    raise ValueError(f'split must be "log" or "printed", got {split!r}.')


def student_shares(
    confidence: Tensor, target_unit_ids: Tensor, num_units: int, split: str = "log", temperature: float = 1.0
) -> Tensor:
    """Shares from the live student: softmax within each unit over -C (`"log"`) or +C (`"printed"`, Eq. 8).

    C is the largest probability of the student's distribution at the step that predicts the token. With `"log"` a
    token the student is unsure of takes the larger part of the (negative) log-probability: the smaller probability.

    Args:
        confidence: (T,) in [0, 1]; used without gradient.
        target_unit_ids: (T,) unit of each token.
        num_units: U.
        split: the split these shares are for.
        temperature: divides C; 1 is the *authors' code*.

    Returns:
        (T,) shares that sum to 1 within each unit.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}.")
    if split not in ("log", "printed"):
        raise ValueError(f'split must be "log" or "printed", got {split!r}.')
    scores = confidence.detach() / (-temperature if split == "log" else temperature)
    top = scores.new_full((num_units,), -torch.inf).scatter_reduce(0, target_unit_ids, scores, "amax")
    weights = (scores - top[target_unit_ids]).exp()
    return weights / weights.new_zeros(num_units).index_add(0, target_unit_ids, weights)[target_unit_ids]
