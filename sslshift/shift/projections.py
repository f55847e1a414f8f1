"""A mergeable form of the sliced Wasserstein distance: histograms of random projections, with a bound of their error."""

import dataclasses

import jax
import numpy as np

from sslshift.shift._features import matrix, slices
from sslshift.shift._storage import Stored
from sslshift.shift.estimate import Estimate
from sslshift.shift.histograms import Histograms, Ranges
from sslshift.shift.sliced_wasserstein import coupling, over_directions, projected, random_directions, wasserstein_2


@dataclasses.dataclass(frozen=True, eq=False)
class Projections(Stored):
    """Histograms of features along random directions: memory is directions x bins, whatever the number of images.

    Ranges are learned once on a reference pool, by `Projections.ranges`; values outside count in the end bins. How far values
    lie from the middle of their bins is summed up on the way, which bounds the error, also of values outside.

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
      histograms: of the projections, `[directions, bins]`.
      displacement: for each direction the sum of squared distances of values from the middle of their bins.
    """

    histograms: Histograms
    displacement: np.ndarray

    @staticmethod
    def ranges(reference: np.ndarray, *, key: jax.Array, directions: int = 256, encoder: str = "") -> Ranges:
        """Of the projections of a reference pool `[n, dim]`; those of several pools, or parts of one, can be merged.

        Args:
          reference: features `[n, dim]`.
          key: PRNG key of the directions.
          directions: how many.
          encoder: name or fingerprint of the encoder.

        Raises:
          ValueError: features are not a finite matrix, or there is no direction.
        """
        reference = matrix(reference)
        axes = random_directions(key, reference.shape[1], directions)
        parts = [Ranges.of(projected(reference[rows], axes).T) for rows in slices(len(reference), sum(axes.shape))]
        return Ranges(
            np.min([part.minimum for part in parts], axis=0),
            np.max([part.maximum for part in parts], axis=0),
            _name(encoder, key, *axes.shape),
        )

    @classmethod
    def of(cls, features: np.ndarray, ranges: Ranges, *, key: jax.Array, bins: int = 1000, encoder: str = "") -> "Projections":
        """Of an array `[n, dim]`, read block by block.

        Args:
          features: `[n, dim]`.
          ranges: by `Projections.ranges`, with the same key and encoder.
          key: PRNG key of the directions.
          bins: of each histogram.
          encoder: name or fingerprint of the encoder.

        Raises:
          ValueError: the ranges are of another key, encoder or dimension, or features are not a finite matrix.
        """
        features = matrix(features)
        shape = features.shape[1], len(ranges.minimum)
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
            displacement += np.square(values.T - nearest).sum(axis=1)
        return cls(Histograms(counts, ranges), displacement)

    def merge(self, other: "Projections") -> "Projections":
        """Of both sets together."""
        return Projections(self.histograms.merge(other.histograms), self.displacement + other.displacement)

    @property
    def moved(self) -> np.ndarray:
        """Root mean square distance of values from the middle of their bins, `[directions]`."""
        return np.sqrt(self.displacement / self.histograms.count)


def sliced_wasserstein_of_projections(x: Projections, y: Projections) -> Estimate:
    """`sliced_wasserstein` from streamed projections, as if every value lay in the middle of its bin.

    Returns:
      The distance; its standard error over draws of directions; and how far it can be from the distance of the values
      themselves along the same directions: by the triangle inequality, no farther than both sides' values were moved.

    Raises:
      ValueError: ranges, bins, keys or encoders differ.
    """
    x.histograms.require_comparable(y.histograms)
    middles = _middles(x.histograms.ranges, x.histograms.counts.shape[1])
    sides = zip(middles, x.histograms.shares, y.histograms.shares, strict=True)
    distances = [wasserstein_2(values, values, *coupling(of_x, of_y)) for values, of_x, of_y in sides]
    return over_directions(np.array(distances), float((x.moved + y.moved).mean()))


def _middles(ranges: Ranges, bins: int) -> np.ndarray:
    """Of each bin, `[directions, bins]`."""
    width = (ranges.maximum - ranges.minimum) / bins
    return ranges.minimum[:, None] + width[:, None] * (np.arange(bins) + 0.5)


def _name(encoder: str, key: jax.Array, dim: int, directions: int) -> str:
    """What projections are of: those along other directions are like those of another encoder."""
    words = "-".join(map(str, np.asarray(jax.random.key_data(key)).ravel().tolist()))
    return f"{encoder}, {dim} dimensions on {directions} directions by key {words}"
