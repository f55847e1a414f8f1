"""The VisualDNA distance: how far the distributions of single neurons have moved, and its sketch.

The sketch is one histogram for each neuron with 64-bit counts, which stream and merge over hosts exactly.
"""

import dataclasses
import functools
from collections.abc import Sequence

import chex
import numpy as np

from sslshift.shift._base import (
    AT_ONCE,
    Distance,
    Stored,
    blocks,
    float64,
    matrix,
    pair,
    require_one_dimension,
    require_one_encoder,
    shape_error,
    tiles,
)

# Numbers at a time for computations of many passes: 128 KiB stay in the processor's cache.
_IN_CACHE = 1 << 14


@dataclasses.dataclass(frozen=True, eq=False)
class Ranges(Stored):
    """The least and the greatest value of each neuron, learned once on a reference pool and kept with every histogram.

    `save(path)` and `Ranges.load(path)` keep ranges in a file.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges.of(np.array([[0.0, 5.0]])).merge(Ranges.of(np.array([[2.0, 4.0]])))
      >>> ranges.minimum.tolist(), ranges.maximum.tolist()
      ([0.0, 4.0], [2.0, 5.0])

    Attributes:
      minimum, maximum: float64 `[dim]`.
      encoder: name or fingerprint of the encoder of these neurons, such as `PretrainedEncoder.fingerprint`.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    encoder: str = ""

    def __post_init__(self):
        low = np.asarray(self.minimum)
        high = np.asarray(self.maximum)
        sentence = (
            "Expected finite minima [dim] and maxima [dim], no maximum below its minimum; got arrays of shapes "
            f"{low.shape} and {high.shape}."
        )
        with shape_error(sentence):
            chex.assert_rank([low, high], 1)
            chex.assert_equal_shape([low, high])
        if not np.isfinite([low, high]).all() or (low > high).any():
            raise ValueError(sentence)

    @classmethod
    def of(cls, features: np.ndarray, *, encoder: str = "") -> "Ranges":
        """Returns the ranges of an array `[n, dim]`, read block by block.

        Raises:
          ValueError: not a matrix, empty, or not finite.
        """
        features = matrix(features)
        extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks(features)]
        lows, highs = zip(*extremes, strict=True)
        return cls(np.min(lows, axis=0), np.max(highs, axis=0), encoder)

    def merge(self, other: "Ranges") -> "Ranges":
        """Returns the ranges of both pools together."""
        require_one_encoder(self.encoder, other.encoder)
        require_one_dimension(len(self.minimum), len(other.minimum))
        return Ranges(np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum), self.encoder)

    def require_same(self, other: "Ranges") -> None:
        """Raises ValueError unless encoder, neurons and ranges are the same."""
        require_one_encoder(self.encoder, other.encoder)
        require_one_dimension(len(self.minimum), len(other.minimum))
        if not (np.array_equal(self.minimum, other.minimum) and np.array_equal(self.maximum, other.maximum)):
            raise ValueError("Histograms over different ranges cannot be compared; make both with the same Ranges.")

    def place(self, block: np.ndarray, bins: int) -> np.ndarray:
        """Returns the bin of every value, int64 of the block's shape. Values outside are in the end bins, and those of constant
        neurons in the first bin.

        A value on an edge of `np.linspace(minimum, maximum, bins + 1)` counts in the bin above it, as with `np.histogram`.
        """
        places = np.empty(block.shape, np.int64)
        width = self.maximum - self.minimum
        doubt = self._doubt(width, bins)
        # A few rows at a time stay in the processor's cache.
        for rows in tiles(len(block), max(1, _IN_CACHE // len(width))):
            places[rows] = self._place(block[rows], width, bins, doubt)
        return places

    def _place(self, block: np.ndarray, width: np.ndarray, bins: int, doubt: np.ndarray) -> np.ndarray:
        # A value far outside a very narrow range may be infinitely many widths away: it counts in an end bin as well.
        with np.errstate(over="ignore"):
            where = (block - self.minimum) / np.where(width > 0, width, np.inf)
            where *= bins
        # Values outside get half a bin's distance from the edge, so that they are not compared with it again below.
        places = np.clip(where, -0.5, bins - 0.5, out=where).astype(np.int64)
        # Where rounding could decide, values are compared with the edge itself. There is no bin below the first edge.
        edges = np.maximum(np.rint(where), 1)
        where -= edges
        row, neuron = np.nonzero(np.abs(where, out=where) <= doubt)
        edge = edges[row, neuron]
        places[row, neuron] = edge - (block[row, neuron] < edge * (width[neuron] / bins) + self.minimum[neuron])
        return places

    def _doubt(self, width: np.ndarray, bins: int) -> np.ndarray:
        """Returns the largest distance from an edge, in bins, that rounding can move values and edges, `[dim]`."""
        largest = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        relative = 1 + np.divide(largest, width, out=np.zeros_like(width), where=width > 0)
        # A quarter of a bin at most: every value is near one edge only.
        return np.minimum(8 * np.finfo(np.float64).eps * bins * relative, 0.25)


@dataclasses.dataclass(frozen=True, eq=False)
class Histograms(Stored):
    """Counts of each neuron's values in each of its bins.

    To count every position of a feature map as a sample, make it a row: `features.reshape(-1, channels)`. `save(path)` and
    `Histograms.load(path)` keep histograms, with their ranges, in a file.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges(np.array([0.0]), np.array([1.0]))
      >>> parts = [Histograms.of(np.array(values)[:, None], ranges, bins=4) for values in ([0.0, 0.3], [0.9, 7.0])]
      >>> parts[0].merge(parts[1]).counts.tolist()
      [[1, 1, 0, 2]]

    Attributes:
      counts: int64 `[dim, bins]`.
      ranges: ranges of the neurons, which the bins divide evenly.
    """

    counts: np.ndarray
    ranges: Ranges

    def __post_init__(self):
        counts = np.asarray(self.counts)
        dim = len(self.ranges.minimum)
        with shape_error(f"Expected int64 counts [dim, bins] for {dim} neurons, got {counts.dtype} of shape {counts.shape}."):
            chex.assert_shape(counts, (dim, None))
            chex.assert_axis_dimension_gteq(counts, 1, 1)
            chex.assert_type(counts, np.int64)

    @classmethod
    def of(cls, features: np.ndarray, ranges: Ranges, *, bins: int = 1000, encoder: str | None = None) -> "Histograms":
        """Returns the histograms of an array `[n, dim]`, read block by block.

        Args:
          features: `[n, dim]`.
          ranges: ranges of the same neurons.
          bins: number of bins of each neuron.
          encoder: name or fingerprint of the encoder of the features; None: the encoder of the ranges, unchecked.

        Raises:
          ValueError: the ranges are of other neurons, or the features are not a finite matrix.
        """
        features = matrix(features)
        if encoder is not None:
            require_one_encoder(encoder, ranges.encoder)
        dim = features.shape[1]
        if dim != len(ranges.minimum):
            raise ValueError(f"Ranges of {len(ranges.minimum)} neurons do not fit features of {dim} dimensions.")
        if bins < 1:
            raise ValueError(f"A histogram needs at least one bin, not {bins}.")
        counts = np.zeros(dim * bins, np.int64)
        first = np.arange(dim) * bins
        # Each block adds to all bins: blocks of fewer values than bins would spend their time on that.
        for rows in tiles(len(features), max(bins, AT_ONCE // dim)):
            # One flat count for all neurons: a histogram per neuron would read the block once for each.
            counts += np.bincount((ranges.place(float64(features, rows), bins) + first).ravel(), minlength=dim * bins)
        return cls(counts.reshape(dim, bins), ranges)

    def merge(self, other: "Histograms") -> "Histograms":
        """Returns the histograms of both sets together."""
        self.require_comparable(other)
        return Histograms(self.counts + other.counts, self.ranges)

    @property
    def count(self) -> int:
        """Returns the number of rows counted."""
        # Every row counts once for each neuron, so that any neuron has the number.
        return int(self.counts[0].sum())

    @property
    def shares(self) -> np.ndarray:
        """Returns the share of the values in each bin or one below it, `[dim, bins]`."""
        return self.counts.cumsum(axis=1) / self.count

    def require_comparable(self, other: "Histograms | HistogramMixture") -> None:
        """Raises ValueError unless encoder, neurons, ranges and bins are the same."""
        _require_comparable(self.ranges, self.counts, other)


@dataclasses.dataclass(frozen=True, eq=False)
class HistogramMixture(Stored):
    """Histograms of a mixture of distributions in planned shares, as `mixture_histograms` returns them, for the same distances.

    It has no counts: the shares of a plan differ from those of the images that its components were measured on.

    Attributes:
      shares: share of the mixture's values in each bin or one below it, float64 `[dim, bins]`.
      ranges: ranges of the neurons, which the bins divide evenly.
    """

    shares: np.ndarray
    ranges: Ranges

    def require_comparable(self, other: "Histograms | HistogramMixture") -> None:
        """Raises ValueError unless encoder, neurons, ranges and bins are the same."""
        _require_comparable(self.ranges, self.shares, other)


def _require_comparable(ranges: Ranges, bins: np.ndarray, other: Histograms | HistogramMixture) -> None:
    ranges.require_same(other.ranges)
    others = other.counts if isinstance(other, Histograms) else other.shares
    if bins.shape != others.shape:
        raise ValueError(f"Histograms of {bins.shape[1]} and {others.shape[1]} bins cannot be compared.")


def visual_dna_distance(x: np.ndarray, y: np.ndarray, *, ranges: Ranges | None = None, bins: int = 1000) -> float:
    """Returns the earth mover's distance between each neuron's histograms, in bins, averaged over the neurons.

    The distance scales with the number of bins: times 2 / bins it is the Wasserstein-1 distance of values scaled to [-1, 1].
    For few images it is above 0 even between samples of one distribution, and falls as 1 / sqrt(n): compare sets of equal size.
    It does not depend on dependencies between neurons.

    Example:
      >>> import numpy as np
      >>> x = np.array([[0.0, 7.0], [1.0, 7.0]])
      >>> visual_dna_distance(x, x[:1], bins=10)  # half of the first neuron's values moves by 9 bins; the second is constant
      2.25

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`.
      ranges: ranges of the neurons, which the bins divide evenly; values outside count in the end bins. None: the joint minimum
        and maximum of the two sets, which makes distances between different sets incomparable.
      bins: number of bins of each histogram.

    Returns:
      Sum over the bins of |cumulative share of x - cumulative share of y|, averaged over the neurons. A constant neuron adds 0.

    Raises:
      ValueError: shapes do not fit, or features are not finite.

    References:
      Ramtoula et al., `Visual DNA: Representing and Comparing Images using Distributions of Neuron Activations
      <https://arxiv.org/abs/2304.10036>`_, 2023
    """
    x, y = pair(x, y, "A VisualDNA distance", 1)
    if ranges is None:
        ranges = Ranges.of(x).merge(Ranges.of(y))
    return visual_dna_distance_of_histograms(*(Histograms.of(each, ranges, bins=bins) for each in (x, y)))


def visual_dna_distance_of_histograms(x: Histograms | HistogramMixture, y: Histograms | HistogramMixture) -> float:
    """Returns `visual_dna_distance` from streamed histograms over the same ranges, equal however the images were split.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges(np.array([0.0]), np.array([1.0]))
      >>> near, far, other = (Histograms.of(np.array([[value]]), ranges, bins=4) for value in (0.1, 0.9, 0.1))
      >>> visual_dna_distance_of_histograms(near.merge(far), other)  # half of the values moves 3 bins
      1.5

    Raises:
      ValueError: ranges, bins or encoders differ.
    """
    return float(visual_dna_distances(x, y).mean())


def visual_dna_distances(x: Histograms | HistogramMixture, y: Histograms | HistogramMixture) -> np.ndarray:
    """Returns the distance of each neuron, in bins, float64 `[dim]`, which shows the neurons in which the two sets differ.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges(np.array([0.0, 0.0]), np.array([1.0, 1.0]))
      >>> x, y = (Histograms.of(np.array([values]), ranges, bins=4) for values in ([0.1, 0.1], [0.1, 0.9]))
      >>> visual_dna_distances(x, y).tolist()
      [0.0, 3.0]

    Raises:
      ValueError: ranges, bins or encoders differ.
    """
    x.require_comparable(y)
    # In one dimension the earth mover's distance is the area between the cumulative distributions.
    return np.abs(x.shares - y.shares).sum(axis=1)


def _ranges_of(pool: Sequence[np.ndarray]) -> Ranges | None:
    # Ranges of each pair alone would make distances to different sources incomparable.
    return functools.reduce(Ranges.merge, map(Ranges.of, pool)) if pool else None


def _steady_ranges(pool: Sequence[np.ndarray]) -> Ranges:
    """Returns ranges of four standard deviations about the mean of each set of a pool.

    The least and the greatest value grow with the number of images, and differ much between samples: neurons would get other
    weights in every sample.
    """
    parts = []
    for features in pool:
        mean = sum(block.sum(axis=0) for block in blocks(features)) / len(features)
        spread = 4 * np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in blocks(features)) / len(features))
        parts.append(Ranges(mean - spread, mean + spread))
    return functools.reduce(Ranges.merge, parts)


def _mean_square(x: np.ndarray, y: np.ndarray, ranges: Ranges) -> float:
    """Returns the mean over neurons of their squared distances: what few images add to a neuron is added to its square."""
    return float(np.square(visual_dna_distances(*(Histograms.of(each, ranges) for each in (x, y)))).mean())


def _spreads(x: np.ndarray, parts: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Returns the mean over neurons of the squared distance between two images of each part."""
    # Two independent draws differ by twice the variance in the mean of squares.
    return np.array([2 * ranges.place(float64(x[part], slice(None)), 1000).var(axis=0, ddof=1).mean() for part in parts])


VISUAL_DNA = Distance(
    "VisualDNA",
    1,
    "in bins, mean over features, each seen alone; its floor falls with the square root of n; halfway is half",
    lambda key, pool: functools.partial(visual_dna_distance, ranges=_ranges_of(pool)),
    squared=lambda key, pool: functools.partial(_mean_square, ranges=_steady_ranges(pool)),
    spread=lambda key, pool: functools.partial(_spreads, ranges=_steady_ranges(pool)),
)
