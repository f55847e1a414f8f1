"""The sliced Wasserstein distance: one-dimensional transport along random directions.

Its sketch `Projections` holds histograms of the projections, with a bound of their error.
"""

import dataclasses
import functools

import jax
import numpy as np

from sslshift.shift._base import AT_ONCE, Distance, DistanceEstimate, Stored, blocks, generator, matrix, pair, slices
from sslshift.shift.distances.visual_dna import Histograms, Ranges


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, *, key: jax.Array, directions: int = 256) -> float:
    """Returns the mean over random unit directions of the Wasserstein-2 distance between the two sets' projections.

    This is the mean of the distances, not the root of their mean square, which some libraries return and which is larger. It
    responds to differences of any kind, in the unit of the features. For few images it is above 0 even between samples of one
    distribution.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(100, 1))
      >>> round(sliced_wasserstein(x, x + 3, key=jax.random.key(0)), 6)
      3.0

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`; sizes may differ: quantile functions are compared, exactly.
      key: PRNG key of the directions.
      directions: number of directions.

    Returns:
      The distance in float64, the same for the same key and any order of rows.

    Raises:
      ValueError: shapes do not fit, features are not finite, or there is no direction.

    References:
      Bonneel et al., `Sliced and Radon Wasserstein Barycenters of Measures
      <https://doi.org/10.1007/s10851-014-0506-3>`_, 2015
    """
    return sliced_wasserstein_estimate(x, y, key=key, directions=directions).value


def sliced_wasserstein_estimate(x: np.ndarray, y: np.ndarray, *, key: jax.Array, directions: int = 256) -> DistanceEstimate:
    """Returns `sliced_wasserstein` with its standard error over draws of directions, which is NaN for a single direction.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(100, 8))
      >>> value, error, _ = sliced_wasserstein_estimate(x, x + 1, key=jax.random.key(0))
      >>> 0.02 < error / value < 0.08
      True

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`.
      key: PRNG key of the directions.
      directions: number of directions.

    Raises:
      ValueError: as by `sliced_wasserstein`.
    """
    return over_directions(_along_directions(x, y, key, directions))


