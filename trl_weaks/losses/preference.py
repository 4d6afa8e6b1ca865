"""Preference losses on reward margins: plain DPO, conservative DPO (Cui et al., arXiv 2406.03199, Eq. 12), robust DPO.

Every function takes `margins` (n,): the reward margin m = beta * h of each pair, where
h = [log pi(y_c) - log pi(y_r)] - [log ref(y_c) - log ref(y_r)] is in nats and log-probabilities are summed over the
completion. `epsilon` is the probability that a pair is the wrong way round: a float, or one value per pair (n,).
Results are (n,) nats, unreduced. With L(m) = -log sigmoid(m) and L(-m) = L(m) + m:

| name      | loss                                           | minimum                                   |
|-----------|------------------------------------------------|-------------------------------------------|
| `sigmoid` | L(m)                                           | none: m grows without end                 |
| `cdpo`    | (1 - e) L(m) + e L(-m) = L(m) + e m            | m = log((1 - e) / e), at the entropy of e |
| `cw`      | (1 - 2e) L(m)                                  | none; a pair of doubt ½ has no gradient   |
| `rdpo`    | [(1 - e) L(m) - e L(-m)] / (1 - 2e)            | none: unbounded below, diverges at e = ½  |

`cdpo` is what TRL called `loss_type="sigmoid"` with `label_smoothing` until February 2026; `rdpo` (arXiv 2403.00409)
is TRL's `robust`: an unbiased estimate of the clean loss. `cw` (CW-PO, arXiv 2603.04968) weights a pair by its
confidence C = 2 (sigmoid(s_c - s_r) - ½), which is 1 - 2e for e = 1 - sigmoid(s_c - s_r). They are one family:
cdpo = L + e m, cw = (1 - 2e) L, and (1 - 2e) rdpo = (1 - 2e) L - e m.
"""

import torch
import torch.nn.functional as F

PREFERENCE_LOSSES = ("cdpo", "cw", "rdpo", "sigmoid")


def sigmoid_loss(margins: torch.Tensor) -> torch.Tensor:
    """Plain DPO (Eq. 9): -log sigmoid(m), (n,) -> (n,)."""
    return -F.logsigmoid(margins)


def cdpo_loss(margins: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
    """Conservative DPO (Eq. 12), (n,) and a float or (n,) -> (n,); its gradient in m is epsilon - sigmoid(-m)."""
    return (1 - epsilon) * sigmoid_loss(margins) + epsilon * sigmoid_loss(-margins)


def rdpo_loss(margins: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
    """Robust DPO: unbiased for the clean loss where pairs are flipped with probability epsilon; (n,)."""
    clean, flipped = sigmoid_loss(margins), sigmoid_loss(-margins)
    return ((1 - epsilon) * clean - epsilon * flipped) / (1 - 2 * epsilon)


def cw_loss(margins: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
    """Confidence-weighted DPO: plain DPO times 1 - 2 epsilon; (n,)."""
    return (1 - 2 * epsilon) * sigmoid_loss(margins)


def preference_loss(name: str, margins: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
    """The loss called `name`, one of `PREFERENCE_LOSSES`; raises ValueError for another name."""
    if name == "cdpo":
        return cdpo_loss(margins, epsilon)
    if name == "cw":
        return cw_loss(margins, epsilon)
    if name == "rdpo":
        return rdpo_loss(margins, epsilon)
    if name == "sigmoid":
        return sigmoid_loss(margins)
    raise ValueError(f"unknown preference loss {name!r}: choose one of {', '.join(PREFERENCE_LOSSES)}")


def initial_pull(name: str, epsilon: torch.Tensor) -> torch.Tensor:
    """How hard the loss pulls a pair at margin 0, (n,) -> (n,), relative to plain DPO, whose slope there is -½: 1 - 2ε
    for `cdpo` and `cw`; 1 / (1 - 2ε) for `rdpo`, which pulls hardest at the pairs in doubt."""
    certainty = 1 - 2 * epsilon
    return 1 / certainty if name == "rdpo" else certainty if name in ("cdpo", "cw") else torch.ones_like(epsilon)


def optimum_margin(epsilon: torch.Tensor, beta: float) -> torch.Tensor:
    """The h (nats) at which cDPO is smallest: log((1 - epsilon) / epsilon) / beta; infinite at epsilon = 0."""
    return (torch.log1p(-epsilon) - torch.log(epsilon)) / beta


def sequence_logps(
    token_logps: torch.Tensor, completion_mask: torch.Tensor, ld_alpha: float | None = None
) -> torch.Tensor:
    """
    Sums (2n, L) token log-probabilities, zero off the completion, to (2n,) nats; rows are n chosen, then n rejected.

    `ld_alpha` (LD-DPO, arXiv 2409.06411) scales the tokens beyond the length that the two completions of a pair share.
    """
    if ld_alpha is None:
        return token_logps.sum(dim=1)
    position = completion_mask.cumsum(dim=1)
    chosen_length, rejected_length = completion_mask.sum(dim=1).chunk(2)
    shared = torch.minimum(chosen_length, rejected_length).repeat(2).unsqueeze(1)
    inside = (completion_mask > 0) & (position <= shared)
    tail = (completion_mask > 0) & (position > shared)
    return (token_logps * inside).sum(dim=1) + ld_alpha * (token_logps * tail).sum(dim=1)
