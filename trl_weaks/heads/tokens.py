"""The supervised tokens of a batch, laid out flat, and the probabilities their soft labels give them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .request import Split, WeakHeadRequest


@dataclass(frozen=True)
class Tokens:
    """
    T supervised tokens in row order.

    Args:
        ids: Emitted token, `(T,)`.
        weights: Weight of each supervisor over the divisor, `(T, S)` float64.
        segments: Unit of each token, ascending from 0, `(T,)`; a token without a unit is one of its own.
        unit_logps: Log-probability of the whole unit, `(T, S)`, at most 0; `None` for hard labels.
        split: How a unit is shared among its tokens.
    """

    ids: Tensor
    weights: Tensor
    segments: Tensor
    unit_logps: Tensor | None
    split: Split

    def target_logps(self, span: slice, top_probs: Tensor) -> Tensor:
        """Log-probability of each emitted token in `span` (whole units) under each supervisor, `(n, S)`."""
        if self.unit_logps is None:
            return torch.zeros_like(self.weights[span], dtype=torch.float64)
        segments = self.segments[span] - self.segments[span.start]
        if self.split == "uniform":
            mass = torch.ones_like(top_probs)
        else:
            mass = (-top_probs if self.split == "confidence" else top_probs).exp()
        totals = mass.new_zeros(int(segments[-1]) + 1).index_add_(0, segments, mass)
        shares = (mass / totals[segments])[:, None]
        logps = self.unit_logps[span].to(shares.dtype)
        return (shares.log() + logps if self.split == "eq8" else shares * logps).clamp(max=0)

    def chunks(self, size: int) -> list[slice]:
        """Cut into equal runs of about `size` tokens, each moved on to the end of the unit it falls into."""
        total = len(self.ids)
        count = -(-total // size)
        cuts = torch.tensor([total * i // count for i in range(1, count)], dtype=torch.long)
        if self.unit_logps is not None and count > 1:
            ends = torch.nonzero(torch.diff(self.segments)).flatten().cpu() + 1
            ends = torch.cat([ends, torch.tensor([total])])
            cuts = ends[torch.searchsorted(ends, cuts)].unique()
        edges = [0, *(c for c in cuts.tolist() if c < total), total]
        return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def flatten_tokens(request: WeakHeadRequest, labels: Tensor) -> tuple[Tokens, Tensor]:
    """
    Take the supervised tokens out of a batch.

    Args:
        request: The request, aligned with `labels`.
        labels: `(B, L)`, -100 where not supervised.

    Returns:
        The tokens and the mask `(B, L - 1)` of the positions whose *next* token they are.
    """
    device, shifted = labels.device, labels[:, 1:]
    mask = shifted != -100
    rows, columns = mask.nonzero(as_tuple=True)
    segments = torch.arange(len(rows), device=device)
    logps = None
    if request.unit_logps is not None:
        units = request.unit_ids.to(device)[:, 1:][mask]
        new = torch.ones_like(units, dtype=torch.bool)
        # units are numbered from 0 in every text, and texts packed into one row are parted by a prompt
        apart = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1)
        new[1:] = (units[1:] != units[:-1]) | apart | (units[1:] < 0)
        segments = torch.cumsum(new, 0) - 1
        logps = request.unit_logps.to(device)[:, 1:][mask].float().clamp(max=0)
        logps = logps.masked_fill((units < 0)[:, None], 0)
    weights = request.weights.to(device).double() / torch.as_tensor(request.divisor).to(device)
    weights = weights[rows] if weights.dim() == 2 else weights[:, 1:][mask]
    return Tokens(shifted[mask], weights, segments, logps, request.split), mask
