"""What a study claims, as numbers with intervals: the trend of accuracy in diversity, how it changes with the shift, and the
correction that many comparisons need.

All of it is paired: seeds share their order and weights over all rungs of a ladder, and all runs share their test images. A
trend is therefore fitted to the ladder of each seed, and a bootstrap resamples the images once for all runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sslshift.transfer.metrics import METRICS
from sslshift.transfer.resampling import Contribution, contributions, estimate, resampled

# A line through two points fits them whatever they are.
FEWEST_SOURCES = 3


class Trend(NamedTuple):
    """A slope with its interval.

    Attributes:
      slope: of the metric for each factor of ten in diversity, or of that for each unit of the shift index.
      low, high: the ends of its interval; nan where nothing can be said of it.
      p_value: of the slope's being 0; nan likewise.
      seeds: behind it. Of a single one the interval is over the test images alone: what other seeds would give is unknown.
      images: test images behind it; 0 where their choice is not counted.
    """

    slope: float
    low: float
    high: float
    p_value: float
    seeds: int
    images: int


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values made so much larger that among all of them at most one in twenty tables shows anything by chance at 0.05.

    Example:
      >>> holm([0.01, 0.04, 0.03]).tolist()  # 3 * 0.01; 2 * 0.03; 0.04 is no smaller than the one before it
      [0.03, 0.06, 0.06]

    Args:
      p_values: of all comparisons of a table, dependent or not. nan, of what could not be compared, stays and does not count.

    Returns:
      The adjusted ones, float64 in the same order.

    References:
      Holm, `A Simple Sequentially Rejective Multiple Test Procedure <https://www.jstor.org/stable/4615733>`_, 1979
    """
    adjusted = np.array(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known], kind="stable")]
    stepwise = adjusted[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepwise))
    return adjusted


