"""Score intervals for metrics near 0 or 1, and for differences of encoders that disagree on hardly any image.

A bootstrap resamples the images that it has. If an encoder is right on all of them, it is right in every resample, and the
interval has no width, although another test set could have an image that it gets wrong. Score intervals invert a test instead,
so that they keep a width of about 4 / n at the limits. They are used if fewer than `FEW` images are wrong (or right), or if two
encoders differ on fewer; beyond that they agree with the bootstrap.

Simulated coverage of 95% intervals: 95 to 100% for single runs of 30 to 400 images of which 0.1% to 10% are wrong, since the
number of wrong images has few values; 98 to 100% for means over three runs, whose errors are taken to be on the same images.
"""

import math

import numpy as np
from scipy import special

from sslshift.transfer.inference.estimation import ROUNDING, Estimate

# Number of images, wrong ones or ones on which two encoders differ, below which score intervals are used.
FEW = 10


def wilson(value: float, images: float, *, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion.

    Example:
      >>> [round(end, 3) for end in wilson(1.0, 30)]
      [0.886, 1.0]

    Args:
      value: the proportion, in [0, 1].
      images: number of images behind it, see `Metric.effective_images`.
      level: confidence level of the interval.

    References:
      Wilson, `Probable Inference, the Law of Succession, and Statistical Inference <https://doi.org/10.2307/2276774>`_, 1927
    """
    square = float(special.ndtri((1 + level) / 2)) ** 2
    centre = (value + square / (2 * images)) / (1 + square / images)
    half = math.sqrt(square * (value * (1 - value) / images + square / (4 * images**2))) / (1 + square / images)
    # Rounding could leave an end of 1 - 1e-16 for a proportion of 1.
    return min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half))


def tango(only_a: float, only_b: float, images: float, *, level: float = 0.95) -> tuple[float, float]:
    """Returns Tango's score interval of the difference of two proportions on the same images.

    Example:
      >>> [round(end, 4) for end in tango(0, 0, 100)]
      [-0.037, 0.037]

    Args:
      only_a: number of images on which only a is right.
      only_b: number of images on which only b is right.
      images: number of all images.
      level: confidence level of the interval.

    References:
      Tango, `Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample Design
      <https://pubmed.ncbi.nlm.nih.gov/9595618/>`_, 1998
    """
    limit = float(special.ndtri((1 + level) / 2))
    return -_upper_limit(only_b, only_a, images, limit), _upper_limit(only_a, only_b, images, limit)


def _upper_limit(b: float, c: float, n: float, limit: float) -> float:
    """Returns the largest difference that the score test does not reject."""
    low = (b - c) / n
    high = 1.0
    # The statistic decreases in the difference; 60 halvings reach the last digit of a float64.
    for _ in range(60):
        middle = (low + high) / 2
        inside = _score(b, c, n, middle) > -limit
        low, high = (middle, high) if inside else (low, middle)
    return high


def _score(b: float, c: float, n: float, difference: float) -> float:
    """Returns Tango's statistic, standard normal if the true difference is `difference`."""
    # The most likely probability that only b is right, under that difference, solves a quadratic equation.
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    nuisance = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * nuisance + difference * (1 - difference))
    excess = b - c - n * difference
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)


def widened_score(found: Estimate, images: float, *, level: float = 0.95) -> Estimate:
    """Returns the interval of a metric within [0, 1], at least Wilson's if fewer than `FEW` images are right or wrong.

    Args:
      found: the metric, the mean over runs, with its interval.
      images: effective number of test images, see `Metric.effective_images`. The variance of a metric in [0, 1] is at most that
        of a proportion of the same value, so that Wilson's interval also holds for means over runs.
      level: confidence level of the interval.
    """
    # Student's t can exceed the range of a metric.
    low = max(0.0, found.low)
    high = min(1.0, found.high)
    if images * min(found.value, 1 - found.value) < FEW - ROUNDING:
        ends = wilson(min(1.0, max(0.0, found.value)), images, level=level)
        low = min(low, ends[0])
        high = max(high, ends[1])
    return found._replace(low=low, high=high)


def widened_difference(
    found: Estimate, over_images: np.ndarray, images: float, *, scale: float = 1.0, level: float = 0.95
) -> Estimate:
    """Returns the interval of a difference, at least Tango's if encoders differ on fewer than `FEW` images or on nearly all.

    Args:
      found: the difference of two metrics, the mean over runs, with its interval.
      over_images: the difference in each resample of the test images, `[R]`.
      images: effective number of test images, see `Metric.effective_images`.
      scale: factor of a number that is `scale` times a difference. A slope is the sum of its positive coefficients times the
        difference of two weighted means of metrics.
      level: confidence level of the interval.
    """
    # The variance of a difference of proportions is (b + c - n d^2) / n^2. This gives b + c, for means over runs a number that
    # counts an image as often as the square of the mean difference there.
    difference = found.value / scale
    net = images * difference
    differing = max(abs(net), images**2 * float(over_images.var(ddof=1)) / scale**2 + images * difference**2)
    if min(differing, images - abs(net)) >= FEW - ROUNDING:
        return found
    low, high = tango((differing + net) / 2, (differing - net) / 2, images, level=level)
    # McNemar's statistic without a continuity correction, which is Tango's at a difference of 0.
    p_value = float(2 * special.ndtr(-abs(net) / math.sqrt(differing))) if abs(difference) > ROUNDING else 1.0
    ends = min(found.low, scale * low), max(found.high, scale * high)
    return found._replace(low=ends[0], high=ends[1], p_value=max(found.p_value, p_value))