def _along_directions(x: np.ndarray, y: np.ndarray, key: jax.Array, directions: int = 256) -> np.ndarray:
    """Returns the Wasserstein-2 distance along each direction `[directions]`."""
    x, y = pair(x, y, "A sliced Wasserstein distance", 1)
    axes = random_directions(key, x.shape[1], directions)
    # Projections of either side take 64 MiB at a time, unless a single direction needs more.
    width = max(1, 4 * AT_ONCE // max(len(x), len(y)))
    # The coupling depends on the two numbers of images alone, so that all directions share it.
    mass, *places = coupling(*(np.arange(1, len(each) + 1) / len(each) for each in (x, y)))
    distances = np.empty(directions)
    for start in range(0, directions, width):
        chosen = axes[:, start : start + width]
        left, right = (projected(each, chosen) for each in (x, y))
        left.sort(axis=1)
        right.sort(axis=1)
        for number, (a, b) in enumerate(zip(left, right, strict=True), start):
            distances[number] = wasserstein_2(a, b, mass, *places)
    return distances


def over_directions(distances: np.ndarray, bound: float = 0.0) -> DistanceEstimate:
    """Returns the mean and the Monte-Carlo error of distances `[directions]`."""
    # Directions are independent draws; the images are the same for all of them, and their error is not in here.
    error = distances.std(ddof=1) / np.sqrt(len(distances)) if len(distances) > 1 else np.nan
    return DistanceEstimate(float(distances.mean()), float(error), bound)


def random_directions(key: jax.Array, dim: int, directions: int) -> np.ndarray:
    """Returns unit vectors spread evenly over the sphere, float64 `[dim, directions]`."""
    if directions < 1:
        raise ValueError(f"A sliced Wasserstein distance needs at least one direction, not {directions}.")
    # Normal draws have no preferred direction. One row per direction: a longer list begins with the shorter one of the same
    # key.
    axes = generator(key).normal(size=(directions, dim)).T
    return axes / np.linalg.norm(axes, axis=0)


def projected(features: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Returns the projections of features onto axes `[dim, directions]`, `[directions, n]`."""
    values = np.empty((axes.shape[1], len(features)))
    done = 0
    for block in blocks(features):
        values[:, done : done + len(block)] = axes.T @ block.T
        done += len(block)
    return values


def coupling(shares_x: np.ndarray, shares_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the optimal transport in one dimension, from the cumulative shares at each sorted value of either side.

    Args:
      shares_x: cumulative shares, ascending to 1, `[a]`.
      shares_y: the same, `[b]`.

    Returns:
      (mass, place in x, place in y) of each piece that is moved, `[k]`.
    """
    # Between two neighbouring ends, either side has mass at one value only.
    ends = np.union1d(shares_x, shares_y)
    mass = np.diff(ends, prepend=0.0)
    return mass, *(np.searchsorted(shares, ends) for shares in (shares_x, shares_y))


def wasserstein_2(x: np.ndarray, y: np.ndarray, mass: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> float:
    """Returns the Wasserstein-2 distance between sorted values under a `coupling`."""
    return float(np.sqrt(mass @ np.square(x[in_x] - y[in_y])))


@dataclasses.dataclass(frozen=True, eq=False)
class Projections(Stored):
    """Histograms of features along random directions: memory is directions x bins, for any number of images.

    Ranges are learned once on a reference pool, by `Projections.ranges`; values outside count in the end bins. The distances of
    values from the middle of their bins are summed as they stream, which bounds the error, also of values outside.

    Example:
      >>> import jax, numpy as np
      >>> from sslshift.shift import sliced_wasserstein
      >>> x, y = np.random.default_rng(0).normal(size=(2, 1000, 4))
      >>> key = jax.random.key(0)
      >>> ranges = Projections.ranges(np.concatenate([x, y + 1]), key=key)
      >>> halves = [Projections.of(half, ranges, key=key) for half in (x[:500], x[500:])]
      >>> other = Projections.of(y + 1, ranges, key=key)
      >>> value, error, bound = sliced_wasserstein_of_projections(halves[0].merge(halves[1]), other)
      >>> bool(abs(value - sliced_wasserstein(x, y + 1, key=key)) < bound < 0.01)
      True

    Attributes:
      histograms: histograms of the projections, `[directions, bins]`.
      displacement: for each direction the sum of squared distances of values from the middle of their bins.
    """

    histograms: Histograms
    displacement: np.ndarray

    @staticmethod
    def ranges(reference: np.ndarray, *, key: jax.Array, directions: int = 256, encoder: str = "") -> Ranges:
        """Returns the ranges of the projections of a reference pool `[n, dim]`; those of several pools can be merged.

        Args:
          reference: features `[n, dim]`.
          key: PRNG key of the directions.
          directions: number of directions.
          encoder: name or fingerprint of the encoder.

        Raises:
          ValueError: features are not a finite matrix, or there is no direction.
        """
        reference = matrix(reference)
        axes = random_directions(key, reference.shape[1], directions)
        # A row takes memory for its features and for its projections.
        parts = [Ranges.of(projected(reference[rows], axes).T) for rows in slices(len(reference), sum(axes.shape))]
        return Ranges(
            np.min([part.minimum for part in parts], axis=0),
            np.max([part.maximum for part in parts], axis=0),
            _name(encoder, key, *axes.shape),
        )

    @classmethod
    def of(cls, features: np.ndarray, ranges: Ranges, *, key: jax.Array, bins: int = 1000, encoder: str = "") -> "Projections":
        """Returns the projections of an array `[n, dim]`, read block by block.

        Args:
          features: `[n, dim]`.
          ranges: by `Projections.ranges`, with the same key and encoder.
          key: PRNG key of the directions.
          bins: number of bins of each histogram.
          encoder: name or fingerprint of the encoder.

        Raises:
          ValueError: the ranges are of another key, encoder or dimension, or features are not a finite matrix.
        """
        features = matrix(features)
        shape = features.shape[1], len(ranges.minimum)
        # Projections by another key would be silently compared otherwise.
        name = _name(encoder, key, *shape)
        if name != ranges.encoder:
            raise ValueError(f"Ranges of {ranges.encoder!r} do not fit projections of {name!r}.")
        axes = random_directions(key, *shape)
        middles = _middles(ranges, bins)
        counts = 0
        displacement = np.zeros(shape[1])
        for rows in slices(len(features), sum(shape)):
            values = projected(features[rows], axes).T
            counts = counts + Histograms.of(values, ranges, bins=bins).counts
            nearest = np.take_along_axis(middles, ranges.place(values, bins).T, axis=1)
            # Values outside the ranges are moved to an end bin: they count with their whole distance, so that the bound stays
            # true.
            displacement += np.square(values.T - nearest).sum(axis=1)
        return cls(Histograms(counts, ranges), displacement)

    def merge(self, other: "Projections") -> "Projections":
        """Returns the projections of both sets together."""
        return Projections(self.histograms.merge(other.histograms), self.displacement + other.displacement)

    @property
    def moved(self) -> np.ndarray:
        """Returns the root mean square distance of values from the middle of their bins, `[directions]`."""
        return np.sqrt(self.displacement / self.histograms.count)


def sliced_wasserstein_of_projections(x: Projections, y: Projections) -> DistanceEstimate:
    """Returns `sliced_wasserstein` from streamed projections, as if every value were in the middle of its bin.

    Returns:
      The distance; its standard error over draws of directions; and a bound of its difference from the distance of the values
      themselves along the same directions: by the triangle inequality, at most the distance that the values of both sides were
      moved to the middle of their bins.

    Raises:
      ValueError: ranges, bins, keys or encoders differ.
    """
    x.histograms.require_comparable(y.histograms)
    middles = _middles(x.histograms.ranges, x.histograms.counts.shape[1])
    sides = zip(middles, x.histograms.shares, y.histograms.shares, strict=True)
    distances = [wasserstein_2(values, values, *coupling(of_x, of_y)) for values, of_x, of_y in sides]
    return over_directions(np.array(distances), float((x.moved + y.moved).mean()))


def _middles(ranges: Ranges, bins: int) -> np.ndarray:
    """Returns the middle of each bin, `[directions, bins]`."""
    width = (ranges.maximum - ranges.minimum) / bins
    return ranges.minimum[:, None] + width[:, None] * (np.arange(bins) + 0.5)


def _name(encoder: str, key: jax.Array, dim: int, directions: int) -> str:
    """Returns a name of these projections: projections along other directions count as those of another encoder."""
    words = "-".join(map(str, np.asarray(jax.random.key_data(key)).ravel().tolist()))
    return f"{encoder}, {dim} dimensions on {directions} directions by key {words}"


def _mean_square(x: np.ndarray, y: np.ndarray, key: jax.Array) -> float:
    """Returns the mean over directions of the squared distances: what few images add to a distance is added to its square."""
    return float(np.square(_along_directions(x, y, key)).mean())


def _spreads(x: np.ndarray, parts: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns the mean over directions of the squared distance between two images of each part."""
    axes = random_directions(key, x.shape[1], 256)
    # Two independent draws differ by twice the variance in the mean of squares.
    return np.array([2 * projected(x[part], axes).var(axis=1, ddof=1).mean() for part in parts])


SLICED_WASSERSTEIN = Distance(
    "sliced Wasserstein",
    1,
    "mean over random directions; its floor falls with the square root of n",
    lambda key, pool: functools.partial(sliced_wasserstein, key=key),
    squared=lambda key, pool: functools.partial(_mean_square, key=key),
    spread=lambda key, pool: functools.partial(_spreads, key=key),
)
