"""Bootstrap over test images, variance components of runs, and intervals that combine both.

A mean, a difference and a slope are linear in the metrics of runs. Each therefore has one value for each seed, draw of the
subset and draw of labelled images, and one for each bootstrap replicate of the test images. `bootstrap` returns these for
metrics, and `estimate` turns them into an interval. The package docstring says how the components are combined.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from sslshift.transfer.metrics import Metric, columns_at_once

# Differences up to this size are rounding errors, because metrics are float64 sums of at most millions of terms.
ROUNDING = 1e-12


class Estimate(NamedTuple):
    """A number with its interval, and the two-sided p-value of the hypothesis that the number is 0.

    The interval excludes 0 if the p-value is below 1 - level. For a single run the interval is the percentile bootstrap and
    the p-value assumes a normal distribution with the bootstrap's standard deviation; the two may then disagree slightly.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


SEEDS = "seeds"
# Seeds of a reference that has more of them than what is compared with it.
REFERENCE_SEEDS = "seeds of the reference"
# Random factors of a study's numbers, in the order of the axes of `Bootstrapped.values`.
FACTORS = (SEEDS, "draws", "labelled draws")


class Bootstrapped(NamedTuple):
    """A number for each seed, draw and labelled draw, and its bootstrap replicates over test images.

    The factors are crossed: all seeds have the same draws of the subset, and all runs have the same draws of labelled images
    (few-shot evaluations draw them from the labels alone). More seeds therefore do not reduce the contribution of the labelled
    draws to the variance of a mean. If each seed draws its own subset, there is one draw, and seeds contribute both.

    Attributes:
      values: numbers `[seeds, draws, labelled draws]`; an axis without several levels has length 1.
      replicates: the same numbers in each resample of the test images, `[R, seeds, draws, labelled draws]`.
    """

    values: np.ndarray
    replicates: np.ndarray


class VarianceComponent(NamedTuple):
    """Contribution of k seeds (or draws, labelled draws, sources) to the variance of a mean over them.

    Attributes:
      factor: one of `FACTORS`, "sources" or "encoders" (those behind a shift index).
      variance: the sample variance of their values divided by k.
      explained: part of the variance that another component already counts, such as the choice of test images.
      degrees_of_freedom: degrees of freedom of the variance; k - 1 for a mean.
    """

    factor: str
    variance: float
    explained: float
    degrees_of_freedom: float


def variance_components(sides: Sequence[Bootstrapped]) -> list[VarianceComponent]:
    """Returns one component for each of `FACTORS` that has several levels.

    Args:
      sides: one side, or two whose difference is estimated. Two sides are paired along each axis on which they have equally
        many entries.
    """
    found = []
    for axis, factor in enumerate(FACTORS):
        # The mean over the other factors gives the component of this one.
        others = tuple(each for each in range(len(FACTORS)) if each != axis)
        margins = [
            (side.values.mean(axis=others), side.replicates.mean(axis=tuple(each + 1 for each in others))) for side in sides
        ]
        if len(margins) == 2 and len(margins[0][0]) == len(margins[1][0]):
            margins = [tuple(a - b for a, b in zip(*margins, strict=True))]
        found += [_component(factor, *margin) for margin in margins if len(margin[0]) > 1]
    return found


def _component(factor: str, values: np.ndarray, replicates: np.ndarray) -> VarianceComponent:
    """Returns the component of values `[k]` with replicates `[R, k]`."""
    count = len(values)
    return VarianceComponent(
        factor, float(values.var(ddof=1)) / count, explained_variance(values, replicates) / count, count - 1
    )


def explained_variance(values: np.ndarray, replicates: np.ndarray) -> float:
    """Returns the part of the variance of values `[k]` that the choice of images causes, from their replicates `[R, k]`."""
    # Subtracting the values leaves the scatter that the images alone cause.
    return float(np.var(replicates - values, axis=1, ddof=1).mean())


