"""From scored candidates to preference pairs: best and worst, the ensemble's doubt, and each pair's weight.

Plain numbers in, plain numbers out. Nothing depends on the order of supervisors, candidates or prompts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist, median

CERTAIN_BELOW = 0.499  # a flip probability of one half has no side and its cDPO no optimum away from 0
_normal = NormalDist()


def best_and_worst(texts: Sequence[str], scores: Sequence[float]) -> tuple[int, int]:
    """Positions of the candidates of highest and lowest joint score (Eq. 10 and 11 of arXiv 2406.03199).

    Of equal scores the text that sorts first is taken, so the order of the candidates does not matter.
    """
    order = sorted(range(len(texts)), key=lambda m: texts[m])
    return max(order, key=lambda m: scores[m]), min(order, key=lambda m: scores[m])


def flip_probabilities(margins: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    r"""The ensemble's own probability that each pair is the wrong way round. *ours*

    With d_pi the margin of supervisor i on pair p (chosen - rejected, nats per token), w_i its weight:

    1. z_pi = d_pi / sqrt(mean_p d_pi^2): a supervisor's margins in units of its own scale, so that none speaks louder
       because its vocabulary or its confidence is larger.
    2. tau^2 = mean_p sum_i w_i (z_pi - zbar_p)^2 / (1 - sum_i w_i^2), zbar_p = sum_i w_i z_pi: the noise of one
       supervisor, estimated without bias from how supervisors differ on the same pair. One supervisor: tau = 1.
    3. P(wrong) = 1 - sum_i w_i Phi(z_pi / tau).

    In words: ask one supervisor, drawn by weight, with the noise that supervisors show among themselves. Averaging
    probabilities rather than evidence does not take the supervisors' errors for independent, which they are not.
    Above one half the pair should be swapped. Where all agree exactly (tau = 0) a side is taken for certain. What the
    supervisors get wrong together does not show in their disagreement: see `with_shared_error`.

    Args:
        margins: for each pair, one margin per supervisor, nats per token.
        weights: of the supervisors; they sum to one.

    Returns:
        One probability in [0, 1] for each pair.
    """
    if not margins:
        return []
    count = range(len(weights))
    scales = [math.sqrt(math.fsum(d[i] ** 2 for d in margins) / len(margins)) for i in count]
    z = [[d[i] / scales[i] if scales[i] > 0 else 0.0 for i in count] for d in margins]
    spare = 1.0 - math.fsum(w * w for w in weights)
    tau = 1.0
    if spare > 1e-9:
        means = [math.fsum(w * x for w, x in zip(weights, row, strict=True)) for row in z]
        spread = math.fsum(
            w * (x - mean) ** 2 for row, mean in zip(z, means, strict=True) for w, x in zip(weights, row, strict=True)
        )
        tau = math.sqrt(spread / len(z) / spare)
    right = [math.fsum(w * _side(x, tau) for w, x in zip(weights, row, strict=True)) for row in z]
    return [min(max(1.0 - p, 0.0), 1.0) for p in right]


def with_shared_error(flip: float, shared: float) -> float:
    """Probability of an odd number of flips: by doubt (`flip`), or by an error all share (`shared` < 0.5). *ours*

    A pair without doubt keeps `shared`; at one half nothing changes, so the side of a pair stays the same.
    """
    return shared + (1.0 - 2.0 * shared) * flip


def _side(x: float, tau: float) -> float:
    if tau < 1e-9:
        return 0.5 if x == 0 else float(x > 0)
    return _normal.cdf(x / tau)


def pair_weights(margins: Sequence[float]) -> list[float]:
    """Weights with mean one: a pair whose gap is below the median gap counts less in proportion, above it no more.

    A mistake between two almost equal answers costs little; and no pair outweighs the others because its worse
    candidate is garbage. *ours*
    """
    gaps = [abs(m) for m in margins]
    middle = median(gaps)
    clipped = [min(gap, middle) for gap in gaps]
    mean = math.fsum(clipped) / len(clipped)
    return [c / mean for c in clipped]


def judge_pairs(pairs: Iterable[Mapping], judge: Callable[[Mapping, str], float]) -> dict[str, float]:
    """How often the ensemble is right, by a judge that sees the gold labels. For reports: never for training.

    Args:
        pairs: rows with `chosen`, `rejected` (text or messages) and `pair_epsilon`.
        judge: the gold quality of a completion's text, given its row; higher is better.

    Returns:
        `pairs`; `decided`, those whose two completions the judge does not hold equal; `accuracy`, the share of the
        decided that are the right way round; `expected_accuracy`, one minus the mean `pair_epsilon` of the decided;
        `gold_gap`, the mean gold quality of chosen minus rejected. Shares without pairs are NaN.
    """
    gaps, doubts = [], []
    for row in pairs:
        texts = [
            row[side] if isinstance(row[side], str) else row[side][-1]["content"] for side in ("chosen", "rejected")
        ]
        gaps.append(judge(row, texts[0]) - judge(row, texts[1]))
        doubts.append(row["pair_epsilon"])
    decided = [(gap > 0, doubt) for gap, doubt in zip(gaps, doubts, strict=True) if gap != 0]

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else math.nan

    return {
        "pairs": len(gaps),
        "decided": len(decided),
        "accuracy": mean([float(right) for right, _ in decided]),
        "expected_accuracy": mean([1.0 - doubt for _, doubt in decided]),
        "gold_gap": mean(gaps),
    }
