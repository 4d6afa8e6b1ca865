"""Comparisons by crowd-kit, which the extra `crowd` brings: its noisy Bradley-Terry model."""

from types import ModuleType

import numpy as np

from .bradley_terry import Judges, Votes, one_sided_judges


def noisy_bradley_terry(votes: Votes, items: int) -> tuple[Judges, np.ndarray]:
    r"""crowd-kit's `NoisyBradleyTerry`: with its skill's probability a judge goes by the scores, else it picks a side.

    Votes count as hard, ties as none; a judge whose votes are one-sided leaves the fit, as in ours. With d the
    difference of two scores, $\sigma(d)$ is the probability that a judge that compares prefers the first.

    crowd-kit's gradient (1.4.2) adds up the scores' part but keeps the last vote's for skills and biases, one place
    off: the scores can be used, what it says of the judges means little. Our own fit has neither fault.

    Returns:
        The judges (reliability: crowd-kit's skill in [0, 1]; position bias: the log-odds of its bias), and the items'
        scores in log-odds, (items,).
    """
    import pandas

    kit, apart = crowd_kit(), one_sided_judges(votes, int(votes.judge.max()) + 1)
    used, scores = votes.select(~apart[votes.judge] & (votes.preferred != 0.5)), np.zeros(items)
    skill, bias = np.zeros(len(apart)), np.zeros(len(apart))
    if len(used):
        first_left = used.shown_first >= 0
        left, right = np.where(first_left, [used.first, used.second], [used.second, used.first])
        chosen = np.where(used.preferred > 0.5, used.first, used.second)
        table = pandas.DataFrame({"worker": used.judge, "left": left, "right": right, "label": chosen})
        fitted = kit.NoisyBradleyTerry().fit(table.sort_values(list(table.columns)))  # it starts at random, by row
        scores[fitted.scores_.index] = _log_odds(fitted.scores_)
        skill[fitted.skills_.index], bias[fitted.biases_.index] = fitted.skills_, _log_odds(fitted.biases_)
    return Judges(skill, bias, apart), scores


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    inside = np.asarray(probabilities, float).clip(1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


def crowd_kit() -> ModuleType:
    """The package, which the extra `crowd` brings.

    Raises:
        ImportError: it is not installed; says how to install it.
    """
    try:
        from crowdkit import aggregation
    except ImportError as error:
        raise ImportError(
            f"this aggregator needs crowd-kit, which could not be imported ({error}); install the extra `crowd`: "
            "pip install 'trl-weaks[crowd]'"
        ) from error
    return aggregation
