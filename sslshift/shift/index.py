"""The shift index, a distance on a readable scale, and the checks of a calibration.

0 is another sample of the target, 1 is unstructured noise. `ShiftScale` measures several sources of one target on one scale;
`agreement`, `steps` and `rank_correlation` check an index in cases with a known answer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import numpy as np
from scipy import special

from sslshift.shift._base import generator, matrix, require_one_dimension, shape_error
from sslshift.shift.distances import Function, distance_of

# Several distances are steady from 200 to 5,000 images (see the calibration in experiments/README.md). Of these, this one is
# linear in a mixture: if half of a source's images come from the target, the source is half as far away.
DEFAULT_DISTANCE = "kernel_root"
# With fewer images on each side of a distance, halves of a sample hardly show its scatter.
LEAST = 10
# Images on each side above which the interval no longer changes visibly, while the time of a kernel distance is quadratic.
MOST = 2500


class ShiftIndex(NamedTuple):
    """Distance of a source from a target: 0 = another sample of the target, 1 = unstructured noise; larger values can occur.

    Attributes:
      value: mean over the draws.
      low, high: 95% interval over draws of source, target and noise images.
      distance: distance from the source to the target, mean over the draws.
      floor: distance between two disjoint halves of the target, mean over the draws.
      ceiling: distance from noise to the target, mean over the draws.
      sample_size: number of images on each side of every distance.
      repeats: number of draws for the interval.
      draws: the index of each draw. Sources measured on one scale at one sample size share their target images, see
        `index_difference`.
    """

    value: float
    low: float
    high: float
    distance: float
    floor: float
    ceiling: float
    sample_size: int
    repeats: int
    draws: tuple[float, ...] = ()


class IndexDifference(NamedTuple):
    """Difference of the shift indices of two sources, with its 95% interval over draws."""

    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Returns whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftScale:
    """Scale of one target, on which sources are measured: floors and ceilings are computed once, and shared by all sources.

    Every draw halves `2 n` images of the target. It compares half of the source's images, half of the noise's images, and the
    other half of the target with one half of the target: four sets of `n` images, so that the part of a distance that depends
    on the number of images is subtracted in the numerator and in the denominator. Draws come in pairs: the second draw uses the
    halves that the first did not use.

    The interval is the scatter over such halves: half of a sample, drawn without replacement, differs from the whole about as
    much as the whole differs from its distribution. (For indistinguishable sets it differs more: the interval is then wider
    than necessary.)

    Example:
      >>> import jax, numpy as np
      >>> target, other = np.random.default_rng(0).normal(size=(2, 400, 8))
      >>> scale = ShiftScale(target, 5 + other[:200] * 3, key=jax.random.key(0))
      >>> near, far = scale.index(other[200:]), scale.index(other[200:] + 2)
      >>> near.low < 0 < near.high < far.low, index_difference(far, near).shown
      (True, True)

    Attributes:
      target: features `[m, dim]` of the downstream images.
      noise: features `[k, dim]` of images of unstructured noise with the target's pixel values, see `noise_like`.
      key: PRNG key of the draws.
      distance: a name of `DISTANCES`, or a function of two sets of features of equal size.
      repeats: number of draws, an even number of at least 4.

    Raises:
      ValueError: features are not finite matrices of one dimension, there are too few images, or the distance is unknown.

    References:
      McCarthy, `Pseudo-Replication: Half Samples <https://doi.org/10.2307/1402381>`_, 1969
    """

    target: np.ndarray
    noise: np.ndarray
    key: jax.Array
    distance: str | Function = DEFAULT_DISTANCE
    repeats: int = 20

    def __post_init__(self):
        for side in ("target", "noise"):
            # Arrays on devices would be copied back in every draw.
            object.__setattr__(self, side, matrix(getattr(self, side)))
        require_one_dimension(self.target.shape[1], self.noise.shape[1])
        if self.repeats < 4 or self.repeats % 2:
            raise ValueError(f"A shift index needs an even number of draws of at least 4, got {self.repeats}.")
        if not callable(self.distance):
            distance_of(self.distance)

    def index(self, source: np.ndarray, *, sample_size: int | None = None) -> ShiftIndex:
        """Returns the shift index of a source.

        Args:
          source: features `[n, dim]` of its images.
          sample_size: images on each side of a distance; None: half of the smallest set of source, target and noise, at most
            2,500.

        Raises:
          ValueError: too few images, features that do not fit, or a target that is indistinguishable from noise.
        """
        source = matrix(source)
        require_one_dimension(source.shape[1], self.target.shape[1])
        size = self._size(len(source), sample_size)
        # Streams 0, 1 and 2 of the key draw target, source and noise: another source does not change the draws of the target.
        floors, ceilings = self._ends(size)
        distances = self._distances(source, self._halves(1, source, size), self._halves(0, self.target, size))
        span = ceilings - floors
        values = (distances - floors) / span
        low, high = _interval(values)
        # The ratio is averaged over draws: source, floor and ceiling of a draw share its half of the target.
        means = (float(each.mean()) for each in (distances, floors, ceilings))
        return ShiftIndex(float(values.mean()), low, high, *means, size, self.repeats, tuple(values.tolist()))

    def _size(self, source: int, asked: int | None) -> int:
        counts = {"source": source, "target": len(self.target), "noise": len(self.noise)}
        name = "" if callable(self.distance) else self.distance
        least = max(LEAST, distance_of(name).least if name else 0)
        size = min(min(counts.values()) // 2, MOST) if asked is None else asked
        if size < least or 2 * size > min(counts.values()):
            have = ", ".join(f"{count:,} of the {side}" for side, count in counts.items())
            needed = max(size, least)
            raise ValueError(
                f"A shift index {f'by {name} ' if name else ''}needs at least {2 * needed:,} images of source, target and "
                f"noise each ({needed:,} on each side of a distance, twice); there are {have}."
            )
        return size

    @functools.cached_property
    def _distance(self) -> Function:
        # Bound once, so that all sources are compared with the same ranges and random directions.
        return self.distance if callable(self.distance) else distance_of(self.distance).on(self.key, self.target, self.noise)

    def _distances(self, x: np.ndarray, parts: np.ndarray, halves: np.ndarray) -> np.ndarray:
        """Returns the distance of each part of x `[draws, n]` from the same draw's half of the target `[draws, n]`."""
        of_parts = None if callable(self.distance) else distance_of(self.distance).of_parts
        if of_parts:
            return of_parts(x, self.target, parts, halves)
        return np.array([self._distance(x[part], self.target[half]) for part, half in zip(parts, halves, strict=True)])

    def _halves(self, stream: int, features: np.ndarray, size: int) -> np.ndarray:
        """Returns the rows of each draw `[repeats, size]`; those of draws 2k and 2k + 1 are two halves of the same rows."""
        return _halves(self.key, stream, len(features), size, self.repeats)

    def _ends(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns floors and ceilings of every draw at a sample size."""
        # Floors and ceilings depend on the sample size, and a target with small sources has several.
        if size not in self._known:
            halves = self._halves(0, self.target, size)
            # A pair of draws swaps the two halves: their distance is the same.
            floors = np.repeat(self._distances(self.target, halves[1::2], halves[::2]), 2)
            ceilings = self._distances(self.noise, self._halves(2, self.noise, size), halves)
            span = ceilings - floors
            # With a span that is not clearly above 0, the index would divide by noise.
            if not span.mean() > 2 * span.std():
                alike = " since they are all alike" if np.ptp(np.asarray(self.target, float), axis=0).max() == 0 else ""
                raise ValueError(
                    f"The target's features are indistinguishable from noise by this distance and encoder{alike}: there is no "
                    f"scale. Use more than {size:,} images of each side, another encoder, or another distance."
                )
            self._known[size] = floors, ceilings
        return self._known[size]

    @functools.cached_property
    def _known(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}


def _halves(key: jax.Array, stream: int, count: int, size: int, repeats: int) -> np.ndarray:
    """Returns the rows of each draw; two draws in turn are disjoint halves of `2 * size` images that all draws share."""
    random = generator(jax.random.fold_in(key, stream))
    # Sources, target and noise are drawn once; the draws differ in how the same images are halved.
    rows = random.permutation(count)[: 2 * size]
    pairs = []
    for _ in range(repeats // 2):
        rows = random.permutation(rows)
        pairs.append(rows)
    return np.concatenate(pairs).reshape(repeats, size)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the 95% interval of the mean over other samples of images. Draws of a pair count as one degree of freedom."""
    half = special.stdtrit(len(values) / 2, 0.975) * values.std(ddof=1)
    return float(values.mean() - half), float(values.mean() + half)


def index_difference(a: ShiftIndex, b: ShiftIndex) -> IndexDifference:
    """Returns the difference of `a` and `b`, draw by draw against the same halves of the target.

    Raises:
      ValueError: the indices were not measured on one scale at one sample size.
    """
    if (a.sample_size, a.floor, a.ceiling, a.repeats) != (b.sample_size, b.floor, b.ceiling, b.repeats):
        raise ValueError("Only indices measured on one ShiftScale at one sample_size can be compared draw by draw.")
    values = np.subtract(a.draws, b.draws)
    return IndexDifference(float(values.mean()), *_interval(values))


def shift_index(
    source: np.ndarray,
    target: np.ndarray,
    *,
    key: jax.Array,
    noise: np.ndarray | None = None,
    distance: str | Function = DEFAULT_DISTANCE,
    repeats: int = 20,
    sample_size: int | None = None,
) -> ShiftIndex:
    """Returns (d(source, target) - d(target, target)) / (d(noise, target) - d(target, target)), all at equal sample sizes.

    For several sources of one target use `ShiftScale`, which this function makes once per call.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 4)) * [1, 2, 3, 4]
      >>> index = shift_index(x, y, key=jax.random.key(0), noise=x + 9)
      >>> index.low < 0 < index.high < 0.05
      True

    Args:
      source: features `[n, dim]` of the images trained on.
      target: features `[m, dim]` of the downstream images.
      key: PRNG key of the draws.
      noise: features `[k, dim]` of images of unstructured noise with the target's per-channel pixel statistics (see
        `noise_like`). None: each feature is drawn from a normal distribution of its own with the target's mean and deviation,
        which loses the structure and keeps the scale.
      distance: a name of `DISTANCES`, or a function of two sets of features of equal size.
      repeats: number of draws, an even number of at least 4.
      sample_size: images on each side of a distance; None: half of the smallest of the three sets, at most 2,500.

    Raises:
      ValueError: too few images, shapes that do not fit, or a target that is indistinguishable from noise.
    """
    target = matrix(target)
    if noise is None:
        # Stream 3: missing noise does not change the draws of target, source and noise.
        random = generator(jax.random.fold_in(key, 3))
        known = np.asarray(target, np.float64)
        noise = random.normal(known.mean(axis=0), known.std(axis=0), target.shape)
    return ShiftScale(target, noise, key, distance, repeats).index(source, sample_size=sample_size)


# Bootstrap replicates behind the interval of a rank correlation.
_REPLICATES = 2000


class Agreement(NamedTuple):
    """Agreement of indices of fewer images with the index of the most images.

    Attributes:
      agreeing: number of indices that agree.
      of: number of indices.
      largest: largest difference of any index.
    """

    agreeing: int
    of: int
    largest: float

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.agreeing + other.agreeing, self.of + other.of, max(self.largest, other.largest))


