"""Contrasts, such as differences and trends, with pooled variances of seeds, and what a study of a given size can show.

A table compares many kinds of runs that were trained with a few seeds each. The variance between two or three seeds is a poor
estimate, and a threshold that allows for that hides most true differences. `moderated` therefore pools the variances of a
table: each becomes (d0 s0^2 + d s^2) / (d0 + d), where d0 and s0 are estimated from the variances of all contrasts.

References:
  Smyth, `Linear Models and Empirical Bayes Methods for Assessing Differential Expression in Microarray Experiments
  <https://doi.org/10.2202/1544-6115.1027>`_, 2004
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from sslshift.transfer.inference.estimation import (
    REFERENCE_SEEDS,
    ROUNDING,
    SEEDS,
    Bootstrapped,
    Estimate,
    VarianceComponent,
    candidate_variances,
    estimate,
    variance_components,
)
from sslshift.transfer.inference.proportions import widened_difference

# Probability with which a study should show a difference, the usual convention.
POWER = 0.8


class Contrast(NamedTuple):
    """A linear combination of scores, with everything that its interval needs.

    Attributes:
      value: the combination, the mean over seeds and draws.
      replicates: the combination in each resample of the test images, `[R]`.
      components: contributions of seeds, draws and so on to its variance; without any, only the images vary.
      images: number of test images, or of their groups.
      grouped: whether the resamples are of groups of images.
      effective: effective number of test images if the combination is a difference of metrics, times `scale`, otherwise 0; see
        `widened_difference`.
      scale: sum of the positive coefficients.
    """

    value: float
    replicates: np.ndarray
    components: tuple[VarianceComponent, ...]
    images: int
    grouped: bool = False
    effective: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, numbers: Bootstrapped, images: int, extra: Sequence[VarianceComponent] = ()) -> "Contrast":
        """Returns the contrast of numbers for each seed and draw."""
        axes = tuple(range(1, numbers.replicates.ndim))
        components = (*variance_components([numbers]), *extra)
        return cls(float(numbers.values.mean()), numbers.replicates.mean(axis=axes), components, images)

    @property
    def of_seeds(self) -> VarianceComponent | None:
        """The contribution of seeds; None with a single seed."""
        return next((each for each in self.components if each.factor == SEEDS), None)

    @property
    def seeds(self) -> int:
        """The number of seeds of a contrast whose variances are not pooled; 1 if the variance between seeds is unknown."""
        return 1 + (self.of_seeds.degrees_of_freedom if self.of_seeds else 0)

    @property
    def variance(self) -> float:
        """The variance of the value over seeds, draws and images."""
        return candidate_variances(float(self.replicates.var(ddof=1)), self.components, self.images)[0][0]

    def estimate(self, level: float = 0.95) -> Estimate:
        """Returns the value with its interval."""
        found = estimate(self.value, self.replicates, self.components, self.images, level=level, grouped=self.grouped)
        if not self.effective:
            return found
        return widened_difference(found, self.replicates, self.effective, scale=self.scale, level=level)

    def smallest_shown(self, significance: float, power: float = POWER) -> float:
        """Returns the smallest true value that a test at this significance shows with this probability.

        Args:
          significance: probability of a false finding that the test allows, after any correction for several tests.
          power: probability of a finding.
        """
        found = []
        for variance, freedom in candidate_variances(float(self.replicates.var(ddof=1)), self.components, self.images):
            # An estimated standard deviation of few degrees of freedom is on average too small.
            bias = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) * math.sqrt(2 / freedom)
            found.append(_smallest_shown(variance / bias**2, freedom, significance, power))
        if self.effective:
            # Encoders that agree on nearly all images: the score test shows a difference of this many images at best.
            found.append(self.scale * float(special.ndtri(significance / 2)) ** 2 / self.effective)
        return max(found)


def _smallest_shown(variance: float, degrees_of_freedom: float, significance: float, power: float) -> float:
    threshold = special.stdtrit(degrees_of_freedom, 1 - significance / 2)
    # The noncentral t distribution is above the threshold with this power.
    standardised = special.nctdtrinc(degrees_of_freedom, 1 - power, threshold)
    return float(standardised * math.sqrt(variance))


def moderated(
    contrasts: Sequence[Contrast | None],
    *,
    scales: Sequence[float] | None = None,
    kinds: int | None = None,
    one_reference: bool = False,
) -> list[Contrast | None]:
    """Returns the contrasts of one table with pooled variances of seeds.

    Contrasts of a table share runs, so that their variances are not independent. The degrees of freedom that pooling adds are
    therefore at most half of those of the table's residuals.

    Example:
      >>> import numpy as np
      >>> component = lambda variance: (VarianceComponent(SEEDS, variance, 0.0, 2),)
      >>> table = [Contrast(1.0, np.ones(9), component(variance), 100) for variance in (0.1, 0.2, 0.3, 0.2, 0.25)]
      >>> [round(each.components[0].variance, 3) for each in moderated(table)]  # nearer to each other
      [0.179, 0.207, 0.236, 0.207, 0.221]

    Args:
      contrasts: contrasts of one table; None for one that could not be computed. Contrasts of a single seed stay as they are.
      scales: number by which the variance of each contrast is multiplied before pooling, such as the sum of squares of a
        trend's positions; None: all are on one scale.
      kinds: number of kinds of runs in the table, for the degrees of freedom of its residuals; None: one for each contrast.
      one_reference: whether all contrasts are differences from one kind or from a fixed number. If runs of the same seed vary
        together, or are paired with the same run, their variances have a part that is the same in all of them, about which
        more contrasts say nothing, so that pooling at most triples the degrees of freedom.
    """
    scales = [1.0] * len(contrasts) if scales is None else scales
    known = [i for i, each in enumerate(contrasts) if each is not None and each.seeds > 1]
    if len(known) < 2:
        return list(contrasts)
    freedom = np.array([contrasts[i].seeds - 1.0 for i in known])
    # The variance of a single seed, not of the mean over seeds: contrasts of an unfinished study differ in their seeds.
    variances = np.array([contrasts[i].of_seeds.variance * contrasts[i].seeds * scales[i] for i in known])
    most = freedom.mean() * (len(known) if kinds is None else kinds) / 2
    paired = not any(each.factor == REFERENCE_SEEDS for each in contrasts[known[0]].components)
    if one_reference and paired:
        most = min(most, 2 * freedom.mean())
    prior, prior_freedom = _prior(variances, freedom, most)
    pooled = (prior_freedom * prior + freedom * variances) / (prior_freedom + freedom)
    found = list(contrasts)
    for place, i in enumerate(known):
        variance = float(pooled[place]) / scales[i] / contrasts[i].seeds
        found[i] = _with_seed_variance(contrasts[i], variance, float(prior_freedom + freedom[place]))
    return found


def pooled_with(contrast: Contrast, parts: Sequence[Contrast], weights: Sequence[float]) -> Contrast:
    """Returns a contrast whose variance of seeds is pooled with that of the contrasts of which it is a weighted sum.

    The parts are taken to vary independently between seeds. What is common to all of them, such as an effect of a seed, must
    cancel in the sum, as it does in a regression of trends on the sources' shift.

    Args:
      contrast: the weighted sum, with its own variance over seeds.
      parts: the contrasts that are summed, after `moderated`.
      weights: weight of each part.
    """
    if contrast.of_seeds is None or any(each.of_seeds is None for each in parts):
        return contrast
    shares = [weight**2 * each.of_seeds.variance for weight, each in zip(weights, parts, strict=True)]
    squares = sum(share**2 / each.of_seeds.degrees_of_freedom for share, each in zip(shares, parts, strict=True))
    if not squares:
        return contrast
    own = contrast.of_seeds
    # The bound is that of `moderated`: half of the degrees of freedom of the residuals of all parts.
    freedom = min(sum(shares) ** 2 / squares, own.degrees_of_freedom * len(parts) / 2)
    total = own.degrees_of_freedom + freedom
    variance = (own.degrees_of_freedom * own.variance + freedom * sum(shares)) / total
    return _with_seed_variance(contrast, variance, total)


def _with_seed_variance(contrast: Contrast, variance: float, degrees_of_freedom: float) -> Contrast:
    components = tuple(
        each._replace(variance=variance, degrees_of_freedom=degrees_of_freedom) if each.factor == SEEDS else each
        for each in contrast.components
    )
    return contrast._replace(components=components)


def _prior(variances: np.ndarray, freedom: np.ndarray, most: float) -> tuple[float, float]:
    """Returns the prior variance s0^2 and its degrees of freedom d0, by the moments of the logarithms of the variances."""
    middle = float(np.median(variances))
    if middle <= ROUNDING**2:
        # Most runs of these kinds are equal: their variances say nothing about the others.
        return 0.0, 0.0
    # Kinds whose seeds are equal by chance have a variance of 0, whose logarithm would outweigh all others.
    logs = np.log(np.maximum(variances, 1e-5 * middle)) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, freedom / 2).mean())
    prior_freedom = min(most, 2 * _inverse_trigamma(excess) if excess > 0 else math.inf)
    # With a bound on d0, the mean of the logarithms would be that of another distribution: the plain mean is safe there.
    if prior_freedom == most:
        return float(np.average(variances, weights=freedom)), prior_freedom
    return float(np.exp(logs.mean() + special.digamma(prior_freedom / 2) - np.log(prior_freedom / 2))), prior_freedom


def _inverse_trigamma(value: float) -> float:
    # trigamma(x) lies between 1 / x and 1 / x + 1 / x^2, which brackets the solution.
    low = 0.5 / value
    high = 1 / value + 1 / math.sqrt(value) + 1
    return float(optimize.brentq(lambda x: float(special.polygamma(1, x)) - value, low, high))


def shrunken(values: Sequence[float], variances: Sequence[float]) -> np.ndarray:
    """Returns values shrunken towards their mean, as far as their differences may be chance.

    The highest of several estimates is on average too high, because chance helped it to be the highest.

    Example:
      >>> shrunken([0.70, 0.72, 0.74], [1e-4] * 3).round(4).tolist()  # three quarters of the spread are real
      [0.705, 0.72, 0.735]
      >>> shrunken([0.70, 0.72, 0.74], [1e-3] * 3).round(4).tolist()  # none is
      [0.72, 0.72, 0.72]

    Args:
      values: estimates.
      variances: variance of each estimate about its true value, without what all have in common.

    References:
      Morris, `Parametric Empirical Bayes Inference <https://doi.org/10.1080/01621459.1983.10477920>`_, 1983
    """
    values = np.asarray(values, np.float64)
    variances = np.asarray(variances, np.float64)
    between = max(0.0, float(values.var(ddof=1) - variances.mean()))
    total = between + variances
    kept = np.divide(between, total, out=np.ones_like(total), where=total > 0)
    return values.mean() + kept * (values - values.mean())


class PlannedTable(NamedTuple):
    """Sizes and variances of a table of differences from one kind of runs, such as gains over untrained encoders.

    Attributes:
      seeds: number of seeds of each kind.
      images: number of test images.
      seed_deviation: standard deviation between seeds, as a share: of the difference of two runs of one seed, or of a run if
        the reference has more seeds.
      disagreement: share of the test images on which exactly one of two mean encoders is right.
      kinds: number of kinds whose variances are pooled.
      comparisons: number of comparisons that the correction counts.
      reference_seeds: number of seeds of the reference if it has more than the kinds; otherwise 0, and it is paired with them
        seed by seed.
    """

    seeds: int
    images: int
    seed_deviation: float
    disagreement: float
    kinds: int
    comparisons: int
    reference_seeds: int = 0

    def smallest_shown(self, *, power: float = POWER, level: float = 0.95) -> float:
        """Returns the smallest true difference that a study with this table shows with this probability.

        Example:
          >>> table = PlannedTable(3, 5000, 0.003, 0.05, kinds=12, comparisons=12)
          >>> round(table.smallest_shown(), 4), round(table._replace(seeds=6).smallest_shown(), 4)
          (0.0136, 0.0126)

        Args:
          power: probability of a finding.
          level: confidence level of the whole table.

        Returns:
          A share, such as 0.01 for one point; infinity for a single seed.
        """
        if self.seeds < 2:
            return math.inf
        of_seeds = self.seed_deviation**2 / self.seeds
        of_images = self.disagreement / self.images
        # See `moderated` with one reference.
        unpaired = self.reference_seeds > self.seeds
        freedom = (self.seeds - 1) * (1 + (self.kinds / 2 if unpaired else min(self.kinds / 2, 2)))
        parts = [(of_images, max(1, self.images - 1)), (of_seeds, freedom)]
        if unpaired:
            parts.append((self.seed_deviation**2 / self.reference_seeds, self.reference_seeds - 1))
        total = sum(variance for variance, _ in parts)
        # All encoders predicted the same, e.g. since training has not changed the encoder that it continued from.
        if not total:
            return 0.0
        satterthwaite = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
        candidates = ((total, satterthwaite), *parts[1:])
        significance = (1 - level) / self.comparisons
        return max(_smallest_shown(variance, degrees, significance, power) for variance, degrees in candidates)

    def seeds_for(self, wanted: float, most: int = 100) -> int | None:
        """Returns the number of seeds with which this difference is shown; None if not even with `most` seeds."""
        shown = (seeds for seeds in range(2, most + 1) if self._replace(seeds=seeds).smallest_shown() <= wanted)
        return next(shown, None)

    def images_for(self, wanted: float, most: int = 10**7) -> int | None:
        """Returns the number of test images with which this difference is shown; None if not even with `most` images."""
        if self._replace(images=most).smallest_shown() > wanted:
            return None
        low = 0
        high = most
        while high - low > 1:
            middle = (low + high) // 2
            enough = self._replace(images=middle).smallest_shown() <= wanted
            low, high = (low, middle) if enough else (middle, high)
        return high
