"""The loss of a few rows of logits at a time, by autograd of its public call: for what has no closed form."""

import torch
from torch import Tensor

from ..losses.base import checked_values
from .request import WeakHeadRequest


def loss_by_autograd(
    request: WeakHeadRequest,
    logits: Tensor,
    ids: Tensor,
    probs: Tensor,
    weights: Tensor,
    needs_grad: bool,
    dtype: torch.dtype,
) -> Tensor:
    """
    Sum over supervisors of weight times loss, `(n,)` float64; with `needs_grad` its gradient is written over `logits`.

    A loss may hold a hundred and more temporaries, in float64, so that it sees no more rows at once than its memory
    beside a chunk of logits allows, and the supervisors one after another.

    Args:
        request: Its loss is called with `(m, V)` logits and soft labels, where a row and a supervisor have weight.
        logits: `(n, V)`, float32 or float64.
        ids: Emitted tokens, `(n,)`.
        probs: Probability of the emitted token in each label, `(n,)` or `(n, S)`.
        weights: Weight of each label, of the same shape.
        needs_grad: Whether the gradient is wanted.
        dtype: Of what the loss is given.
    """
    probs, weights = probs.reshape(len(ids), -1), weights.reshape(len(ids), -1)
    values = torch.zeros(len(ids), dtype=torch.float64, device=logits.device)
    height = max(1, _logits_at_once(logits.device) // logits.shape[1])
    for start in range(0, len(ids), height):
        b = slice(start, start + height)
        total = torch.zeros_like(logits[b]) if needs_grad else None
        for p, w in zip(probs[b].T, weights[b].T, strict=True):
            at = torch.nonzero(w)[:, 0]
            if not len(at):
                continue
            with torch.set_grad_enabled(needs_grad):
                leaf = logits[b][at].to(dtype).requires_grad_(needs_grad)
                losses = request.loss(leaf, soft_labels(leaf, ids[b][at], p[at]), request.progress)
                losses = w[at] * checked_values(request.loss, losses, leaf).double()
                if needs_grad:
                    total.index_add_(0, at, torch.autograd.grad(losses.sum(), leaf)[0].to(total.dtype))
            values[b].index_add_(0, at, losses.detach())
        if needs_grad:
            logits[b] = total
    return values


def soft_labels(logits: Tensor, ids: Tensor, target_probs: Tensor) -> Tensor:
    """
    The paper's token soft label (Sec. 4.2, stage 3): P on the emitted token, the rest in proportion to the student's
    own distribution, detached: `(n, V)`, `(n,)`, `(n,)` -> `(n, V)`.

    The others are renormalised among themselves rather than divided by 1 - p_t, which may round to 0.
    """
    others = logits.detach().scatter(-1, ids[:, None], -torch.inf)
    labels = torch.softmax(others, -1).mul_((1 - target_probs)[:, None].to(logits.dtype))
    return labels.scatter_(-1, ids[:, None], target_probs[:, None].to(labels.dtype))


def _logits_at_once(device: torch.device) -> int:
    # the evidential loss takes 1 kB for each: 0.25 GB on a CPU, where more is no faster, and 1 GB elsewhere
    return 2**18 if device.type == "cpu" else 2**20
