"""The kernel distance (KID): an unbiased squared MMD under a cubic polynomial kernel, and its sketch.

Sums of kernel matrices are computed tile by tile, so that no matrix `[n, n]` is ever held.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import numpy as np

from sslshift.shift._base import (
    Distance,
    DistanceEstimate,
    Stored,
    float64,
    generator,
    pair,
    require_one_encoder,
    signed_root,
    tiles,
)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the kernel distance over all pairs, with the kernel (x.y / dim + 1)^3; on Inception features: KID.

    The distance is unbiased at any number of images, so it can be negative if two sets are alike. Time grows with (n + m)^2
    dim; memory is constant, since the kernel is summed in tiles. Other software often prints the mean over 100 overlapping
    subsets of 1,000 images, which estimates the same number with more noise. The spread over such subsets is not a
    confidence interval, since subsets share images. See `kernel_distance_estimate` for a standard error, and `KernelBlocks`
    for more images than pairs allow.

    Example:
      >>> import numpy as np
      >>> x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
      >>> kernel_distance(x, y)  # k(0, 1) + k(1, 2) - 2 * mean(k(0, 1), k(0, 2), k(1, 1), k(1, 2))
      9.5

    Args:
      x: features `[n, dim]`, n at least 2.
      y: features `[m, dim]`, m at least 2.

    Returns:
      mean k(x, x') + mean k(y, y') - 2 mean k(x, y), no row against itself, in float64.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Binkowski et al., `Demystifying MMD GANs <https://arxiv.org/abs/1801.01401>`_, 2018
    """
    return _sums(*pair(x, y, "A kernel distance", 2)).value


def kernel_distance_estimate(x: np.ndarray, y: np.ndarray) -> DistanceEstimate:
    """Returns `kernel_distance` with its standard error over draws of images, by the jackknife over single images.

    Example:
      >>> import numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 4))
      >>> value, error, _ = kernel_distance_estimate(x, y + 1)
      >>> bool(value > 5 * error > 0)
      True

    Args:
      x: features `[n, dim]`, n at least 3.
      y: features `[m, dim]`, m at least 3.

    Returns:
      The distance and its standard error, which is too large rather than too small where the two sets are alike.

    Raises:
      ValueError: as by `kernel_distance`.

    References:
      Efron & Stein, `The Jackknife Estimate of Variance <https://doi.org/10.1214/aos/1176345462>`_, 1981
    """
    sums = _sums(*pair(x, y, "A standard error of a kernel distance", 3))
    # The jackknife variance of either side; the two sides are independent draws, so that their variances add.
    variance = sum(len(without) * without.var() * (1 - 1 / len(without)) for without in (sums.without_x, sums.without_y))
    return DistanceEstimate(sums.value, float(np.sqrt(variance)))


class _Sums(NamedTuple):
    """Sums of the kernel for each image: over the other images of its set, and over the other set."""

    x: np.ndarray
    y: np.ndarray
    x_to_y: np.ndarray
    y_to_x: np.ndarray

    @property
    def value(self) -> float:
        """Returns the kernel distance."""
        n = len(self.x)
        m = len(self.y)
        within = self.x.sum() / (n * (n - 1)) + self.y.sum() / (m * (m - 1))
        return float(within - 2 * self.x_to_y.sum() / (n * m))

    @property
    def without_x(self) -> np.ndarray:
        """Returns the distance without each image of x `[n]`, up to a constant."""
        n = len(self.x)
        m = len(self.y)
        within = (self.x.sum() - 2 * self.x) / ((n - 1) * (n - 2))
        return within - 2 * (self.x_to_y.sum() - self.x_to_y) / ((n - 1) * m)

    @property
    def without_y(self) -> np.ndarray:
        """Returns the distance without each image of y `[m]`, up to a constant."""
        return _Sums(self.y, self.x, self.y_to_x, self.x_to_y).without_x


def _sums(x: np.ndarray, y: np.ndarray) -> _Sums:
    kernel = Cubic.near(x)
    # One centre for all three sums: the parts that the kernel omits cancel only then.
    return _Sums(sums_within(x, kernel), sums_within(y, kernel), *sums_between(x, y, kernel))


