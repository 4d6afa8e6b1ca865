"""Several weak supervisors and their weights; the joint score of a completion (Eq. 6)."""

import math
from collections.abc import Sequence

from .messages import Completion, Prompt
from .scores import Scored
from .supervisor import WeakSupervisor


class WeakEnsemble:
    """N weak supervisors with weights that sum to one, kept in the order of their names.

    Args:
        supervisors: with distinct names; their order does not matter.
        weights: one positive weight for each, in the order given; normalised to sum to one. Equal weights by
            default (*ours*; the paper's are hand-set and differ between losses, decoding and preferences).

    Raises:
        ValueError: no supervisor, two of one name, or a weight that is not positive and finite.
    """

    def __init__(self, supervisors: Sequence[WeakSupervisor], weights: Sequence[float] | None = None):
        if not supervisors:
            raise ValueError("an ensemble needs at least one supervisor.")
        names = [s.name for s in supervisors]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two supervisors are called {twice[0]!r}; give each WeakSupervisor its own name.")
        weights = [1.0] * len(names) if weights is None else [float(w) for w in weights]
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} supervisors; give one for each.")
        for name, weight in zip(names, weights, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"the weight of supervisor {name!r} is {weight}; weights must be positive and finite (leave a "
                    "supervisor out instead of giving it no weight)."
                )
        order = sorted(range(len(names)), key=names.__getitem__)
        total = math.fsum(weights)
        self.supervisors = [supervisors[i] for i in order]
        self.names = [names[i] for i in order]
        self.weights = [weights[i] / total for i in order]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        r"""Joint score of each completion, in nats per token (Eq. 6, length-normalised as in the authors' code).

        $$S(y) = \sum_i w_i \frac{1}{T_i} \sum_{t=1}^{T_i} \log p_i(y_t \mid x, y_{<t})$$

        T_i counts the tokens of supervisor i, **its end-of-sequence token included**, for every supervisor and
        everywhere in this project: an answer is also judged by where it ends. (The authors include it in preferences
        and leave it out in joint decoding.)

        Source: Cui et al., arXiv 2406.03199, Eq. 6, 10 and 11.
        """
        readings = [supervisor.score(prompts, completions) for supervisor in self.supervisors]
        return [self.combine(row) for row in zip(*readings, strict=True)]

    def combine(self, readings: Sequence[Scored]) -> float:
        """The joint score from one reading per supervisor, in the order of `names`."""
        return math.fsum(w * r.mean_logp for w, r in zip(self.weights, readings, strict=True))
