"""How far a supervisor's label is to be trusted: a probe on the hidden state with which it was given."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge that cross-validation chooses among. *ours*
CONSTANT = 1e-12  # a feature that varies by less of its size is constant: what is left is float64's rounding
FOLDS = 5  # of that cross-validation. *ours*


class TrustHead:
    r"""
    The probability that a label is right, from the state with which the supervisor gave it.

    After the trust functions of arXiv 2606.01000: binary cross-entropy with both outcomes of equal weight, on labels
    whose gold is known. Theirs is a residual MLP; this one is logistic on standardised features, the minimum of

    $$\tfrac12 \sum_{y \in \{0, 1\}} \mathrm{mean}_{n : y_n = y}\, \ell(w \cdot z_n + b, y) + \tfrac\lambda2 |w|^2$$

    (*ours*), which hundreds of labels suffice for, and has one minimum, found in float64. The logarithm of the odds of
    being right is added to b afterwards, so that the mean of the probabilities is near the share that is right.

    Args:
        l2: λ; None chooses by cross-validation among `STRENGTHS`.

    Attributes:
        weight, bias: of standardised features, after `fit`. `mean`, `scale`: of the features. `strength`: λ.

    Example:

    >>> states = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> trust = TrustHead(l2=0.01).fit(states, states[:, 0] > 0)(states)
    >>> bool(trust[0] < 0.1), bool(trust[-1] > 0.9)
    (True, True)
    """

    def __init__(self, l2: float | None = None):
        if l2 is not None and not l2 > 0:
            raise ValueError(f"l2={l2} must be above 0, or None to choose it by cross-validation.")
        self.l2 = l2

    def fit(self, states: Tensor, right: Tensor) -> Self:
        """Learn from `(n, d)` states and `(n,)` outcomes, True where the label is right.

        Where all labels are right, or none, nothing can be told apart: the trust is then the same for every state.

        Raises:
            ValueError: other shapes, fewer than two labels, or states that are not finite.
        """
        states, right = states.double(), right.double()
        if states.ndim != 2 or right.shape != states.shape[:1] or len(states) < 2:
            raise ValueError(
                f"states {tuple(states.shape)} and outcomes {tuple(right.shape)}: give (n, d) and (n,), n at least 2."
            )
        if not states.isfinite().all():
            raise ValueError(f"row {int((~states.isfinite()).any(-1).nonzero()[0])}: the state is not finite.")
        self.mean, scale = states.mean(0), states.std(0, correction=0)
        self.scale = torch.where(scale > CONSTANT * states.abs().amax(0), scale, 1.0)
        good, bad = float(right.sum()), float((1 - right).sum())
        self.weight, self.bias, self.strength = torch.zeros_like(self.mean), 0.0, self.l2
        if good and bad:
            features = (states - self.mean) / self.scale
            self.strength = self.l2 or _chosen(features, right)
            self.weight, self.bias = _minimum(features, right, self.strength)
            self.bias += torch.tensor(good / bad).log().item()
        else:  # the rule of succession
            self.bias = torch.tensor((good + 1) / (bad + 1)).log().item()
        return self

    def __call__(self, states: Tensor) -> Tensor:
        """`(n, d)` -> `(n,)` probabilities, float64."""
        return torch.sigmoid((states.double() - self.mean) / self.scale @ self.weight + self.bias)


def _balanced(right: Tensor) -> Tensor:
    """Weights that sum to 1, half of it for either outcome."""
    good = right.sum()
    return torch.where(right > 0, 0.5 / good, 0.5 / (len(right) - good))


def _minimum(features: Tensor, right: Tensor, strength: float) -> tuple[Tensor, float]:
    parameters = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    weights = _balanced(right)
    search = torch.optim.LBFGS(
        [parameters], max_iter=1000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        logits = features @ parameters[:-1] + parameters[-1]
        value = binary_cross_entropy_with_logits(logits, right, weights, reduction="sum")
        value = value + strength / 2 * parameters[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    found = parameters.detach()
    return found[:-1], float(found[-1])


def _chosen(features: Tensor, right: Tensor, strengths: Sequence[float] = STRENGTHS) -> float:
    """The strength with the least balanced loss on rows that were left out; of equal ones the largest."""
    place = torch.empty(len(right), dtype=torch.long)
    for outcome in (0, 1):  # every fold gets its share of either
        rows = (right == outcome).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows)) % FOLDS
    losses = []
    for strength in strengths:
        logits = torch.zeros_like(right)
        for fold in range(FOLDS):
            seen = place != fold
            if right[seen].min() < right[seen].max():
                weight, bias = _minimum(features[seen], right[seen], strength)
                logits[~seen] = features[~seen] @ weight + bias
        losses.append(float((_balanced(right) * softplus(torch.where(right > 0, -logits, logits))).sum()))
    return max(s for s, loss in zip(strengths, losses, strict=True) if loss <= min(losses) + 1e-12)