def trend(
    log10_diversity: Sequence[float], values: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Trend:
    """The slope of accuracy in log10 D, by least squares for each seed, with an interval over seeds and test images.

    Example:
      >>> found = trend([-2, -1, 0], [[0.50, 0.52], [0.60, 0.61], [0.70, 0.70]])  # slopes 0.10 and 0.09 of two seeds
      >>> [round(float(each), 4) for each in found[:3]]  # 0.095 -+ 12.706 * 0.005
      [0.095, 0.0315, 0.1585]

    Args:
      log10_diversity: of each level, `[levels]`.
      values: accuracies `[levels, seeds]`: Student's t over seeds; or whether each image was right, `[levels, seeds, images]`:
        the choice of images is counted too.
      resamples: of the images.
      level: how often the interval should hold.
      seed: of the resamples.

    Raises:
      ValueError: shapes do not fit, or there are not two different diversities.
    """
    values = np.asarray(values, np.float64)
    if values.ndim not in (2, 3) or len(values) != len(log10_diversity) or not values.size:
        raise ValueError(
            f"A trend needs values [levels, seeds] or [levels, seeds, images] at {len(log10_diversity)} diversities, not "
            f"{list(values.shape)}."
        )
    means, boots, images = _resampled(values, resamples, seed)
    return fitted(slopes(log10_diversity, means[..., None]), slopes(log10_diversity, boots[..., None], axis=1), images, level)


def _resampled(values: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Accuracies `[rows, seeds]`, what they are in each resample of the images, and how many images there are (0: unknown)."""
    if values.ndim == 2:
        return values, np.stack([values, values]), 0
    # Predictions that are right where they are 0.
    sides = [list(np.asarray(1 - each, int)) for each in values]
    found, boots = resampled(METRICS["accuracy"], sides, np.zeros(values.shape[2], int), resamples=resamples, seed=seed)
    return np.stack(found)[..., 0], np.stack(boots, axis=1)[..., 0], values.shape[2]


def slopes(x: Sequence[float], values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Least-squares slopes along an axis of `values` against `x`; the axis is gone from what is returned.

    Raises:
      ValueError: `x` does not hold two different values, or one that is no number.
    """
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all() or np.ptp(x) == 0:
        raise ValueError(f"A slope needs at least two different places, all of them numbers, not {x.tolist()}.")
    centred = x - x.mean()
    return np.tensordot(centred / (centred**2).sum(), np.asarray(values, np.float64), (0, axis))


def fitted(
    values: np.ndarray, boots: np.ndarray, images: int, level: float = 0.95, extra: Sequence[Contribution] = ()
) -> Trend:
    """The mean over seeds (and draws) of a slope, with its interval.

    Args:
      values: slopes `[seeds, draws]`.
      boots: what they are in each resample of images, `[N, seeds, draws]`.
      images: how many there are; 0 where they are not counted.
      level: how often the interval should hold.
      extra: what else contributes to its variance.
    """
    value = float(values.mean())
    parts = [*contributions([values], [boots]), *extra]
    if not parts and not images:
        return Trend(value, np.nan, np.nan, np.nan, len(values), images)
    return Trend(*estimate(value, boots.mean(axis=(1, 2)), parts, images, level=level), len(values), images)


def trend_by_shift(
    shift: Sequence[float],
    log10_diversity: Sequence[Sequence[float]],
    values: Sequence[np.ndarray],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Trend:
    """How much the trend of accuracy in log10 D changes for each unit of the shift index, from a source near the task to noise.

    A seed's slopes of all sources are regressed on the sources' indices; the interval counts seeds, images, and that sources
    scatter about the line (with sources - 2 degrees of freedom). It is never narrower than that of seeds or of sources alone.
    The indices are taken as exact, which makes a slope rather too flat than too steep.

    Example:
      >>> values = [[[0.5, 0.5], [0.7, 0.7]], [[0.5, 0.5], [0.6, 0.6]], [[0.5, 0.5], [0.5, 0.5]]]
      >>> round(trend_by_shift([0.0, 0.5, 1.0], [[-1, 0]] * 3, values).slope, 3)  # slopes 0.2, 0.1, 0
      -0.2

    Args:
      shift: index of each source, `[sources]`.
      log10_diversity: of each source, the levels of its ladder.
      values: of each source, as `trend` takes them, of the same seeds and images.
      resamples: of the images.
      level: how often the interval should hold.
      seed: of the resamples.

    Raises:
      ValueError: fewer than three sources, all at one index, or shapes that do not fit.
    """
    parts = [_resampled(np.asarray(each, np.float64), resamples, seed) for each in values]
    found = np.stack([slopes(x, part[0][..., None]) for x, part in zip(log10_diversity, parts, strict=True)])
    boots = np.stack([slopes(x, part[1][..., None], axis=1) for x, part in zip(log10_diversity, parts, strict=True)], axis=1)
    return change_by_shift(shift, found, boots, parts[0][2], level)


def change_by_shift(
    shift: Sequence[float],
    values: np.ndarray,
    boots: np.ndarray,
    images: int,
    level: float = 0.95,
    *,
    scatter: bool = True,
) -> Trend:
    """`trend_by_shift` from slopes.

    Args:
      shift: index of each source, `[sources]`.
      values: slopes `[sources, seeds, draws]`.
      boots: what they are in each resample of images, `[N, sources, seeds, draws]`.
      images: how many there are; 0 where they are not counted.
      level: how often the interval should hold.
      scatter: whether the interval counts that sources scatter about the line; without, it is about these very sources.

    Raises:
      ValueError: fewer than three sources, or all at one index.
    """
    if len(shift) < FEWEST_SOURCES:
        raise ValueError(
            f"How a trend changes with the shift index needs a ladder of at least {FEWEST_SOURCES} sources with an index, not "
            f"{len(shift)}: through two points goes a line whatever they are."
        )
    x = np.asarray(shift, np.float64)
    change = slopes(x, values)
    boots_of_change = slopes(x, boots, axis=1)
    return fitted(change, boots_of_change, images, level, [_sources(x, values, boots)] if scatter else [])


def _sources(x: np.ndarray, values: np.ndarray, boots: np.ndarray) -> Contribution:
    """What the sources' scatter about the line adds, and how much of it seeds, draws and images explain."""
    freedom = len(x) - 2
    spread = ((x - x.mean()) ** 2).sum()
    mean = values.mean(axis=(1, 2))
    # The scatter of seeds (and of draws) is that of their own lines' residuals about those of the mean.
    explained = np.var(_rest(x, boots.mean(axis=(2, 3)).T), axis=1, ddof=1).sum() / freedom
    for axis, other in ((1, 2), (2, 1)):
        count = values.shape[axis]
        if count > 1:
            explained += np.var(_rest(x, values.mean(axis=other)), axis=1, ddof=1).sum() / count / freedom
    return Contribution(float((_rest(x, mean) ** 2).sum() / freedom / spread), float(explained / spread), freedom)


def _rest(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Residuals of `values`, `[sources, ...]`, about their lines in `x`."""
    centred = (x - x.mean()).reshape(-1, *[1] * (np.ndim(values) - 1))
    return values - values.mean(axis=0) - centred * slopes(x, values)