def agreement(fewer: Sequence[ShiftIndex], most: ShiftIndex) -> Agreement:
    """Returns the number of indices at fewer images that equal the index at the most images, within both 95% intervals.

    Example:
      >>> at = lambda value: ShiftIndex(value, value - 0.1, value + 0.1, 0, 0, 0, 100, 20)
      >>> agreement([at(0.5), at(0.8)], at(0.6))
      Agreement(agreeing=1, of=2, largest=0.2)
    """
    differences = [abs(each.value - most.value) for each in fewer]
    # Errors of two independent measurements add in quadrature.
    within = [np.hypot(each.high - each.value, most.high - most.value) for each in fewer]
    agreeing = sum(difference <= width for difference, width in zip(differences, within, strict=True))
    # Rounded, so that results that are equal up to rounding print equally.
    return Agreement(int(agreeing), len(fewer), round(float(max(differences)), 12))


class Steps(NamedTuple):
    """Steps of a series that should rise.

    Attributes:
      rising: number of steps that rise.
      falling: number of steps that fall by more than chance (paired, 95%).
      of: number of steps.
    """

    rising: int
    falling: int
    of: int

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(*(a + b for a, b in zip(self, other, strict=True)))


def steps(series: Sequence[ShiftIndex]) -> Steps:
    """Returns the steps of a series that should rise, such as corruptions of increasing severity; all on one `ShiftScale`."""
    differences = [index_difference(after, before) for before, after in itertools.pairwise(series)]
    return Steps(sum(each.value > 0 for each in differences), sum(each.high < 0 for each in differences), len(differences))


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
    with shape_error(
        f"A rank correlation needs at least four sources and losses [sources, seeds], got indices {index.shape} and losses "
        f"{losses.shape}."
    ):
        chex.assert_rank([index, losses], [1, 2])
        chex.assert_equal_shape_prefix([index, losses], 1)
        chex.assert_axis_dimension_gteq(index, 0, 4)
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