@dataclasses.dataclass(frozen=True, eq=False)
class KernelBlocks(Stored):
    """Kernel distances of disjoint blocks of images: unbiased, in linear time, and mergeable over hosts.

    No small sketch holds the whole kernel distance: the cubic kernel is an inner product of (dim + 3 choose 3) features, which
    are 76 million at 768 dimensions. Blocks are independent, so that the spread of their distances gives a valid standard
    error. The mean is unbiased only if every block, and thus every host's part, is a random draw of its set: distribute images
    to hosts at random or in turn, never class by class.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 1000, 4))
      >>> hosts = [KernelBlocks.of(x[i::2], y[i::2] + 1, key=jax.random.key(i), size=100) for i in range(2)]
      >>> value, error, _ = hosts[0].merge(hosts[1]).estimate
      >>> bool(abs(value - kernel_distance(x, y + 1)) < 3 * error)
      True

    Attributes:
      blocks: number of blocks.
      mean: mean of the kernel distances of the blocks.
      scatter: sum of the squared deviations from the mean.
      size: images of each side in a block.
      encoder: name or fingerprint of the encoder.

    References:
      Zaremba et al., `B-tests: Low Variance Kernel Two-Sample Tests <https://arxiv.org/abs/1307.1954>`_, 2013
    """

    blocks: int
    mean: float
    scatter: float
    size: int
    encoder: str = ""

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, *, key: jax.Array, size: int = 1000, encoder: str = "") -> "KernelBlocks":
        """Returns the blocks of two arrays `[n, dim]` and `[m, dim]`, in random order by the key. The smaller
        array determines the number of blocks.

        Raises:
          ValueError: not one block can be filled, shapes do not fit, or features are not finite.
        """
        if size < 2:
            raise ValueError(f"A block of a kernel distance needs at least 2 images a side, not {size}.")
        x, y = pair(x, y, f"A kernel distance in blocks of {size}", size)
        random = generator(key)
        orders = [random.permutation(len(each)) for each in (x, y)]
        # Images beyond the last whole block are not used: a smaller block would have another variance.
        rows = [slice(start, start + size) for start in range(0, min(len(x), len(y)) - size + 1, size)]
        values = np.array([_sums(x[orders[0][each]], y[orders[1][each]]).value for each in rows])
        return cls(len(values), float(values.mean()), float(np.square(values - values.mean()).sum()), size, encoder)

    def merge(self, other: "KernelBlocks") -> "KernelBlocks":
        """Returns the blocks of both sketches together."""
        require_one_encoder(self.encoder, other.encoder)
        if self.size != other.size:
            raise ValueError(f"Kernel distances in blocks of {self.size} and of {other.size} images cannot be merged.")
        blocks = self.blocks + other.blocks
        difference = other.mean - self.mean
        mean = self.mean + difference * other.blocks / blocks
        # Pooled mean and scatter by Chan, Golub and LeVeque: no list of block values is kept.
        scatter = self.scatter + other.scatter + difference**2 * self.blocks * other.blocks / blocks
        return KernelBlocks(blocks, mean, scatter, self.size, self.encoder)

    @property
    def estimate(self) -> DistanceEstimate:
        """Returns the kernel distance and its standard error over draws of images, which needs at least two blocks."""
        if self.blocks < 2:
            return DistanceEstimate(self.mean)
        return DistanceEstimate(self.mean, float(np.sqrt(self.scatter / (self.blocks - 1) / self.blocks)))


class Kernel(Protocol):
    def prepare(self, block: np.ndarray) -> np.ndarray:
        """Returns rows `[n, dim]` in the form that the kernel takes, once for each block."""

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns the values `[n, m]` of the kernel between prepared rows."""


def sums_between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums of the kernel of each row of x over y `[n]`, and of each row of y over x `[m]`."""
    of_x = np.zeros(len(x))
    of_y = np.zeros(len(y))
    for rows in tiles(len(x)):
        left = kernel.prepare(float64(x, rows))
        for columns in tiles(len(y)):
            values = kernel(left, kernel.prepare(float64(y, columns)))
            of_x[rows] += values.sum(axis=1)
            of_y[columns] += values.sum(axis=0)
    return of_x, of_y