def estimate(
    value: float,
    replicates: np.ndarray,
    components: Sequence[VarianceComponent],
    images: int,
    *,
    level: float = 0.95,
    grouped: bool = False,
) -> Estimate:
    """Returns a number with its interval.

    Args:
      value: the number.
      replicates: the number in each resample of the test images, `[R]`.
      components: contributions of random factors, see `variance_components`. Without components, the interval covers only the
        choice of images.
      images: number of test images, or of their groups.
      level: confidence level of the interval.
      grouped: whether the replicates resample groups. Groups are few, so that Student's t replaces the percentiles where there
        are no components.

    Raises:
      ValueError: `level` is not between 0 and 1.

    References:
      Satterthwaite, `An Approximate Distribution of Estimates of Variance Components <https://doi.org/10.2307/3002019>`_, 1946
    """
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, such as 0.95, got {level}.")
    if components or grouped:
        candidates = candidate_variances(float(replicates.var(ddof=1)), components, images)
        half = max(float(special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)) for variance, freedom in candidates)
        # The largest p-value belongs to the widest interval, so that p-value and interval agree.
        p_value = max(_p_value(value, *each) for each in candidates)
        return Estimate(float(value), float(value - half), float(value + half), p_value)
    bias = replicates.mean() - value
    # A bias below three standard errors of the replicates' mean is indistinguishable from noise of the bootstrap.
    if abs(bias) < 3 * replicates.std() / np.sqrt(len(replicates)):
        bias = 0.0
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]) - bias
    return Estimate(float(value), float(low), float(high), _p_value(value, float(replicates.var()), np.inf))


def estimate_mean(
    numbers: Bootstrapped,
    images: int,
    *,
    level: float = 0.95,
    extra: Sequence[VarianceComponent] = (),
    grouped: bool = False,
) -> Estimate:
    """Returns the mean over seeds, draws and labelled draws with its interval.

    Args:
      numbers: numbers for each seed, draw and labelled draw.
      images: number of test images, or of their groups.
      level: confidence level of the interval.
      extra: further components of the variance.
      grouped: see `estimate`.

    Raises:
      ValueError: `level` is not between 0 and 1.
    """
    components = [*variance_components([numbers]), *extra]
    over_images = numbers.replicates.mean(axis=(1, 2, 3))
    return estimate(float(numbers.values.mean()), over_images, components, images, level=level, grouped=grouped)


def candidate_variances(over_images: float, components: Sequence[VarianceComponent], images: int) -> list[tuple[float, float]]:
    """Returns variance and degrees of freedom of the sum and of each component; the widest of their intervals is used."""
    total = over_images + sum(max(0.0, each.variance - each.explained) for each in components)
    squares = over_images**2 / max(1, images - 1) + sum(each.variance**2 / each.degrees_of_freedom for each in components)
    # Explained parts are subtracted only from the total, so that the quotient can fall below 1.
    degrees_of_freedom = max(1.0, total**2 / squares) if squares else 1.0
    return [(total, degrees_of_freedom), *((each.variance, each.degrees_of_freedom) for each in components)]


def _p_value(value: float, variance: float, degrees_of_freedom: float) -> float:
    # Equal runs have no variance; their difference is 0 up to rounding, and the t statistic would divide by 0.
    if abs(value) <= ROUNDING or variance <= 0:
        return float(abs(value) <= ROUNDING)
    return float(2 * special.stdtr(degrees_of_freedom, -abs(value) / np.sqrt(variance)))


def bootstrap(
    metric: Metric,
    sides: Sequence[Sequence[np.ndarray]],
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Bootstrapped]:
    """Returns the metric of every seed, draw and labelled draw of each side, with its replicates over the test images.

    The images are resampled once for all sides. A resample without images of any class of the metric has no mean and
    is excluded for all sides.

    Groups are resampled whole. Their replicates are spread by sqrt(g / (g - 1)), since a bootstrap of g groups underestimates
    the variance by that factor squared.

    Args:
      metric: one of `sslshift.transfer.metrics.METRICS`.
      sides: predictions of each seed, for each side, in the form of `runs_interval`.
      labels: labels of the test images, `[n]` or `[n, classes]`.
      groups: group of each image, such as its video or patient, `[n]`; None: images are independent.
      resamples: number of resamples, R.
      seed: random seed of the resamples.

    Raises:
      ValueError: predictions, labels, groups and metric do not fit each other, or there are fewer than two resamples.
    """
    if resamples < 2:
        raise ValueError(f"Expected at least 2 resamples (2,000 are usual), got {resamples}.")
    grids = [_grid(metric, side) for side in sides]
    # All axes in front of the predictions of one evaluation are those of `Bootstrapped.values`.
    shapes = [grid.shape[: len(FACTORS)] for grid in grids]
    places = [grid[place] for grid, shape in zip(grids, shapes, strict=True) for place in np.ndindex(shape)]
    statistics = metric.statistics(places, labels)

    def all_statistics(weights):
        return np.ascontiguousarray(statistics(weights).T)

    units = count_units(len(labels), groups)
    # Without groups, each image is resampled by itself, and no copy of the weights is made.
    member = slice(None) if groups is None else np.unique(groups, return_inverse=True)[1]
    blocks = _resamples(units, resamples, seed, columns_at_once(len(labels)))
    replicates = np.concatenate([all_statistics(weights[member]) for weights in blocks])
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    single = all_statistics(np.ones((len(labels), 1)))
    if groups is not None:
        replicates = single + (replicates - single) * math.sqrt(units / (units - 1))

    def by_side(rows):
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [part.reshape(-1, *shape) for shape, part in zip(shapes, np.split(rows, ends, axis=1), strict=True)]

    values = by_side(single)
    return [Bootstrapped(one[0], several) for one, several in zip(values, by_side(replicates), strict=True)]


