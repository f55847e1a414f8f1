"""What a bootstrap over test images and the scatter of runs say of any number made from metrics: a mean, a difference, a slope.

A number is linear in the metrics of runs, so that it has one value for each run (or pair of runs, or ladder of runs of a seed)
and one for each resample of the images; `resampled` gives those of metrics, `estimate` puts them into an interval. How the
parts are combined stands in `sslshift.transfer.intervals`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sslshift.transfer.metrics import Metric, columns_at_once

# A difference this small is rounding.
ROUNDING = 1e-12


class Estimate(NamedTuple):
    """A number with its interval, and the two-sided p-value of its being 0 that belongs to the interval.

    The interval leaves out 0 where the p-value is below 1 - level. Of a single run the interval is the percentile bootstrap and
    the p-value that of a normal distribution with the bootstrap's deviation: they may differ in the last few percent.
    """

    value: float
    low: float
    high: float
    p_value: float


class Contribution(NamedTuple):
    """What seeds (or draws, or sources) add to the variance of a number that is a mean over k of them.

    Attributes:
      share: the variance of their values over k.
      noise: the part of it that comes from what is counted elsewhere, as the choice of images is.
      freedom: degrees of freedom of the variance: k - 1 for a mean.
    """

    share: float
    noise: float
    freedom: int

    @classmethod
    def of(cls, values: np.ndarray, boots: np.ndarray) -> "Contribution":
        """From values `[k]` and what they are in each resample of images, `[N, k]`."""
        count = len(values)
        noise = np.var(boots - values, axis=1, ddof=1).mean()
        return cls(float(values.var(ddof=1)) / count, float(noise) / count, count - 1)


def contributions(values: Sequence[np.ndarray], boots: Sequence[np.ndarray]) -> list[Contribution]:
    """Of runs and of draws, where there are several.

    Args:
      values: `[runs, draws]` of one side, or of two, which are paired along an axis on which both have equally many.
      boots: what they are in each resample of images, `[N, runs, draws]` each.
    """
    found = []
    # Averaged over draws, then over runs: what is left is runs, then draws.
    for other in (1, 0):
        margins = [(v.mean(axis=other), w.mean(axis=other + 1)) for v, w in zip(values, boots, strict=True)]
        if len(margins) == 2 and len(margins[0][0]) == len(margins[1][0]):
            margins = [tuple(a - b for a, b in zip(*margins, strict=True))]
        found += [Contribution.of(*margin) for margin in margins if len(margin[0]) > 1]
    return found


def estimate(value: float, boots: np.ndarray, parts: Sequence[Contribution], images: int, *, level: float = 0.95) -> Estimate:
    """A number with its interval.

    Args:
      value: the number.
      boots: what it is in each resample of images, `[N]`.
      parts: what runs, draws or sources contribute; without any the interval is over images alone.
      images: how many test images there are.
      level: how often the interval should hold.

    Raises:
      ValueError: `level` is no probability.

    References:
      Satterthwaite, `An Approximate Distribution of Estimates of Variance Components <https://doi.org/10.2307/3002019>`_, 1946
    """
    if not 0 < level < 1:
        raise ValueError(f"An interval's level lies between 0 and 1, as 0.95 does; {level} does not.")
    if parts:
        choices = _choices(float(boots.var(ddof=1)), parts, images)
        half = max(float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance)) for variance, freedom in choices)
        return Estimate(float(value), float(value - half), float(value + half), max(_p(value, *each) for each in choices))
    bias = boots.mean() - value
    if abs(bias) < 3 * boots.std() / np.sqrt(len(boots)):
        bias = 0.0
    low, high = np.quantile(boots, [(1 - level) / 2, (1 + level) / 2]) - bias
    return Estimate(float(value), float(low), float(high), _p(value, float(boots.var()), np.inf))


def _choices(over_images: float, parts: Sequence[Contribution], images: int) -> list[tuple[float, float]]:
    """Variances with their degrees of freedom, of which the one that says least holds: the sum, and each part alone."""
    total = over_images + sum(max(0.0, each.share - each.noise) for each in parts)
    scatter = over_images**2 / max(1, images - 1) + sum(each.share**2 / each.freedom for each in parts)
    freedom = max(1.0, total**2 / scatter) if scatter else 1.0
    return [(total, freedom), *((each.share, each.freedom) for each in parts)]


def _p(value: float, variance: float, freedom: float) -> float:
    # Equal runs differ by nothing, or by rounding.
    if abs(value) <= ROUNDING or variance <= 0:
        return float(abs(value) <= ROUNDING)
    return float(2 * stats.t.sf(abs(value) / np.sqrt(variance), freedom))


def resampled(
    metric: Metric, sides: Sequence[Sequence[np.ndarray]], labels: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The metric of every run and draw of each side, `[runs, draws]`, and in each resample of images, `[N, runs, draws]`.

    Resamples that leave nothing to average (no image of any class that is looked for) are left out.

    Args:
      metric: of `sslshift.transfer.metrics.METRICS`.
      sides: of each the predictions of each run, as `sslshift.transfer.intervals.runs_interval` takes them.
      labels: of the test images, `[n]` or `[n, classes]`.
      resamples: how many, N.
      seed: of the resamples.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or there are fewer than two resamples.
    """
    if resamples < 2:
        raise ValueError(f"A bootstrap needs at least 2 resamples, better 2,000; {resamples} were asked for.")
    grids = [_grid(metric, side) for side in sides]
    statistics = [metric.statistic(draw, labels) for grid in grids for run in grid for draw in run]

    def of_all(weights):
        return np.stack([statistic(weights) for statistic in statistics], axis=1)

    boots = np.concatenate([of_all(weights) for weights in _resamples(len(labels), resamples, seed)])
    boots = boots[np.isfinite(boots).all(axis=1)]

    def by_side(rows):
        ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])[:-1]
        parts = zip(grids, np.split(rows, ends, axis=1), strict=True)
        return [part.reshape(-1, *grid.shape[:2]) for grid, part in parts]

    return [rows[0] for rows in by_side(of_all(np.ones((len(labels), 1))))], by_side(boots)


def _grid(metric: Metric, side: Sequence[np.ndarray]) -> np.ndarray:
    """Predictions `[runs, draws, n]` (or `[..., n, classes]`) from those of each run, which may lack the axis of draws."""
    runs = [np.asarray(run) for run in side]
    shapes = [list(run.shape) for run in runs]
    if any(run.ndim not in (metric.axes, metric.axes + 1) for run in runs):
        what = "[n]" if metric.axes == 1 else "[n, classes]"
        raise ValueError(
            f"{metric.name}: each run's predictions are {what}, or [draws, ...] of those, not {shapes}; give a list of them."
        )
    runs = [run[None] if run.ndim == metric.axes else run for run in runs]
    if len({run.shape for run in runs}) != 1 or not len(runs[0]):
        raise ValueError(
            f"{metric.name}: predictions of shapes {shapes} make no grid; give runs, and as many draws and images of each."
        )
    return np.stack(runs)


def _resamples(images: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is taken, float64 `[images, block]`, block by block until there are `count`."""
    random = np.random.default_rng(seed)
    for start in range(0, count, columns_at_once(images)):
        block = min(columns_at_once(images), count - start)
        taken = random.integers(images, size=(block, images)) * block + np.arange(block)[:, None]
        yield np.bincount(taken.ravel(), minlength=images * block).reshape(images, block).astype(np.float64)