def sums_within(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Returns the sum of the kernel of each row over all other rows `[n]`, without the row itself."""
    sums = np.zeros(len(x))
    parts = tiles(len(x))
    for place, rows in enumerate(parts):
        left = kernel.prepare(float64(x, rows))
        values = kernel(left, left)
        # An image against itself would bias the estimate upwards.
        np.fill_diagonal(values, 0.0)
        sums[rows] += values.sum(axis=1)
        # The kernel is symmetric: every pair of tiles is computed once, and counts for the rows of both.
        for columns in parts[place + 1 :]:
            values = kernel(left, kernel.prepare(float64(x, columns)))
            sums[rows] += values.sum(axis=1)
            sums[columns] += values.sum(axis=0)
    return sums


@dataclasses.dataclass(frozen=True)
class Cubic:
    """Kernel (x.y / dim + 1)^3 of the kernel distance, without a part that depends on x alone and one that depends on y alone.

    These parts cancel in every distance between mixtures. Far from the origin they are nearly all of the kernel, and the digits
    of the rest would be lost in them. With x and y less a centre c, s = |c|^2 / dim + 1, t = x.y / dim and
    w = t + c.x / dim + c.y / dim, the kernel is (s + w)^3, of which 3 s^2 t + 3 s w^2 + w^3 is kept.
    """

    centre: np.ndarray

    @classmethod
    def near(cls, x: np.ndarray) -> "Cubic":
        """Returns the kernel around the mean of some of these rows."""
        # Some rows suffice: the distances are the same around any centre, up to rounding.
        return cls(float64(x, slice(0, 1024)).mean(axis=0))

    def prepare(self, block: np.ndarray) -> np.ndarray:
        rows = block - self.centre
        # The root on each side divides their product by the number of dimensions.
        rows *= len(self.centre) ** -0.5
        return rows

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        direction = self.centre * len(self.centre) ** -0.5
        s = direction @ direction + 1.0
        values = x @ y.T
        of_x = x @ direction
        of_y = y @ direction
        # A few rows at a time stay in the processor's cache.
        for rows in tiles(len(x), 8):
            w = values[rows] + of_x[rows, None]
            w += of_y
            values[rows] *= 3 * s**2
            values[rows] += w * w * (w + 3 * s)
        return values


def kernel_distances_of_parts(
    x: np.ndarray, y: np.ndarray, parts_x: np.ndarray, parts_y: np.ndarray, kernel: Kernel | None = None
) -> np.ndarray:
    """Returns `kernel_distance` of parts of two sets, x[parts_x[k]] and y[parts_y[k]] for each k, up to rounding.

    Parts that share images share the values of the kernel. The twenty draws of a shift index take a fifth of their time.

    Example:
      >>> import numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 6, 4))
      >>> parts = np.array([[0, 1, 2], [3, 4, 5], [0, 2, 4]])
      >>> values = kernel_distances_of_parts(x, y, parts, parts[::-1])
      >>> bool(np.allclose(values, [kernel_distance(x[a], y[b]) for a, b in zip(parts, parts[::-1])]))
      True

    Args:
      x, y: features `[n, dim]` and `[m, dim]`.
      parts_x, parts_y: rows of each part, int64 `[parts, size]`, different rows in one part, and at least 2.
      kernel: another kernel; None: the cubic one.
    """
    x, of_x = _used(x, parts_x)
    y, of_y = _used(y, parts_y)
    # One centre for all sums, as in `_sums`.
    kernel = kernel or Cubic.near(x)
    n = parts_x.shape[1]
    m = parts_y.shape[1]
    within = _within_parts(x, of_x, kernel) / (n * (n - 1)) + _within_parts(y, of_y, kernel) / (m * (m - 1))
    between = np.zeros(len(parts_x))
    for rows in tiles(len(x)):
        left = kernel.prepare(float64(x, rows))
        for columns in tiles(len(y)):
            between += _sums_of_parts(of_x[rows], kernel(left, kernel.prepare(float64(y, columns))), of_y[columns])
    return within - 2 * between / (n * m)


def kernel_spreads(x: np.ndarray, parts: np.ndarray, kernel: Kernel | None = None) -> np.ndarray:
    """Returns the mean squared kernel distance between two different images of each part of a set `[parts]`.

    The kernel distance between single images x and y is k(x, x) + k(y, y) - 2 k(x, y).

    Example:
      >>> import numpy as np
      >>> x, parts = np.array([[0.0], [1.0], [2.0]]), np.array([[0, 1], [1, 2]])
      >>> kernel_spreads(x, parts).round(9).tolist()  # k(0, 0) + k(1, 1) - 2 k(0, 1), and so on
      [7.0, 79.0]

    Args:
      x: features `[n, dim]`.
      parts: rows of each part, int64 `[parts, size]`, different rows in one part, and at least 2.
      kernel: another kernel; None: the cubic one.
    """
    x, members = _used(x, parts)
    kernel = kernel or Cubic.near(x)
    size = parts.shape[1]
    return 2 * (_diagonal(x, kernel) @ members / size - _within_parts(x, members, kernel) / (size * (size - 1)))


def _diagonal(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Returns the kernel of each row with itself `[n]`."""
    values = np.empty(len(x))
    # Tiles of a few rows: all but the diagonal of a tile is computed in vain.
    for rows in tiles(len(x), 16):
        block = kernel.prepare(float64(x, rows))
        values[rows] = np.diagonal(kernel(block, block))
    return values


