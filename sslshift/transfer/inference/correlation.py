"""Rank correlation of an index with what it should predict, with its interval."""

from typing import NamedTuple

import numpy as np

# Bootstrap replicates behind the interval of a rank correlation.
_REPLICATES = 2000


class RankCorrelation(NamedTuple):
    """Spearman's rank correlation with its 95% interval over sources and seeds."""

    value: float
    low: float
    high: float


def rank_correlation(index: np.ndarray, losses: np.ndarray, *, seed: int = 0) -> RankCorrelation:
    """Returns how well the order of sources by an index agrees with their order by the accuracy that they lose downstream.

    Example:
      >>> import numpy as np
      >>> losses = np.array([[0.0, 0.1], [1.0, 1.1], [3.0, 2.9], [2.0, 2.1]])
      >>> round(rank_correlation(np.array([0.0, 0.2, 0.5, 0.9]), losses).value, 6)
      0.8

    Args:
      index: index of each source `[sources]`.
      losses: accuracy lost with each source and training seed `[sources, seeds]`.
      seed: seed of the bootstrap, which draws sources and seeds.

    Returns:
      The correlation of the index with the mean loss; bootstrap replicates in which all sources are one are excluded.

    Raises:
      ValueError: fewer than four sources, too few for an order to mean anything.
    """
    # Imported here: it takes half a second, which only a calibration needs.
    from scipy import stats

    index = np.asarray(index, float)
    losses = np.asarray(losses, float)
    if (index.ndim, losses.ndim) != (1, 2) or len(index) != len(losses) or len(index) < 4:
        raise ValueError(
            f"A rank correlation needs at least four sources and losses [sources, seeds], got indices {index.shape} and losses "
            f"{losses.shape}."
        )
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_REPLICATES):
        sources, seeds = (random.integers(count, size=count) for count in losses.shape)
        # A replicate of one source drawn several times has no order.
        if len(set(index[sources])) > 1:
            found.append(stats.spearmanr(index[sources], losses[sources][:, seeds].mean(axis=1)).statistic)
    # A replicate in which all losses are equal has no rank correlation: spearmanr returns NaN for it.
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return RankCorrelation(float(stats.spearmanr(index, losses.mean(axis=1)).statistic), float(low), float(high))
