"""How far a metric can be trusted: intervals over test images, seeds and draws, and what may be said of a difference.

Three things make a downstream number what it is by chance: which images are in the test split, which seed the encoder was
trained with, and, in few-shot evaluations, which labelled images were drawn. The images are shared by all runs: more seeds do
not average their chance away. Each contributes to the variance of the mean:

- images: the variance of the mean over runs in a bootstrap that resamples the images once for all runs.
- seeds, draws: the variance of their values over their number, less the part of it that the images explain, which the bootstrap
  counts already.

Half the interval is Student's t with Satterthwaite's degrees of freedom times the root of the sum. Where two runs differ by far
more than images explain, that approximation covers 87% in place of 95% (three runs: 92%); hence an interval is never narrower
than Student's t over the runs' values alone. Values of runs are taken to be normal, as Student's t does.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sslshift.transfer.metrics import Metric, columns_at_once

# A difference this small is rounding.
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """A metric (mean over runs and draws) and the ends of its interval, all in [0, 1]."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """What a minus b is, and what that shows.

    Attributes:
      difference: of the means over runs and draws.
      low, high: the ends of its interval.
      p_value: of McNemar's exact test where both sides are one run and the metric is accuracy, else nan.
      verdict: `better` or `worse`, of a, where the interval leaves out 0; else `no difference shown`.
    """

    difference: float
    low: float
    high: float
    p_value: float
    verdict: str


def bootstrap_interval(
    metric: Metric, predictions: np.ndarray, labels: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """One run's metric with its interval over test images: the percentile bootstrap.

    Some metrics are biased in resamples: an image taken twice is found twice, which lifts average precision. Such a bias is
    taken off the interval's ends where it stands out from the bootstrap's own noise. The interval says nothing of other seeds,
    and where every image is right, or every one wrong, it has no width.

    Example:
      >>> import numpy as np
      >>> from sslshift.transfer.metrics import METRICS
      >>> labels, predictions = np.zeros(100, int), np.arange(100) // 80
      >>> [round(float(end), 2) for end in bootstrap_interval(METRICS["accuracy"], predictions, labels)]
      [0.8, 0.72, 0.88]

    Args:
      metric: of `sslshift.transfer.metrics.METRICS`.
      predictions: as `metric.decide` gives them; with a further first axis for several draws, which then contribute too.
      labels: of the test images, `[n]` or `[n, classes]`.
      resamples: how many.
      level: how often the interval should hold.
      seed: of the resamples. They depend on it and on n alone: differences of two calls are paired over images.

    Returns:
      The metric (the mean over draws) and its interval.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Efron & Tibshirani, `An Introduction to the Bootstrap <https://doi.org/10.1201/9780429246593>`_, 1993
    """
    return runs_interval(metric, [predictions], labels, resamples=resamples, level=level, seed=seed)


def runs_interval(
    metric: Metric,
    predictions: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean over runs of several seeds with an interval over seeds and test images.

    A plain bootstrap over three seeds would be too narrow: one resample in 27 is the lowest value three times, so that its 95%
    interval goes from the lowest to the highest of the three, which holds the mean in 1 - 2 / 2^3 = 75% of cases. A bootstrap
    over images alone leaves the seeds out, Student's t over seeds alone the images.

    Args:
      metric: of `sslshift.transfer.metrics.METRICS`.
      predictions: of each run, as `metric.decide` gives them; with a further first axis each for several draws. Draws
        in the same place are taken to be of the same labelled images. A single run without draws gets the percentile bootstrap.
      labels: of the test images, `[n]` or `[n, classes]`, the same for all runs.
      resamples: of the bootstrap.
      level: how often the interval should hold.
      seed: of the resamples.

    Returns:
      The mean over draws and runs, and its interval. What runs and draws contribute together is counted with both, which errs
      to the wide side.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Satterthwaite, `An Approximate Distribution of Estimates of Variance Components <https://doi.org/10.2307/3002019>`_, 1946
    """
    values, boots = _bootstrap(metric, [predictions], labels, resamples, seed)
    interval = _interval(values[0].mean(), boots[0].mean(axis=(1, 2)), _contributions(values, boots), len(labels), level)
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))


