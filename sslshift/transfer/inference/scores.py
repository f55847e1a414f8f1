"""Intervals of metrics, and comparisons of two encoders."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sslshift.transfer.inference.estimation import (
    ROUNDING,
    Bootstrapped,
    bootstrap,
    count_units,
    estimate,
    estimate_mean,
    variance_components,
)
from sslshift.transfer.inference.proportions import widened_difference, widened_score
from sslshift.transfer.metrics import Metric


class Interval(NamedTuple):
    """A metric (the mean over runs and draws) and the ends of its interval, all in [0, 1]."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Difference of two sides, a minus b, and the conclusion that it supports.

    Attributes:
      difference: difference of the means over runs and draws.
      low, high: ends of the interval of the difference.
      p_value: p-value of McNemar's exact test if both sides are a single run, the metric is accuracy and images are
        independent, otherwise nan. An interval excludes 0 only if this test rejects as well.
      verdict: `better` or `worse` (of a) if the interval excludes 0, otherwise `no difference shown`.
      interval_p: p-value that belongs to the interval, or McNemar's if that is larger; it can be corrected for many tests.
    """

    difference: float
    low: float
    high: float
    p_value: float
    verdict: str
    interval_p: float


def bootstrap_interval(
    metric: Metric,
    predictions: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns the metric of one run with its interval over test images, from the percentile bootstrap.

    Some metrics are biased in resamples: an image that a resample takes twice is found twice, which raises average precision.
    Such a bias is subtracted from the ends of the interval if it exceeds the noise of the bootstrap. The interval does not
    cover the choice of the training seed. If hardly any image is wrong, or hardly any right, it is at least Wilson's interval.

    Example:
      >>> import numpy as np
      >>> from sslshift.transfer.metrics import METRICS
      >>> labels, predictions = np.zeros(100, int), np.arange(100) // 80
      >>> [round(float(end), 2) for end in bootstrap_interval(METRICS["accuracy"], predictions, labels)]
      [0.8, 0.72, 0.88]

    Args:
      metric: one of `sslshift.transfer.metrics.METRICS`.
      predictions: result of `metric.decide`; labelled draws have an additional first axis, and contribute to the interval.
      labels: labels of the test images, `[n]` or `[n, classes]`.
      groups: see `runs_interval`.
      resamples: number of resamples.
      level: confidence level of the interval.
      seed: random seed of the resamples. They depend only on the seed and on n, so that two calls are paired over images.

    Returns:
      The metric (the mean over draws) and its interval.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Efron & Tibshirani, `An Introduction to the Bootstrap <https://doi.org/10.1201/9780429246593>`_, 1993
    """
    return runs_interval(metric, [predictions], labels, groups=groups, resamples=resamples, level=level, seed=seed)


