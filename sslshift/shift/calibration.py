"""What can be asked of an index where the right answer is known: to agree with itself, to rise where it must, to predict."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sslshift.shift.index import ShiftIndex, index_difference

_RESAMPLES = 2000


class Agreement(NamedTuple):
    """How many indices of fewer images agree with that of the most, of how many, and the largest difference of any."""

    agreeing: int
    of: int
    largest: float

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.agreeing + other.agreeing, self.of + other.of, max(self.largest, other.largest))


def agreement(fewer: Sequence[ShiftIndex], most: ShiftIndex) -> Agreement:
    """Whether indices of one pair at fewer images are what it is at the most, within both 95% intervals together.

    Example:
      >>> at = lambda value: ShiftIndex(value, value - 0.1, value + 0.1, 0, 0, 0, 100, 20)
      >>> agreement([at(0.5), at(0.8)], at(0.6))
      Agreement(agreeing=1, of=2, largest=0.2)
    """
    differences = [abs(each.value - most.value) for each in fewer]
    within = [np.hypot(each.high - each.value, most.high - most.value) for each in fewer]
    agreeing = sum(difference <= width for difference, width in zip(differences, within, strict=True))
    return Agreement(int(agreeing), len(fewer), round(float(max(differences)), 12))


class Steps(NamedTuple):
    """How many steps of a series rise, how many fall by more than chance (paired, 95%), of how many."""

    rising: int
    falling: int
    of: int

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(*(a + b for a, b in zip(self, other, strict=True)))


def steps(series: Sequence[ShiftIndex]) -> Steps:
    """Of a series that must rise, such as one of ever harder corruption; all measured on one scale at one sample size."""
    differences = [index_difference(after, before) for before, after in itertools.pairwise(series)]
    return Steps(sum(each.value > 0 for each in differences), sum(each.high < 0 for each in differences), len(differences))


class RankCorrelation(NamedTuple):
    """Spearman's rank correlation with its 95% interval over sources and seeds."""

    value: float
    low: float
    high: float


def rank_correlation(index: np.ndarray, losses: np.ndarray, *, seed: int = 0) -> RankCorrelation:
    """How well the order of sources by an index is their order by what they lose downstream.

    Example:
      >>> import numpy as np
      >>> losses = np.array([[0.0, 0.1], [1.0, 1.1], [3.0, 2.9], [2.0, 2.1]])
      >>> round(rank_correlation(np.array([0.0, 0.2, 0.5, 0.9]), losses).value, 6)
      0.8

    Args:
      index: of each source `[sources]`.
      losses: accuracy lost with each source and training seed `[sources, seeds]`.
      seed: of the bootstrap, which draws sources and seeds.

    Returns:
      The correlation of the index with the mean loss; draws in which all sources are one are left out.

    Raises:
      ValueError: fewer than four sources, whose order says nothing.
    """
    index = np.asarray(index, float)
    losses = np.asarray(losses, float)
    if len(index) < 4 or losses.ndim != 2 or len(losses) != len(index):
        raise ValueError(f"A rank correlation needs at least four sources and losses [sources, seeds], not {losses.shape}.")
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES):
        sources, seeds = (random.integers(count, size=count) for count in losses.shape)
        if len(set(index[sources])) > 1:
            found.append(stats.spearmanr(index[sources], losses[sources][:, seeds].mean(axis=1)).statistic)
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return RankCorrelation(float(stats.spearmanr(index, losses.mean(axis=1)).statistic), float(low), float(high))
