"""Aggregators that look at one row at a time: the pools of `trl_weaks.pooling`, over the votes that are there."""

import numpy as np

from .base import AGGREGATORS, shares


def _pooled(pool: str, votes: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    import torch  # takes seconds, and a command's help lists the aggregators

    from .. import pooling

    # a gap is a uniform vote of weight 0, which no pool sees
    filled = np.where(np.isnan(votes), 1 / votes.shape[-1], votes)
    return getattr(pooling, pool)(torch.from_numpy(filled), torch.from_numpy(shares(votes, weights))).numpy()


@AGGREGATORS.register("mean")
def mean(votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of the votes (Eq. 2 and 4 of arXiv 2406.03199).

    Example:

    >>> votes = np.array([[[0.5, 0.5], [1.0, 0.0], [np.nan, np.nan]]])  # the third gave none
    >>> mean(votes, np.array([3.0, 1.0, 9.0]))
    array([[0.625, 0.375]])

    See also: [`log_linear`] for the geometric mean, [`majority`], where each supervisor names one class.
    """
    return _pooled("linear_pool", votes, weights)


@AGGREGATORS.register("majority")
def majority(votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The class with the most (weighted) votes; classes that tie share evenly.

    Example:

    >>> votes = np.array([[[0.5, 0.5], [0.9, 0.1], [np.nan, np.nan]]])
    >>> majority(votes)
    array([[1., 0.]])

    See also: [`mean`], which keeps how sure each is, [`Wawa`] and [`DawidSkene`], which weigh the supervisors.
    """
    return _pooled("majority_vote", votes, weights)


@AGGREGATORS.register("log_linear")
def log_linear(votes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Normalised weighted geometric mean of the votes (*ours*).

    Raises:
        ValueError: a row in which every class has probability 0 under some supervisor.

    Example:

    >>> votes = np.array([[[0.5, 0.5], [0.9, 0.1], [np.nan, np.nan]]])
    >>> log_linear(votes).round(3)
    array([[0.75, 0.25]])

    See also: [`mean`], in which no supervisor can rule a class out alone, [`ReverseKL`], the loss with this minimum.
    """
    return _pooled("log_linear_pool", votes, weights)