def runs_interval(
    metric: Metric,
    predictions: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns the mean over runs of several seeds with an interval over seeds and test images.

    A plain bootstrap over three seeds would be too narrow: one resample in 27 is the lowest value three times, so that its 95%
    interval extends from the lowest to the highest of the three, which contains the mean in 1 - 2 / 2^3 = 75% of cases. A
    bootstrap over images alone ignores the seeds, and Student's t over seeds alone ignores the images.

    Args:
      metric: one of `sslshift.transfer.metrics.METRICS`.
      predictions: results of `metric.decide` for each seed, `[...]`, `[labelled draws, ...]` or `[draws, labelled draws, ...]`.
        Draws at the same position are assumed to be the same for all seeds. A single run without draws gets the percentile
        bootstrap.
      labels: labels of the test images, `[n]` or `[n, classes]`, the same for all runs.
      groups: group of each image, `[n]`, such as its video, object or patient; None: images are independent. Groups are
        resampled whole, and the interval is that of Student's t with one degree of freedom for each group but one.
      resamples: number of bootstrap resamples.
      level: confidence level of the interval.
      seed: random seed of the resamples.

    Returns:
      The mean over seeds and draws, and its interval. The joint contribution of two factors is counted with both, which makes
      the interval too wide rather than too narrow.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Satterthwaite, `An Approximate Distribution of Estimates of Variance Components <https://doi.org/10.2307/3002019>`_, 1946
    """
    (numbers,) = bootstrap(metric, [predictions], labels, groups=groups, resamples=resamples, seed=seed)
    found = estimate_mean(numbers, count_units(len(labels), groups), level=level, grouped=groups is not None)
    return Interval(*widened_score(found, metric.effective_images(labels, groups), level=level)[:3])


def compare(
    metric: Metric,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Returns a minus b on the same test images, with an interval over seeds and images.

    Images are always paired. If both sides have the same number of runs, runs are paired in order (sort them by seed); the same
    applies to draws. Otherwise the variance of each side counts separately, as in Welch's test. A side of one run against
    several is treated as fixed, because the variance between its seeds is unknown. With one run on each side the interval is
    the percentile bootstrap over images. If the sides differ on hardly any image, the interval is at least Tango's.

    Example:
      >>> import numpy as np
      >>> from sslshift.transfer.metrics import METRICS
      >>> labels = np.zeros(100, int)
      >>> found = compare(METRICS["accuracy"], [np.arange(100) // 90], [np.arange(100) // 80], labels)
      >>> round(found.difference, 2), found.verdict, round(found.p_value, 4)  # only a is right on 10 images, only b on none
      (0.1, 'better', 0.002)

    Args:
      metric: one of `sslshift.transfer.metrics.METRICS`.
      a: predictions of each run, in the form of `runs_interval`.
      b: predictions of the other side, in the same form.
      labels: labels of the test images, `[n]` or `[n, classes]`.
      groups: see `runs_interval`.
      resamples: number of bootstrap resamples.
      level: confidence level of the interval.
      seed: random seed of the resamples.

    Raises:
      ValueError: predictions, labels and metric do not fit each other, or a setting is out of range.

    References:
      Welch, `The Generalization of Student's Problem when Several Different Population Variances are Involved
      <https://doi.org/10.2307/2332510>`_, 1947
    """
    sides = bootstrap(metric, [a, b], labels, groups=groups, resamples=resamples, seed=seed)
    difference, over_images = _mean_difference(*sides)
    units = count_units(len(labels), groups)
    components = variance_components(sides)
    found = estimate(difference, over_images, components, units, level=level, grouped=groups is not None)
    found = widened_difference(found, over_images, metric.effective_images(labels, groups), level=level)
    difference, low, high, interval_p = found
    p_value = float("nan")
    # McNemar's test covers only independent test images; for several seeds, it would ignore the variance between seeds.
    if metric.name == "accuracy" and groups is None and all(side.values.size == 1 for side in sides):
        p_value = mcnemar(*(np.ravel(side[0]) == labels for side in (a, b)))
        interval_p = max(interval_p, p_value)
        # A verdict must not contradict the exact test beside it.
        if p_value > 1 - level:
            low = min(low, 0.0)
            high = max(high, 0.0)
    return Comparison(difference, low, high, p_value, _verdict(low, high), interval_p)


def _mean_difference(a: Bootstrapped, b: Bootstrapped) -> tuple[float, np.ndarray]:
    """Returns the difference of the means, and its replicates `[R]`."""
    if a.values.shape == b.values.shape:
        # Subtracted before averaging, so that the difference of equal runs is exactly 0.
        return (a.values - b.values).mean(), (a.replicates - b.replicates).mean(axis=(1, 2, 3))
    return a.values.mean() - b.values.mean(), a.replicates.mean(axis=(1, 2, 3)) - b.replicates.mean(axis=(1, 2, 3))


def _verdict(low: float, high: float) -> str:
    if low > ROUNDING:
        return "better"
    return "worse" if high < -ROUNDING else "no difference shown"


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Returns the p-value of McNemar's exact two-sided test that two classifiers have the same accuracy on the same images.

    The test uses only images on which exactly one classifier is right. Under the hypothesis, both classifiers are equally
    likely to be right on such an image.

    Example:
      >>> mcnemar([True, True, True, True, False], [False, False, False, False, False])  # 4 : 0, 2 / 2^4
      0.125

    Args:
      correct_a: bool `[n]`.
      correct_b: bool `[n]`, on the same images.

    Returns:
      The p-value; 1 if both classifiers are right on the same images.

    Raises:
      ValueError: the shapes differ, or are not `[n]`.

    References:
      McNemar, `Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages
      <https://doi.org/10.1007/BF02295996>`_, 1947
    """
    a = np.asarray(correct_a, bool)
    b = np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"Expected the same images [n] on both sides of McNemar's test, got {list(a.shape)} and {list(b.shape)}."
        )
    only_a = int(np.sum(a & ~b))
    only_b = int(np.sum(b & ~a))
    # Imported here: it takes half a second, and a command only needs it at its end.
    from scipy import stats

    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
