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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sslshift.transfer.metrics import Metric
from sslshift.transfer.resampling import ROUNDING, contributions, estimate, resampled


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
    values, boots = resampled(metric, [predictions], labels, resamples=resamples, seed=seed)
    parts = contributions(values, boots)
    interval = estimate(values[0].mean(), boots[0].mean(axis=(1, 2)), parts, len(labels), level=level)
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
    values, boots = resampled(metric, [a, b], labels, resamples=resamples, seed=seed)
    difference = values[0].mean() - values[1].mean()
    over_images = boots[0].mean(axis=(1, 2)) - boots[1].mean(axis=(1, 2))
    if values[0].shape == values[1].shape:
        # Before the mean: of equal runs nothing is left, not even rounding.
        difference = (values[0] - values[1]).mean()
        over_images = (boots[0] - boots[1]).mean(axis=(1, 2))
    found = estimate(difference, over_images, contributions(values, boots), len(labels), level=level)
    single = metric.name == "accuracy" and values[0].size == values[1].size == 1
    p_value = mcnemar(*(np.ravel(side[0]) == labels for side in (a, b))) if single else float("nan")
    return Comparison(*found[:3], p_value, _verdict(found.low, found.high))


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
    a = np.asarray(correct_a, bool)
    b = np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"McNemar's test needs the same images on both sides [n], not {list(a.shape)} and {list(b.shape)}.")
    only_a = int(np.sum(a & ~b))
    only_b = int(np.sum(b & ~a))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _verdict(low: float, high: float) -> str:
    if low > ROUNDING:
        return "better"
    return "worse" if high < -ROUNDING else "no difference shown"
