"""The shift index, a distance on a readable scale from 0, another sample of the target, to a far end.

`FAR_ENDS` has the definitions of the far end. `ShiftScale` measures several sources of one target on one scale.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

from sslshift.shift._base import Ratio, Spread, generator, matrix, require_one_dimension, signed_root
from sslshift.shift.distances import INDEX_DISTANCES, Distance, Function, index_distance

# Several distances are steady from 200 to 5,000 images (see the calibration in experiments/README.md). Of these, this one is
# linear in a mixture: if half of a source's images come from the target, the source is half as far away.
DEFAULT_DISTANCE = "kernel_root"
# The end of the scale at 0 in words, for every text about it.
NEAR_END = "another sample of the target"
SEPARATION = "separation"
NOISE = "noise"
# The end at 1 in words, by its name. Complete separation needs no reference images, so that the index does not depend on how
# an encoder sees them; the calibration in experiments/README.md compares the two.
FAR_ENDS = {SEPARATION: "complete separation from the target", NOISE: "unstructured noise"}
# A source is near if its whole interval lies below the first value, and far if it lies above the second.
NEAR_UP_TO = 0.25
FAR_FROM = 0.5
# With fewer images on each side of a distance, halves of a sample hardly show its scatter.
LEAST = 10
# Images on each side above which the interval no longer changes visibly, while the time of a kernel distance is quadratic.
MOST = 2500


class ShiftIndex(NamedTuple):
    """Distance of a source from a target: 0 = another sample of the target, 1 = the far end of its `ShiftScale`.

    Attributes:
      value: the index.
      low, high: 95% interval over samples of the images.
      distance: distance from the source to the target, mean over the draws.
      floor: distance between two disjoint halves of the target, mean over the draws.
      ceiling: the distance, without what few images cause, that the index is a share of: that from noise to the target; or with
        `separation` the root of the sum of the squared distance from the source and the mean squared distances between two
        images of either set. Mean over the draws.
      sample_size: number of images on each side of every distance.
      repeats: number of draws for the interval.
      draws: replicates of the index, with the scatter of its values over other samples of images. Sources measured on one scale
        at one sample size share their target images, see `index_difference`.
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
    """Difference of the shift indices of two sources, with its 95% interval over images.

    Attributes:
      value: the difference.
      low, high: ends of the interval.
      p_value: two-sided p-value of the hypothesis that the difference is 0; below 0.05 if the interval excludes 0.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def shown(self) -> bool:
        """Returns whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftScale:
    """Scale of one target, on which sources are measured: floors and ceilings are computed once, and shared by all sources.

    Every draw halves `2 n` images of the target and of the source, so that all distances are between sets of `n` images. Draws
    come in pairs: the second draw uses the halves that the first did not use. The part of a distance that few images cause is
    the mean of the distances between the two halves of either side, and is subtracted, unless the distance is unbiased. With
    squares s of the distances (of a distance that is itself squared, the distances) without that part, and with the mean
    square w between two different images of one set, the index is the signed root of r (r itself, if no squares were taken):

        separation:  r = s(source, target) / (s(source, target) + w(target) + w(source))
        noise:       r = s(source, target) / s(noise, target)

    Separation is 0 if both sets have one distribution, and 1 if the images of either set are alike in comparison with the
    distance between the sets. It is unchanged if all features are multiplied by a number, needs no images but those of source
    and target, and cannot exceed 1. The distance from noise depends on how an encoder sees noise: a source with other colours
    than the target may be several times as far.

    The variance of r over samples of images is measured within pairs of draws, where the part of r that is linear in the images
    counts once, as it should, and its quadratic part, which decides for near sources, twice. The means of pairs differ by the
    quadratic part alone. The variance grows with the distance: the lower end of the interval therefore uses the variance
    without what differs between pairs, and the upper end the variance within pairs as it would be at that end.

    Example:
      >>> import jax, numpy as np
      >>> target, other = np.random.default_rng(0).normal(size=(2, 400, 8))
      >>> scale = ShiftScale(target, None, jax.random.key(0))
      >>> near, far = scale.index(other), scale.index(other + 2)
      >>> near.low < 0 < near.high < far.low, index_difference(far, near).shown
      (True, True)

    Attributes:
      target: features `[m, dim]` of the downstream images.
      noise: features `[k, dim]` of images of unstructured noise with the target's pixel values, see `noise_like`; None: there
        are none, which only a far end of that name needs. Distances that need ranges of features take them from both.
      key: PRNG key of the draws.
      distance: a name of `DISTANCES`; or, with noise as the far end, a function of two sets of features of equal size.
      repeats: number of draws, an even number of at least 4.
      far_end: a name of `FAR_ENDS`.

    Raises:
      ValueError: features are not finite matrices of one dimension, there are too few images, the distance or the far end is
        unknown, or the far end needs noise or a distance by name.

    References:
      McCarthy, `Pseudo-Replication: Half Samples <https://doi.org/10.2307/1402381>`_, 1969
      Efron & Stein, `The Jackknife Estimate of Variance <https://doi.org/10.1214/aos/1176345462>`_, 1981
    """

    target: np.ndarray
    noise: np.ndarray | None
    key: jax.Array
    distance: str | Function = DEFAULT_DISTANCE
    repeats: int = 40
    far_end: str = SEPARATION

    def __post_init__(self):
        # Arrays on devices would be copied back in every draw.
        object.__setattr__(self, "target", matrix(self.target))
        if self.noise is not None:
            object.__setattr__(self, "noise", matrix(self.noise))
            require_one_dimension(self.target.shape[1], self.noise.shape[1])
        require_far_end(self.far_end)
        if self.far_end == NOISE and self.noise is None:
            raise ValueError("A scale from the target to noise needs the features of noise images.")
        if self.far_end == SEPARATION and callable(self.distance):
            raise ValueError(
                "A scale of separation needs distances between single images, which only a distance by name has. Expected one "
                f"of {', '.join(INDEX_DISTANCES)}, got a function. Use its name, or far_end='noise' with features of noise."
            )
        if self.repeats < 4 or self.repeats % 2:
            raise ValueError(f"A shift index needs an even number of draws of at least 4, got {self.repeats}.")
        if not callable(self.distance):
            index_distance(self.distance)

    def index(self, source: np.ndarray, *, sample_size: int | None = None) -> ShiftIndex:
        """Returns the shift index of a source.

        Args:
          source: features `[n, dim]` of its images.
          sample_size: images on each side of a distance; None: half of the smallest set that the scale compares, at most
            2,500.

        Raises:
          ValueError: too few images, features that do not fit, or no scale: all images are alike, or the target is
            indistinguishable from noise.
        """
        source = matrix(source)
        require_one_dimension(source.shape[1], self.target.shape[1])
        size = self._size(len(source), sample_size)
        ends = self._ends(size)
        # Streams 0, 1 and 2 of the key draw target, source and noise: another source does not change the draws of the target.
        halves = self._halves(1, source, size)
        squares = self._squares(ends.bound, source, self.target, halves, self._halves(0, self.target, size))
        corrected = squares - self._few_images(ends.bound, source, halves, ends.floor)
        separating = self.far_end == SEPARATION
        whole = corrected + ends.whole + self._spreads(ends.bound, source, halves) if separating else ends.whole
        ratio = Ratio.of_draws(corrected, whole)
        # By definition nothing is farther than complete separation.
        low, high = np.minimum(ratio.interval, 1.0) if separating else ratio.interval
        replicates = np.stack([ratio.value + ratio.deviations, ratio.value - ratio.deviations], axis=1).ravel()
        # The root is monotone, so that the ends of the interval of the ratio are those of the index.
        root = signed_root if self._kind.squared else float
        numbers = map(root, (ratio.value, low, high, squares.mean(), ends.floor, whole.mean()))
        return ShiftIndex(*numbers, size, self.repeats, tuple(map(root, replicates)))

    def _size(self, source: int, asked: int | None) -> int:
        counts = {"source": source, "target": len(self.target)}
        if self.far_end == NOISE:
            counts["noise"] = len(self.noise)
        name = "" if callable(self.distance) else self.distance
        least = max(LEAST, self._kind.least)
        size = min(min(counts.values()) // 2, MOST) if asked is None else asked
        if size < least or 2 * size > min(counts.values()):
            have = ", ".join(f"{count:,} of the {side}" for side, count in counts.items())
            needed = max(size, least)
            raise ValueError(
                f"A shift index {f'by {name} ' if name else ''}needs at least {2 * needed:,} images of "
                f"{', '.join(list(counts)[:-1])} and {list(counts)[-1]} each; there are {have}."
            )
        return size

    @functools.cached_property
    def _kind(self) -> Distance:
        if callable(self.distance):
            function = self.distance
            return Distance("", 0, "", lambda key, pool: function)
        return index_distance(self.distance)

    def _functions(self, size: int) -> list["_Bound"]:
        """Returns the distance for each draw; all sources share them."""
        # Random directions, and the ranges of features, differ between draws: the interval covers their choice.
        keys = [jax.random.fold_in(self.key, 4 + draw) for draw in range(self.repeats)]
        pools = [[self.target[half]] for half in self._halves(0, self.target, size)]
        if self.noise is not None:
            for pool, half in zip(pools, self._halves(2, self.noise, min(size, len(self.noise) // 2)), strict=True):
                pool.append(self.noise[half])
        bind = self._kind.squared or self._kind.bind
        spread = self._kind.spread or (lambda key, pool: None)
        return [_Bound(bind(key, pool), spread(key, pool)) for key, pool in zip(keys, pools, strict=True)]

    def _squares(
        self, bound: Sequence["_Bound"], x: np.ndarray, y: np.ndarray, parts: np.ndarray, halves: np.ndarray
    ) -> np.ndarray:
        """Returns the number of each part of x `[draws, n]` and the same draw's part of y `[draws, n]`, squared if possible."""
        if self._kind.of_parts:
            return self._kind.of_parts(x, y, parts, halves)
        draws = zip(bound, parts, halves, strict=True)
        return np.array([each.function(x[part], y[half]) for each, part, half in draws])

    def _spreads(self, bound: Sequence["_Bound"], x: np.ndarray, halves: np.ndarray) -> np.ndarray:
        """Returns the mean number between two images of each draw's half of a set `[draws]`."""
        if self._kind.of_parts:
            return self._kind.spread(self.key, ())(x, halves)
        return np.concatenate([each.spread(x, half[None]) for each, half in zip(bound, halves, strict=True)])

    def _between_halves(self, bound: Sequence["_Bound"], x: np.ndarray, halves: np.ndarray) -> float:
        """Returns the mean of the numbers of the two halves of a set."""
        # A pair of draws swaps the two halves, which have the same distance.
        return float(self._squares(bound[::2], x, x, halves[::2], halves[1::2]).mean())

    def _few_images(self, bound: Sequence["_Bound"], x: np.ndarray, halves: np.ndarray, floor: float) -> float:
        """Returns the part of the numbers of x and the target that few images cause."""
        return 0.0 if self._kind.unbiased else (floor + self._between_halves(bound, x, halves)) / 2

    def _halves(self, stream: int, features: np.ndarray, size: int) -> np.ndarray:
        """Returns the rows of each draw `[repeats, size]`; those of draws 2k and 2k + 1 are two halves of the same rows."""
        return halves_of(self.key, stream, len(features), size, self.repeats)

    def _ends(self, size: int) -> "_Ends":
        """Returns the ends of the scale at a sample size."""
        # They depend on the sample size, and a target with small sources has several.
        if size not in self._known:
            bound = () if self._kind.of_parts else self._functions(size)
            halves = self._halves(0, self.target, size)
            floor = self._between_halves(bound, self.target, halves)
            separating = self.far_end == SEPARATION
            whole = self._spreads(bound, self.target, halves) if separating else self._to_noise(bound, halves, floor)
            if separating and not whole.mean() > 0:
                raise ValueError(
                    "The target's features do not differ between its images, since they are all alike: there is no scale. Use "
                    "other images or another encoder."
                )
            self._known[size] = _Ends(bound, floor, whole)
        return self._known[size]

    def _to_noise(self, bound: Sequence["_Bound"], halves: np.ndarray, floor: float) -> np.ndarray:
        """Returns the number of the noise and the target of each draw, without the part that few images cause."""
        size = halves.shape[1]
        of_noise = self._halves(2, self.noise, size)
        squares = self._squares(bound, self.noise, self.target, of_noise, halves)
        numbers = squares - self._few_images(bound, self.noise, of_noise, floor)
        # With a scale that is not clearly above 0, the index would divide by noise.
        if not numbers.mean() > 2 * numbers.std():
            alike = " since they are all alike" if np.ptp(np.asarray(self.target, float), axis=0).max() == 0 else ""
            raise ValueError(
                f"The target's features are indistinguishable from {FAR_ENDS[NOISE]} by this distance and encoder{alike}: "
                f"there is no scale. Use more than {2 * size:,} images of each set, another encoder, or another distance."
            )
        return numbers

    @functools.cached_property
    def _known(self) -> dict[int, "_Ends"]:
        return {}


class _Bound(NamedTuple):
    """A distance and the spread of a set, in the units of one draw."""

    function: Function
    spread: Spread | None


class _Ends(NamedTuple):
    """The part of a scale that all sources share, in squares where the index is formed from squares.

    Attributes:
      bound: distance for each draw; empty if the distance takes all draws at once.
      floor: mean over draws of the distance between halves of the target.
      whole: of each draw, the target's part of what the index is a share of: the distance from noise, or the spread.
    """

    bound: Sequence[_Bound]
    floor: float
    whole: np.ndarray


def halves_of(key: jax.Array, stream: int, count: int, size: int, repeats: int) -> np.ndarray:
    """Returns the rows of each draw `[repeats, size]`; two draws in turn are disjoint halves of `2 * size` shared images."""
    random = generator(jax.random.fold_in(key, stream))
    # Sources, target and noise are drawn once; the draws differ in how the same images are halved.
    rows = random.permutation(count)[: 2 * size]
    pairs = []
    for _ in range(repeats // 2):
        rows = random.permutation(rows)
        pairs.append(rows)
    return np.concatenate(pairs).reshape(repeats, size)


def require_far_end(name: str) -> None:
    """Raises ValueError if there is no far end of this name."""
    if name not in FAR_ENDS:
        raise ValueError(f"Expected one of {', '.join(FAR_ENDS)} as the far end of the shift index, got {name!r}.")


def index_difference(a: ShiftIndex, b: ShiftIndex) -> IndexDifference:
    """Returns the difference of `a` and `b`, draw by draw against the same halves of the target.

    Raises:
      ValueError: the indices were not measured on one scale at one sample size.
    """
    if (a.sample_size, a.floor, a.repeats) != (b.sample_size, b.floor, b.repeats):
        raise ValueError("Only indices measured on one ShiftScale at one sample_size can be compared draw by draw.")
    first, second = np.subtract(a.draws, b.draws).reshape(-1, 2).T
    value = a.value - b.value
    error = float(np.sqrt(np.square((first - second) / 2).mean()))
    half = float(special.stdtrit(len(first), 0.975)) * error
    # A source that is compared with itself differs by nothing.
    p_value = float(2 * special.stdtr(len(first), -abs(value) / error)) if error else float(value == 0)
    return IndexDifference(value, value - half, value + half, p_value)


def shift_index(
    source: np.ndarray,
    target: np.ndarray,
    *,
    key: jax.Array,
    noise: np.ndarray | None = None,
    distance: str | Function = DEFAULT_DISTANCE,
    repeats: int = 40,
    sample_size: int | None = None,
    far_end: str = SEPARATION,
) -> ShiftIndex:
    """Returns the distance of a source from a target on a scale from another sample of the target (0) to a far end (1).

    For several sources of one target use `ShiftScale`, which this function makes once per call.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(1).normal(size=(2, 300, 4)) * [1, 2, 3, 4]
      >>> index = shift_index(x, y, key=jax.random.key(0))
      >>> index.low < 0 < index.high < 0.2
      True

    Args:
      source: features `[n, dim]` of the images trained on.
      target: features `[m, dim]` of the downstream images.
      key: PRNG key of the draws.
      noise: with noise as the far end, features `[k, dim]` of images of unstructured noise with the target's per-channel pixel
        statistics (see `noise_like`). None: each feature is drawn from a normal distribution of its own with the target's mean
        and deviation, which loses the structure and keeps the scale.
      distance: a name of `DISTANCES`, or a function of two sets of features of equal size.
      repeats: number of draws, an even number of at least 4.
      sample_size: images on each side of a distance; None: half of the smallest set that the scale compares, at most 2,500.
      far_end: the meaning of 1, a name of `FAR_ENDS`, see `ShiftScale`.

    Raises:
      ValueError: too few images, shapes that do not fit, or no scale, see `ShiftScale`.
    """
    target = matrix(target)
    if noise is None and far_end == NOISE:
        # Stream 3: missing noise does not change the draws of target, source and noise.
        random = generator(jax.random.fold_in(key, 3))
        known = np.asarray(target, np.float64)
        noise = random.normal(known.mean(axis=0), known.std(axis=0), target.shape)
    return ShiftScale(target, noise, key, distance, repeats, far_end).index(source, sample_size=sample_size)
