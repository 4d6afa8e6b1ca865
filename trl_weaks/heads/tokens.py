"""The supervised tokens of a batch, laid out flat, and the probabilities their soft labels give them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..losses.vocabulary import triton_tokens
from .request import Split, WeakHeadRequest


@dataclass(frozen=True)
class Tokens:
    """
    T supervised tokens in row order.

    Args:
        ids: Emitted token, `(T,)`.
        weights: Weight of each supervisor over the divisor, `(T, S)` float64.
        segments: Unit of each token, ascending from 0 without gaps, `(T,)`; a token without a unit is one of its own.
        unit_logps: Log-probability of the whole unit, `(T, S)`, at most 0; `None` for hard labels.
        split: How a unit is shared among its tokens.
        cut_totals: What the shares of each unit are divided by, `(units,)`, where chunks cut the unit; 0 elsewhere.
    """

    ids: Tensor
    weights: Tensor
    segments: Tensor
    unit_logps: Tensor | None
    split: Split
    cut_totals: Tensor | None = None

    @cached_property
    def totals(self) -> Tensor:
        """Weight of each token, `(T,)` float64."""
        return self.weights.double().sum(-1)

    @cached_property
    def _divisors(self) -> Tensor:
        return torch.where(self.totals == 0, 1, self.totals)

    @cached_property
    def _hard_means(self) -> Tensor:
        return self.totals / self._divisors

    @cached_property
    def _unit_bounds(self) -> tuple[Tensor, Tensor]:
        """The first token of each token's unit, and the one after its last."""
        left, right = (torch.searchsorted(self.segments, self.segments, right=right) for right in (False, True))
        return left, right

    def label_probs(self, span: slice, top_probs: Tensor, table: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """
        Probability of each emitted token in `span` under each supervisor, `(n, S)` float64, or `None` where all are 1;
        and its weighted mean over the supervisors, `(n,)`.

        Args:
            span: Units that lie in it in part need their totals (`with_totals`).
            top_probs: The student's largest probability at each of its tokens, `(n,)` float64.
            table: `TokenRows.table` of its tokens.
        """
        if self.unit_logps is None:
            return None, self._hard_means[span]
        weights = self.weights.double()
        if table is not None:
            given = (self._unit_bounds, self.segments, self.cut_totals, self.unit_logps, weights, self._divisors)
            found = triton_tokens.label_probs(table, span, *given, self.split)
            if found is not None:
                return found
        probs = self.target_logps(span, top_probs).exp()
        return probs, (weights[span] * probs).sum(-1) / self._divisors[span]

    def target_logps(self, span: slice, top_probs: Tensor) -> Tensor:
        """Log-probability of each emitted token in `span` under each supervisor, `(n, S)`; units that lie in it in
        part need their totals (`with_totals`)."""
        if self.unit_logps is None:
            return torch.zeros_like(self.weights[span], dtype=torch.float64)
        segments = self.segments[span] - self.segments[span.start]
        mass = self._mass(top_probs)
        # there are no more units than tokens; how many there are, a GPU would have to be asked and waited for
        units = len(segments) if self.cut_totals is None else int(segments[-1]) + 1
        totals = mass.new_zeros(units).index_add_(0, segments, mass)
        if self.cut_totals is not None:
            known = self.cut_totals[self.segments[span.start] :][: len(totals)].to(totals.dtype)
            totals = torch.where(known > 0, known, totals)
        shares = (mass / totals[segments])[:, None]
        logps = self.unit_logps[span].to(shares.dtype)
        return (shares.log() + logps if self.split == "eq8" else shares * logps).clamp(max=0)

    def _mass(self, top_probs: Tensor) -> Tensor:
        if self.split == "uniform":
            return torch.ones_like(top_probs)
        return (-top_probs if self.split == "confidence" else top_probs).exp()

    def chunks(self, size: int) -> list[slice]:
        """Cut into runs of at most `size` tokens, of whole units but for units that are longer themselves."""
        total = len(self.ids)
        starts = torch.arange(total)
        if self.unit_logps is not None and total:
            new = torch.cat([torch.ones(1, dtype=torch.long), torch.diff(self.segments.cpu()).clamp(max=1)])
            starts = (starts * new).cummax(0).values  # where the unit of each token begins
        starts, edges = [*starts.tolist(), total], [0]
        while edges[-1] < total:
            stop = min(edges[-1] + size, total)
            edges.append(starts[stop] if starts[stop] > edges[-1] else stop)
        return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def with_totals(self, spans: list[slice], top_probs_of: Callable[[slice], Tensor]) -> "Tokens":
        """
        The same with the totals of the units that `spans` cut: every token's share asks for all tokens of its unit.

        Args:
            spans: The chunks, in order.
            top_probs_of: The student's largest probability at each token of a chunk, `(n,)`; asked for those chunks
                alone that hold a part of such a unit.
        """
        if self.unit_logps is None:
            return self
        ends = torch.tensor([span.start for span in spans[1:]], dtype=torch.long, device=self.segments.device)
        cut = self.segments[ends][self.segments[ends] == self.segments[ends - 1]]
        if not len(cut):
            return self
        totals = torch.zeros(int(self.segments[-1]) + 1, dtype=torch.float64, device=self.segments.device)
        for span in spans:
            inside = torch.isin(self.segments[span], cut)
            if bool(inside.any()):
                mass = self._mass(top_probs_of(span)).double()
                totals.index_add_(0, self.segments[span][inside], mass[inside])
        return replace(self, cut_totals=totals)


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