def _grid(metric: Metric, side: Sequence[np.ndarray]) -> np.ndarray:
    """Returns predictions `[seeds, draws, labelled draws, n]` (or `[..., n, classes]`), with the missing axes added."""
    runs = [np.asarray(run) for run in side]
    shapes = [list(run.shape) for run in runs]
    if any(run.ndim - metric.axes not in (0, 1, 2) for run in runs):
        expected = "[n]" if metric.axes == 1 else "[n, classes]"
        raise ValueError(
            f"{metric.name}: expected a list with the predictions of each run, {expected}, [labelled draws, ...] or "
            f"[draws, labelled draws, ...] of these, got shapes {shapes}."
        )
    runs = [run.reshape(*[1] * (2 + metric.axes - run.ndim), *run.shape) for run in runs]
    if len({run.shape for run in runs}) != 1 or not runs[0].shape[0] * runs[0].shape[1]:
        raise ValueError(
            f"{metric.name}: expected predictions of one run or more, with the same number of draws and images in each, got "
            f"shapes {shapes}."
        )
    return np.stack(runs)


def count_units(images: int, groups: np.ndarray | None) -> int:
    """Returns the number of units that a bootstrap resamples: groups, or images without groups.

    Raises:
      ValueError: there is not one group for each image, or all images are one group.
    """
    if groups is None:
        return images
    if np.shape(groups) != (images,):
        raise ValueError(f"Expected the group of each of {images:,} images, got groups of shape {list(np.shape(groups))}.")
    units = len(np.unique(groups))
    if units < 2:
        raise ValueError(f"All {images:,} test images are one group, so that nothing is known of others; expected two or more.")
    return units


def _resamples(units: int, count: int, seed: int, at_once: int) -> Iterator[np.ndarray]:
    """Yields counts of each unit in each resample, float64 `[units, block]`, in blocks that fit into memory."""
    random = np.random.default_rng(seed)
    for start in range(0, count, at_once):
        block = min(at_once, count - start)
        # A number for each (unit, resample) pair lets one bincount count all resamples of the block.
        taken = random.integers(units, size=(block, units)) * block + np.arange(block)[:, None]
        yield np.bincount(taken.ravel(), minlength=units * block).reshape(units, block).astype(np.float64)


class CrossedDeviations(NamedTuple):
    """Standard deviations between draws and between seeds; nan for a factor with a single level."""

    draws: float
    seeds: float


def crossed_deviations(values: np.ndarray) -> CrossedDeviations:
    """Returns the standard deviations of the two random factors of `values[draw, seed]`.

    This is a two-way analysis of variance with one value in each cell. With a single draw or a single seed, the residual cannot
    be separated, and the deviation of the other factor includes it.

    Example:
      >>> found = crossed_deviations([[0.0, 1.0], [2.0, 3.0]])  # draws differ by 2, seeds by 1
      >>> [round(each, 4) for each in found]
      [1.4142, 0.7071]
    """
    values = np.asarray(values, float)
    draws, seeds = values.shape
    if min(draws, seeds) < 2:
        deviation = float(values.std(ddof=1)) if values.size > 1 else float("nan")
        return CrossedDeviations(deviation, float("nan")) if draws > 1 else CrossedDeviations(float("nan"), deviation)
    mean = values.mean()
    by_draw = values.mean(axis=1)
    by_seed = values.mean(axis=0)
    residual = values - by_draw[:, None] - by_seed[None, :] + mean
    degrees_of_freedom = np.array([draws - 1, seeds - 1, (draws - 1) * (seeds - 1)])
    sums_of_squares = np.array(
        [seeds * np.sum((by_draw - mean) ** 2), draws * np.sum((by_seed - mean) ** 2), np.sum(residual**2)]
    )
    mean_squares = sums_of_squares / degrees_of_freedom
    # The mean square of a factor includes that of the residual; if it is smaller, the factor's variance is estimated as 0.
    return CrossedDeviations(
        float(np.sqrt(max(0.0, mean_squares[0] - mean_squares[2]) / seeds)),
        float(np.sqrt(max(0.0, mean_squares[1] - mean_squares[2]) / draws)),
    )
