"""The passes of the evidential loss over a vocabulary, compiled; see `evidential_tokens` for the notation."""

import torch
from torch import Tensor

from .cpu_kernels import compiled_evidential_rows
from .evidential_parts import Parts
from .token_rows import TokenRows


def compiled_passes(rows: TokenRows, parts: Parts, offset: float, needs_grad: bool) -> Tensor:
    """
    `evidential_passes.dense_passes` for parts that are not empty.

    Without `needs_grad` the rows stay as they are. Where a row may reach the clamp, all are read twice.
    """
    groups, soft, everything = parts.groups, parts.likelihood, slice(0, len(rows.ids))
    nothing = torch.zeros(len(rows.ids), 1)
    keeps = [soft.per_evidence[id(g.labels[0])] if g.soft else nothing for g in groups]
    keeps = torch.cat(keeps, -1) if groups else nothing[:, :0]
    shares = torch.cat([soft.share, soft.negative], -1) if soft else None

    def sweep(write: bool) -> tuple[Tensor, Tensor]:
        columns = [torch.cat(g.columns(everything), -1) for g in groups]
        columns = torch.stack(columns, 1) if groups else torch.zeros(len(rows.ids), 0, 3)
        return compiled_evidential_rows(rows.others, offset, keeps, columns, shares, write)

    values, dots = sweep(needs_grad and not parts.near)
    for g, of_group in zip(groups, values.unbind(-1), strict=True):
        g.settle(everything, of_group)
    if parts.near and needs_grad:  # with the weights that the clamp has left
        sweep(True)
    return sum((g.loss for g in groups), soft.loss(dots) if soft else torch.zeros_like(dots))