def _used(x: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that occur in a part, and whether each is in each part, 0 or 1 in float64 `[rows, parts]`."""
    members = np.zeros((len(x), len(parts)))
    members[parts, np.arange(len(parts))[:, None]] = 1.0
    used = np.flatnonzero(members.any(axis=1))
    return x[used], members[used]


def _within_parts(x: np.ndarray, members: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Returns the sum of the kernel over all pairs of different rows of each part `[parts]`."""
    sums = np.zeros(members.shape[1])
    places = tiles(len(x))
    for place, rows in enumerate(places):
        left = kernel.prepare(float64(x, rows))
        values = kernel(left, left)
        np.fill_diagonal(values, 0.0)
        sums += _sums_of_parts(members[rows], values, members[rows])
        for columns in places[place + 1 :]:
            values = kernel(left, kernel.prepare(float64(x, columns)))
            sums += 2 * _sums_of_parts(members[rows], values, members[columns])
    return sums


def _sums_of_parts(rows: np.ndarray, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the sum of a tile's values over the rows and columns that belong to each part `[parts]`."""
    return np.einsum("ip,ip->p", rows, values @ columns)


def kernel_root(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the root of the kernel distance, a squared distance, with the sign of the kernel distance.

    An estimate of the squared distance below 0 gives a root below 0. The root is linear in a mixture: a source half of whose
    images are from elsewhere is half as far away.

    Args:
      x, y: features `[n, dim]`, at least 2 rows each.

    References:
      Gretton et al., `A Kernel Two-Sample Test <https://jmlr.org/papers/v13/gretton12a.html>`_, 2012
    """
    return signed_root(kernel_distance(x, y))


KERNEL = Distance(
    "kernel (KID)",
    2,
    "unbiased at any number of images, and so below 0 at times where two sets are alike; squared: halfway is a quarter",
    lambda key, pool: kernel_distance,
    unbiased=True,
    of_parts=kernel_distances_of_parts,
    spread=lambda key, pool: kernel_spreads,
)
KERNEL_ROOT = Distance(
    "root of kernel (MMD)",
    2,
    "the root of KID with its sign: halfway is half; near 0 a small change of the images moves it much",
    lambda key, pool: kernel_root,
    # Tables do not repeat it, since it is the distance of the index.
    beside=False,
    squared=lambda key, pool: kernel_distance,
    unbiased=True,
    of_parts=kernel_distances_of_parts,
    spread=lambda key, pool: kernel_spreads,
)