def compare(
    metric: Metric,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """a minus b on the same test images, with an interval over seeds and images.

    Images are always paired. Runs are paired in their order where both sides have equally many (give them by seed), and so are
    draws; otherwise each side's variance counts on its own, as in Welch's test. A side of one run against several is taken as
    it is: what its other seeds would give is unknown. With one run a side the interval is the percentile bootstrap over images.

    Example:
      >>> import numpy as np
      >>> from sslshift.transfer.metrics import METRICS
      >>> labels = np.zeros(100, int)
      >>> found = compare(METRICS["accuracy"], [np.arange(100) // 90], [np.arange(100) // 80], labels)
      >>> round(found.difference, 2), found.verdict, round(found.p_value, 4)  # 10 images only a has right, none only b
      (0.1, 'better', 0.002)

    Args:
      metric: of `sslshift.transfer.metrics.METRICS`.
      a: predictions of each run, as `runs_interval` takes them.
      b: what it is compared with, likewise.
      labels: of the test images, `[n]` or `[n, classes]`.
      resamples: of the bootstrap.
      level: how often the interval should hold.
      seed: of the resamples.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Welch, `The Generalization of Student's Problem when Several Different Population Variances are Involved
      <https://doi.org/10.2307/2332510>`_, 1947
    """
    values, boots = _bootstrap(metric, [a, b], labels, resamples, seed)
    difference = values[0].mean() - values[1].mean()
    over_images = boots[0].mean(axis=(1, 2)) - boots[1].mean(axis=(1, 2))
    if values[0].shape == values[1].shape:
        # Before the mean: of equal runs nothing is left, not even rounding.
        difference, over_images = (values[0] - values[1]).mean(), (boots[0] - boots[1]).mean(axis=(1, 2))
    found = _interval(difference, over_images, _contributions(values, boots), len(labels), level)
    single = metric.name == "accuracy" and values[0].size == values[1].size == 1
    p_value = mcnemar(*(np.ravel(side[0]) == labels for side in (a, b))) if single else float("nan")
    return Comparison(*found, p_value, _verdict(found.low, found.high))


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """McNemar's exact two-sided test of whether two classifiers are right equally often on the same images.

    Only images that one has right and the other wrong tell: under equality either is as likely to be the one that is right.

    Example:
      >>> mcnemar([True, True, True, True, False], [False, False, False, False, False])  # 4 : 0, 2 / 2^4
      0.125

    Args:
      correct_a: bool `[n]`.
      correct_b: of the same images, bool `[n]`.

    Returns:
      The p-value; 1 where they are right on the same images.

    Raises:
      ValueError: not of the same images.

    References:
      McNemar, `Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages
      <https://doi.org/10.1007/BF02295996>`_, 1947
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"McNemar's test needs the same images on both sides [n], not {list(a.shape)} and {list(b.shape)}.")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


class _Contribution(NamedTuple):
    """What seeds (or draws) add to the variance of a mean over k of them.

    Attributes:
      share: the variance of their values over k.
      noise: the part of it that comes from the choice of images.
      freedom: k - 1.
    """

    share: float
    noise: float
    freedom: int

    @classmethod
    def of(cls, values: np.ndarray, boots: np.ndarray) -> "_Contribution":
        """From values `[k]` and what they are in each resample of images, `[N, k]`."""
        count = len(values)
        noise = np.var(boots - values, axis=1, ddof=1).mean()
        return cls(float(values.var(ddof=1)) / count, float(noise) / count, count - 1)


def _contributions(values: list[np.ndarray], boots: list[np.ndarray]) -> list[_Contribution]:
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
        found += [_Contribution.of(*margin) for margin in margins if len(margin[0]) > 1]
    return found


def _interval(value: float, boots: np.ndarray, contributions: list[_Contribution], images: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"An interval's level lies between 0 and 1, as 0.95 does; {level} does not.")
    if contributions:
        half = _half(float(boots.var(ddof=1)), contributions, images, level)
        return Interval(float(value), float(value - half), float(value + half))
    bias = boots.mean() - value
    if abs(bias) < 3 * boots.std() / np.sqrt(len(boots)):
        bias = 0.0
    low, high = np.quantile(boots, [(1 - level) / 2, (1 + level) / 2]) - bias
    return Interval(float(value), float(low), float(high))


def _half(over_images: float, contributions: list[_Contribution], images: int, level: float) -> float:
    total = over_images + sum(max(0.0, each.share - each.noise) for each in contributions)
    scatter = over_images**2 / max(1, images - 1) + sum(each.share**2 / each.freedom for each in contributions)
    freedom = max(1.0, total**2 / scatter) if scatter else 1.0
    alone = [(each.share, each.freedom) for each in contributions]
    return float(max(stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance) for variance, df in [(total, freedom), *alone]))


def _verdict(low: float, high: float) -> str:
    if low > _ROUNDING:
        return "better"
    return "worse" if high < -_ROUNDING else "no difference shown"


def _bootstrap(
    metric: Metric, sides: Sequence[Sequence[np.ndarray]], labels: np.ndarray, resamples: int, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The metric of every run and draw of each side, `[runs, draws]`, and in each resample of images, `[N, runs, draws]`.

    Resamples that leave nothing to average (no image of any class that is looked for) are left out.
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
